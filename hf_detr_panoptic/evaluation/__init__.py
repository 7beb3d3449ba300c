"""How good a model is: panoptic quality, average precision, and where it goes wrong."""

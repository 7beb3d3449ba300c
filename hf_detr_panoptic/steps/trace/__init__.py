"""`hf-detr-panoptic trace`: one photo through one model, as a story."""

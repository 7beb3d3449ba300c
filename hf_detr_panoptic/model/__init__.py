"""DETR with a panoptic head: the stock parameters, exact and fast."""

"""`hf-detr-panoptic predict`: which photos, and what is written for each."""

"""`hf-detr-panoptic report`: what the page of a dataset and of a run says; `visual` makes HTML of it."""

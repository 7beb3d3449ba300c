"""`hf-detr-panoptic demo`: its photos and marks, its parts in order, its figures and pictures."""

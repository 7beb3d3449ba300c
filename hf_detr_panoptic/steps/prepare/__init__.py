"""`hf-detr-panoptic prepare`: what is given, what an earlier run left, labeling, writing, the report."""

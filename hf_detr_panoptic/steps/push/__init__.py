"""`hf-detr-panoptic push`, also as it trains, and the pictures on the card."""

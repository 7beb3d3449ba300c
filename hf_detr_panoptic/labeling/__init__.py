"""From photos and marks to a dataset."""

"""Datasets: on disk, in memory, and as batches of tensors."""

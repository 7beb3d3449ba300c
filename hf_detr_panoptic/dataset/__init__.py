"""A dataset on disk, what is wrong with it, and the way from there to tensors."""

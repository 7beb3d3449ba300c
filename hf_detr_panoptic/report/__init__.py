"""A dataset or a run as one HTML file."""

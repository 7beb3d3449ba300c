"""One photo through one model, as a story."""

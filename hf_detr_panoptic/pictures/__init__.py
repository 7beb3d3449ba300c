"""Looking at photos and their maps."""

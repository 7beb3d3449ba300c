"""Three stages, from one recipe."""

"""To the Hub and back: cards, the endpoint handler, push, the Space."""

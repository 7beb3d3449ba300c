"""The `evaluate` module: this folder alone is enough for `evaluate.load`, and is what goes to the Hub."""

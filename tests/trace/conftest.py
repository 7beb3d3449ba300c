"""The tiny models of the model's own tests, and their pixels."""

from __future__ import annotations

from model.conftest import pixels, stock_model, tiny_config

__all__ = ["pixels", "stock_model", "tiny_config"]

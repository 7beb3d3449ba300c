"""Of what types a run's records are, as far as a card reads them; what is absent or null may be so."""

from __future__ import annotations

from typing import Any

NUMBER = (int, float)
_EACH = "*"  # whatever the key

_QUALITY = dict.fromkeys(("pq", "sq", "rq", "n"), NUMBER)
_PRECISION = {group: {"ap": NUMBER} for group in ("all", "things", "stuff")}
METRICS = {
    "final": {
        **_QUALITY,
        "things": _QUALITY,
        "stuff": _QUALITY,
        "sources": {_EACH: _QUALITY},
        "per_class": [{**_QUALITY, "name": str}],
        "box": _PRECISION,
        "mask": _PRECISION,
    }
}
ENVIRONMENT: dict[str, Any] = {"processes": NUMBER, "earlier": [{}]}
STAGE_END = dict.fromkeys(("best", "best_epoch", "steps", "seconds", "peak_memory_mb"), NUMBER)
CONFIG = {"hf_detr_panoptic": {"threshold": NUMBER}}
PREPARED = {"settings": {"threshold": NUMBER}}


def mistyped(found: Any, wanted: Any, key: str = "it") -> str | None:
    """What is of another type than `wanted`: a type or several, a mapping of keys, or a list of one for all items."""
    if found is None:
        return None
    kinds: Any = dict if isinstance(wanted, dict) else list if isinstance(wanted, list) else wanted
    if not isinstance(found, kinds) or isinstance(found, bool):
        said = repr(found)
        return f"{key} is {said if len(said) <= 40 else said[:39] + '…'}"
    parts: list[tuple[Any, Any, str]] = []
    if isinstance(wanted, dict):
        names = found if _EACH in wanted else wanted
        parts = [(found.get(name), wanted[_EACH if _EACH in wanted else name], str(name)) for name in names]
    elif isinstance(wanted, list):
        parts = [(item, wanted[0], key) for item in found]
    return next((wrong for part in parts if (wrong := mistyped(*part))), None)

"""Words that are said in many places: how many, how long, what share, and what is left of a long list."""

from __future__ import annotations

import math
from collections.abc import Iterable


def count_of(number: int, noun: str, plural: str | None = None) -> str:
    """1 photo, 1,204 photos, 2 classes."""
    several = plural or (f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s")
    return f"{number:,} {noun if number == 1 else several}"


def is_text(words: str) -> bool:
    """Whether it can be written: half a surrogate pair, or a byte of a name that is no UTF-8, cannot."""
    try:
        words.encode()
    except UnicodeEncodeError:
        return False
    return True


def are(number: int) -> str:
    return "is" if number == 1 else "are"


def and_more(names: Iterable[object], most: int = 8) -> str:
    """a, b, c and 4 more."""
    listed = [str(name) for name in names]
    rest = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + rest


def first_lines(lines: Iterable[str], most: int, rest: str = "more") -> list[str]:
    """The first lines of a list, and "… and 4 more" where there are others."""
    listed = list(lines)
    return listed[:most] + ([f"… and {len(listed) - most:,} {rest}"] if len(listed) > most else [])


def percent(fraction: float | None, unknown: str = "n/a") -> str:
    """0.1234 as 12.3, without the sign; `unknown` for what was not measured."""
    return unknown if fraction is None else f"{100 * fraction:.1f}"


def duration(seconds: float) -> str:
    """2 h 05 min, 3 min 20 s, 41 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def clock(seconds: float) -> str:
    """2:05:09, as a progress line has it; "?" where nobody can say."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"

"""The gallery: cards whose pictures are held as text and become images only near the window."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, chain, repeat

from .report_html import Html, join, tag
from .report_values import Card, Thumbnail

AT_ONCE = 12  # cards whose pictures are there without a script, and on paper
_NUMBERS = "Numbers on a picture stand for classes, as in the list below it."


def gallery(cards: Sequence[Card], names: Sequence[str], order: str) -> Html:
    """`names`: the classes, by label; `order`: what the first card is first in."""
    if not cards:
        return tag("p", "There is no photo to show.", class_="quiet")
    used = Counter(label for card in cards for label in set(card.labels))
    parts = Counter(card.part for card in cards)
    kinds = Counter(kind for card in cards for kind in set(card.kinds))
    choices: list[Html] = []
    if len(used) > 1:
        listed = sorted(used, key=lambda label: names[label].casefold())
        choices.append(_choice("class", "Class", [(str(label), names[label], used[label]) for label in listed]))
    if len(parts) > 1:
        choices.append(_choice("part", "Split", [(name, name, count) for name, count in parts.items()]))
    if kinds:
        choices.append(_choice("kind", "Reason", [(name, name, count) for name, count in kinds.most_common()]))
    said = tag("output", f"{len(cards):,} photos", id="shown", aria_live="polite")
    paper = tag("p", f"On paper: the first {AT_ONCE} of those that are chosen on the screen.", class_="paper")
    script = tag(
        "p", f"Without scripts only the first {AT_ONCE} photos have pictures.", class_="quiet", id="scriptless"
    )
    places = accumulate((len(card.thumbnails) for card in cards[AT_ONCE:]), initial=0)
    firsts = chain(repeat(None, min(AT_ONCE, len(cards))), places)
    items = [_card(place, card, names, first) for place, (card, first) in enumerate(zip(cards, firsts, strict=False))]
    return join(
        tag("form", choices, said, class_="choices", id="choices"),
        tag("p", f"{order} {_NUMBERS}", class_="quiet"),
        script,
        paper if len(cards) > AT_ONCE else None,
        tag("ol", items, class_="cards", id="cards",
            style=f"--card:{_width(cards)}rem;--on-paper:{2 if _width(cards) < 32 else 1}"),
        tag("dialog", tag("div", id="large"), tag("button", "Close", id="close", type="button"), id="viewer",
            aria_label="Photo, enlarged"),
    )  # fmt: skip


def store(cards: Sequence[Card]) -> Html:
    """The pictures of the cards that come later, a line each: one block of text is what a browser reads fastest."""
    later = [
        f"{thumbnail.kind};base64,{_text(thumbnail)}" for card in cards[AT_ONCE:] for thumbnail in card.thumbnails
    ]
    return tag("script", Html("\n".join(later)), type="text/plain", id="store")


def _choice(name: str, title: str, options: Sequence[tuple[str, str, int]]) -> Html:
    listed = [tag("option", "all", value="")]
    listed += [tag("option", f"{text} ({count})", value=value) for value, text, count in options]
    return tag("label", f"{title} ", tag("select", listed, name=name, autocomplete="off"))


def _card(place: int, card: Card, names: Sequence[str], first: int | None) -> Html:
    """`first`: the line of its first picture in the store."""
    pictures = [
        _picture(thumbnail, card.title, None if first is None else first + turn)
        for turn, thumbnail in enumerate(card.thumbnails)
    ]
    labels = sorted(set(card.labels))
    heading = tag(
        "h3",
        tag("bdi", card.title),
        tag("small", " · ".join(filter(None, (card.part, card.figure)))),
    )
    reasons = tag("ul", [tag("li", reason) for reason in card.reasons], class_="reasons") if card.reasons else None
    # Numbered as the pictures do, where a name has no room.
    named = [
        [", " if turn else None, tag("b", label + 1), Html("&nbsp;"), names[label]]
        for turn, label in enumerate(labels)
    ]
    classes = tag("p", named or "no segment", class_="quiet names")
    opener = tag("button", pictures, type="button", class_="pictures", aria_label=f"Enlarge {card.title}")
    return tag(
        "li",
        opener if pictures else tag("p", "no picture: the photo cannot be read", class_="quiet"),
        heading,
        reasons,
        classes,
        class_="card",
        id=f"photo-{place + 1}",
        data_class=" ".join(map(str, labels)),
        data_part=card.part,
        data_kind="|".join(card.kinds) or None,
    )


def _picture(thumbnail: Thumbnail, title: str, at: int | None) -> Html:
    """`at`: its line in the store; None for a picture that is here at once."""
    width, height = thumbnail.size
    image = tag(
        "img",
        src=None if at is not None else f"data:image/{thumbnail.kind};base64,{_text(thumbnail)}",
        data_at=at,
        width=width,
        height=height,
        alt=f"{thumbnail.caption}: {title}",
        decoding="async",
    )
    return tag("span", image, tag("span", thumbnail.caption, class_="caption"), class_="picture")


def _text(thumbnail: Thumbnail) -> str:
    return base64.b64encode(thumbnail.content).decode("ascii")


def _width(cards: Sequence[Card]) -> int:
    """Of a card, in letters' heights: enough for its pictures side by side."""
    return {1: 17, 2: 24}.get(max(len(card.thumbnails) for card in cards), 32)

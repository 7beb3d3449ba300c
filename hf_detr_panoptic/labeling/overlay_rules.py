"""The rules of the overlay: what may be chosen, and what is chosen where nobody says. See `overlay.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import RecipeError, did_you_mean

COLLISIONS = ("smaller", "file", "fail")
BOXES = ("refine", "rectangle", "skip")


@dataclass(frozen=True)
class OverlayRules:
    """What happens where the person and the labeler disagree.

    Where the defaults come from, by `benchmarks/overlay_rules.py`: PQ of the merged maps is flat for a `leakage` from
    0.4 to 0.6; less takes out more lies, and more that was right. Of rectangles with a `box_fit` below 0.5 the
    rectangle itself is about as near to the object as the best segment. A `min_area` up to 256 makes little
    difference. `threshold` is DETR's own: the experiment makes its scores up, so it cannot choose one.

    threshold: auto segments that the labeler is less sure of become void; 0 believes all.
    leakage: an auto thing with at least this share of its pixels under the marks is the marked object by another name:
        it goes, and what is left of it becomes void. None turns the rule off. An IoU test beside it would add
        nothing, for an IoU of t with one mark implies a share of t.
    leaky: classes of the auto map that are treated so piece by piece, each that reaches a mark of at least its own
        size: for maps that were merged before, where nobody can tell any more what the labeler saw under the marks.
    min_area: pieces of fewer pixels that the marks cut off an auto thing become void, and so does an auto stuff
        segment of which they leave less. 0 keeps all.
    priority: names of marks, the first lies on top. It decides before `collisions` does.
    collisions: what lies on top where marks overlap: the "smaller" one, of equal ones the later in the file; the later
        in the "file"; or "fail" where `min_area` pixels or more overlap (neighbours always share a few).
    boxes: a mark that is only a rectangle is "refine"d to the auto segment that fits it, taken as a "rectangle", or
        "skip"ped.
    box_fit: the least IoU of a segment's tight box and the rectangle that it refines. Below, the rectangle stays.
    """

    threshold: float = 0.85
    leakage: float | None = 0.5
    leaky: Sequence[str] = ()
    min_area: int = 64
    priority: Sequence[str] = ()
    collisions: str = "smaller"
    boxes: str = "refine"
    box_fit: float = 0.5

    def __post_init__(self) -> None:
        for what, word, known in (("collisions", self.collisions, COLLISIONS), ("boxes", self.boxes, BOXES)):
            if word not in known:
                raise RecipeError(f"{what} cannot be {word!r}", fix=did_you_mean(word, known))
        for what, share in (("threshold", self.threshold), ("leakage", self.leakage), ("box_fit", self.box_fit)):
            if share is not None and not 0.0 <= share <= 1.0:
                raise RecipeError(f"{what} is {share}", fix="Give a share from 0 to 1.")
        if self.leakage == 0.0:
            raise RecipeError("leakage of 0 would void every auto thing", fix="Write null to turn the rule off.")
        if self.min_area < 0:
            raise RecipeError(f"min_area is {self.min_area}", fix="Give a number of pixels; 0 keeps every piece.")
        for what, names in (("leaky", self.leaky), ("priority", self.priority)):
            if isinstance(names, str):
                raise RecipeError(f"{what} is the text {names!r}, not a list of names", fix=f"Write [{names}].")
            object.__setattr__(self, what, tuple(names))

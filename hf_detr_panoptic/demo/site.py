"""What is on the synthetic site, and which of it the teacher knows.

COCO's own names wherever COCO has one. It has none for 'traffic cone' and 'ladder': the teacher knows them all the
same, as a stand-in for the many things of COCO that a site has and the person does not mark.
"""

from __future__ import annotations

from ..labels import Category, LabelSpace

_COCO = {category.name: category for category in LabelSpace.coco()}


def _known(name: str) -> Category:
    coco = _COCO[name]
    return Category(name, coco.isthing, coco.color, "auto", coco.supercategory)


TEACHER = LabelSpace(
    [
        *(_known(name) for name in ("person", "car", "truck")),
        Category("traffic cone", True, (255, 122, 0), "auto", "outdoor"),
        Category("ladder", True, (250, 230, 90), "auto", "outdoor"),
        *(
            _known(f"{name}-merged")
            for name in ("sky-other", "building-other", "tree", "fence", "dirt", "pavement", "grass")
        ),
    ]
)
"""What the teacher was trained on: five things, seven kinds of stuff."""

CUSTOM = LabelSpace(
    [
        Category("brick stack", True, (200, 60, 30), "custom", "material"),
        Category("pipe", True, (30, 140, 220), "custom", "material"),
        Category("rebar bundle", True, (130, 60, 150), "custom", "material"),
        Category("cement bag", True, (240, 200, 160), "custom", "material"),
    ]
)
"""What the person marks, and the teacher has never seen."""

SITE = LabelSpace([*TEACHER, *CUSTOM])
"""All of it. The teacher's classes come first: their labels are the same in both spaces."""

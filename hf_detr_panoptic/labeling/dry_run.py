"""What `prepare` would do, and what is in the folder: nothing is loaded, nothing is written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import HfDetrPanopticError
from ..labels import LabelSpace
from ..settings import Prepare
from ..text import and_more, count_of
from ..tiles import count_of_tiles
from .inputs import Earlier, as_files, label_space, mark_counts, read_inputs, survey
from .prepare import below_a_pixel, lost_marks, public_name, remarks_on, split_photos

_MOST = 10  # problems


def dry_run(settings: Prepare) -> Iterator[str]:
    """What is there, where that is not clear, and what would happen: photos, classes, sides, the first problems."""
    from ..annotations.folder import contents_of

    given = settings.annotations or settings.images
    apart = settings.annotations is not None and settings.images != settings.annotations
    try:
        with tempfile.TemporaryDirectory() as folder:
            text = _plan(as_files(settings, folder=Path(folder)))
    except HfDetrPanopticError:
        if given.exists():
            images = settings.images if apart and settings.images.is_dir() else None
            yield f"{contents_of(given, settings.out, settings.values, images)}\n"
        raise
    if settings.annotations is None and given.is_dir():
        contents = contents_of(given, settings.out, settings.values)
        if contents.marked:
            yield f"{contents}\n\nas it was typed, without --annotations:"
    yield text


def _plan(settings: Prepare) -> str:
    from .labeler import labeler_space

    inputs = read_inputs(settings)
    earlier = Earlier.of(settings.folder)
    photos, unreadable = survey(settings.images, inputs.names)
    labeler = labeler_space(settings.labeler, settings.labeler_stuff) or LabelSpace([])
    _, space = label_space(settings, labeler, inputs.custom)
    lines = [
        inputs.description,
        f"{count_of(len(photos), 'photo')} would be labelled by {public_name(settings.labeler)}",
    ]
    if inputs.unannotated and settings.annotations is not None:
        lines.append(
            f"{count_of(len(inputs.unannotated), 'photo')} without annotation, {inputs.unannotated[0]} first: "
            + _FATES[settings.unannotated]
        )
    if settings.tile is not None:
        tiles = sum(count_of_tiles(photo.size, settings.tile, settings.overlap) for photo in photos)
        lines.append(f"cut into {count_of(tiles, 'tile')} of {settings.tile} pixels; the rest of this counts photos")
    counts = mark_counts(inputs)
    lines.append(f"{count_of(len(space), 'class')}, {len(inputs.custom)} of them yours:")
    for name in inputs.custom:
        kind = "thing" if space[space.index(name)].isthing else "stuff"
        lines.append(f"  {name}: {kind}, {count_of(counts[name], 'mark')}")
    if any(space[space.index(name)].isthing for name in inputs.custom):
        lines.append("  (--stuff A,B makes classes stuff: what has no instances, such as a road)")
    auto = [category for category in space if category.name not in inputs.custom]
    things = [category.name for category in auto if category.isthing]
    stuff = [category.name for category in auto if not category.isthing]
    lines += [f"  and of the labeler {len(things)} things: {and_more(things)}"] if things else []
    lines += [f"  and of the labeler {len(stuff)} stuff: {and_more(stuff)}"] if stuff else []
    lost = below_a_pixel(settings, inputs, photos)
    if photos:
        lines += ["", "split: " + str(split_photos(settings, inputs, photos, earlier.shared_out, lost).report)]
    lines += remarks_on(settings, inputs, labeler)
    problems = [*inputs.problems, *unreadable, *lost_marks(settings, lost)]
    if problems:
        lines += ["", f"{count_of(len(problems), 'problem')}, the first:"]
        lines += [f"  {problem}" for problem in problems[:_MOST]]
    return "\n".join([*lines, "", "nothing was written; without --dry-run it will be"])


_FATES = {
    "skip": "left out (--unannotated learn, or auto)",
    "auto": "taken as the labeler sees them",
    "learn": "learnt from as the labeler sees them, and never validated",
}

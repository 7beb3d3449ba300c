"""Pictures side by side, each under its title; a prediction against the truth as one picture."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ..errors import ImageError
from ..panoptic_map import PanopticMap
from .draw import DARK, WHITE, Color, Pixels, Wanted, inscribed_points, legible, one_line, place_labels, stamp, words


def panels(
    pictures: Sequence[Image.Image], titles: Sequence[str] | None = None, columns: int | None = None
) -> Image.Image:
    """One picture of several: in one row, or in rows of `columns`; each column is as wide as its widest picture.

    `titles`: one a picture ("" for none).
    """
    if not pictures:
        raise ImageError("there is no picture to show", fix="Give at least one.")
    if titles is not None and len(titles) != len(pictures):
        raise ImageError(f"{len(titles)} titles for {len(pictures)} pictures", fix="Give one a picture, or none.")
    across = min(columns or len(pictures), len(pictures))
    widths = [max(picture.width for picture in pictures[start::across]) for start in range(across)]
    size = max(11, round(max(widths) / 36))
    gap = max(4, size // 2)
    heads = [
        None if not title else words(one_line(title, max(8, 2 * width // size)), size, DARK, WHITE)
        for title, width in zip(titles or [""] * len(pictures), widths * len(pictures), strict=False)
    ]
    tall = max((head.shape[0] + gap // 2 for head in heads if head is not None), default=0)
    rows = [range(start, min(start + across, len(pictures))) for start in range(0, len(pictures), across)]
    heights = [max(pictures[index].height for index in row) + tall for row in rows]
    canvas = np.full((sum(heights) + gap * (len(rows) + 1), sum(widths) + gap * (across + 1), 3), 255, dtype=np.uint8)
    y = gap
    for row, height in zip(rows, heights, strict=True):
        x = gap
        for index, width in zip(row, widths, strict=False):
            head = heads[index]
            if head is not None:
                stamp(canvas[:, : x + width], head, x, y)
            stamp(canvas, np.asarray(pictures[index].convert("RGB")), x, y + tall)
            x += width + gap
        y += height + gap
    return Image.fromarray(canvas)


RIGHT, UNKNOWN, OUTLINE, MISSED, INVENTED, WRONG = range(6)

# Okabe and Ito's colours, and a pattern each: told apart by any eye, and in print.
FAULTS: dict[int, tuple[str, Color, str]] = {
    MISSED: ("missed", (0, 114, 178), "/"),
    INVENTED: ("invented", (213, 94, 0), "."),
    WRONG: ("wrong class", (170, 51, 119), "x"),
    OUTLINE: ("outline differs", (240, 228, 66), "-"),
}


def difference(
    photo: Image.Image,
    truth: PanopticMap,
    prediction: PanopticMap,
    matched: Mapping[int, int],
    excused: Collection[int] = (),
    letters: int | None = None,
) -> Image.Image:
    """The photo in grey, and over it the faults, each with its colour, its pattern and the class it is about.

    matched: id in the truth → id in the prediction; excused: ids in the prediction that lie on what nobody knows.
    What is right stays grey; void and crowds of the truth are darker. `letters`: as of `draw`.
    """
    if not photo.size == (truth.width, truth.height) == (prediction.width, prediction.height):
        raise ImageError(
            f"photo, truth and prediction are {photo.width}×{photo.height}, {truth.width}×{truth.height} and "
            f"{prediction.width}×{prediction.height}",
            fix="Bring them to one size first.",
        )
    true_ids, true_indices = np.unique(truth.ids, return_inverse=True)
    predicted_ids, predicted_indices = np.unique(prediction.ids, return_inverse=True)
    true_indices, predicted_indices = (own.reshape(truth.ids.shape) for own in (true_indices, predicted_indices))
    table = np.array(
        [
            [_fault(truth, prediction, t, p, matched, frozenset(excused)) for p in predicted_ids.tolist()]
            for t in true_ids.tolist()
        ],
        dtype=np.uint8,
    )
    kinds = table[true_indices, predicted_indices]
    pixels = np.array(ImageOps.autocontrast(photo.convert("L"), cutoff=1).convert("RGB"))
    pixels = (pixels.astype(np.float32) * 0.45 + 120).astype(np.uint8)
    pixels[kinds == UNKNOWN] = pixels[kinds == UNKNOWN] // 2
    size = max(10, round(max(photo.size) / 40))
    for kind, (_, color, pattern) in FAULTS.items():
        _fill(pixels, kinds == kind, color, pattern, max(5, size // 2))
    size = letters or size
    _name(pixels, kinds, true_indices, predicted_indices, (true_ids, predicted_ids), truth, prediction, size)
    return Image.fromarray(pixels)


def _fault(
    truth: PanopticMap,
    prediction: PanopticMap,
    true_id: int,
    predicted_id: int,
    matched: Mapping[int, int],
    excused: frozenset[int],
) -> int:
    if true_id == 0 or (truth.segment(true_id).crowd and true_id not in matched):
        return UNKNOWN
    label = None if predicted_id == 0 else prediction.segment(predicted_id).label
    same = truth.segment(true_id).label == label
    invented = predicted_id != 0 and predicted_id not in excused and predicted_id not in matched.values()
    if true_id in matched:
        if matched[true_id] == predicted_id:
            return RIGHT if same else WRONG
        return INVENTED if invented and not same else OUTLINE
    if invented:
        return OUTLINE if same else WRONG
    return MISSED


def _fill(pixels: Pixels, mask: npt.NDArray[np.bool_], color: Color, pattern: str, period: int) -> None:
    """Half the colour everywhere, all of it along the pattern."""
    if not mask.any():
        return
    y, x = np.nonzero(mask)
    thick = max(1, period // 3)
    drawn = {
        "/": (x + y) % period < thick,
        ".": ((x % period < thick + 1) & (y % period < thick + 1)),
        "x": ((x + y) % period < thick) | ((x - y) % period < thick),
        "-": y % period < thick,
    }[pattern]
    solid = np.array(color, dtype=np.float32)
    strength = np.where(drawn, 1.0, 0.5)[:, None]
    pixels[y, x] = (pixels[y, x] * (1 - strength) + solid * strength).astype(np.uint8)


def _name(
    pixels: Pixels,
    kinds: npt.NDArray[np.uint8],
    true_indices: npt.NDArray[np.intp],
    predicted_indices: npt.NDArray[np.intp],
    ids: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]],
    truth: PanopticMap,
    prediction: PanopticMap,
    size: int,
) -> None:
    """Each fault's class at its widest place, where there is room: true, predicted, or "true > predicted"."""
    # A fault is known by its kind and by the segments that it is about.
    about_true, about_predicted = np.isin(kinds, (MISSED, WRONG)), np.isin(kinds, (INVENTED, WRONG))
    keys = np.where(about_true, true_indices + 1, 0).astype(np.int64) * (len(ids[1]) + 1)
    keys += np.where(about_predicted, predicted_indices + 1, 0)
    faults, numbers = np.unique(keys, return_inverse=True)
    numbers = numbers.reshape(keys.shape)
    if faults[0] != 0:  # nothing is right: no pixel has the key 0
        faults, numbers = np.append(0, faults), numbers + 1
    if len(faults) == 1:
        return
    points, radii = inscribed_points(numbers.astype(np.uint32), len(faults) - 1)
    areas = np.bincount(numbers.reshape(-1), minlength=len(faults))[1:]
    wanted = []
    for turn in np.argsort(-radii, kind="stable").tolist():
        true_number, predicted_number = divmod(int(faults[turn + 1]), len(ids[1]) + 1)
        names = []
        if true_number:
            names.append(_class_name(truth, ids[0][true_number - 1]))
        if predicted_number:
            names.append(_class_name(prediction, ids[1][predicted_number - 1]))
        text = " > ".join(names)
        if legible(text):
            point = (int(points[turn, 0]), int(points[turn, 1]))
            wanted.append(Wanted(point, float(radii[turn]) * 1.5, int(areas[turn]), [(text, size)]))
    for placed in place_labels(wanted, pixels.shape[1], pixels.shape[0]):
        stamp(pixels, placed.plate, placed.x, placed.y)


def _class_name(panoptic: PanopticMap, segment_id: int) -> str:
    return one_line(panoptic.space[panoptic.segment(int(segment_id)).label].name, 18)

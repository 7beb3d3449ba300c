"""The seven moves of a traced photo, told: tables and pictures of each."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ...dataset.photos import shrunk
from ...errors import LabelError, did_you_mean
from ...model.traced_shapes import MOVES
from ...panoptic_map import PanopticMap
from ...pictures.draw import draw, inscribed_points
from ...visual import trace as pictures
from ...visual.trace_page import Picture, Section, Table

if TYPE_CHECKING:
    from ...model.trace import Trace, TracedImage
    from ...model.traced_shapes import Shape, TracedShape
    from ...panoptic_map import Segment
    from ...settings import Postprocess

_SHOWN = 4  # segments, unless others are asked for
_MASKS = 19  # kept masks side by side, beside the map
_SMALLEST, _LARGEST = 640, 1000  # the final map's longer side


def shape_table(trace: Trace, move: int | None = None) -> Table:
    """The traced shapes, of one move or of all; of a batch, each tensor's whole shape too."""
    columns: dict[str, Callable[[TracedShape], str]] = {
        "move": lambda row: str(row.move),
        "what": lambda row: row.what,
        "one image": lambda row: shape(row.one_image),
        "pixels a cell": lambda row: "" if row.stride is None else f"{row.stride}×{row.stride}",
        "whole tensor": lambda row: shape(row.tensor),
        "module": lambda row: row.module,
        "tells": lambda row: row.tells,
    }
    if move is not None:
        del columns["move"]
    if len(trace.images) == 1:
        del columns["whole tensor"]
    rows = [[cell(row) for cell in columns.values()] for row in trace.shapes if move in (None, row.move)]
    kept_whole = [place for place, name in enumerate(columns) if name in ("one image", "whole tensor", "module")]
    return Table(tuple(columns), rows, shapes=kept_whole)


def work_table(trace: Trace) -> Table:
    """Stock's mask head beside ours."""
    rows = [(work.module, shape(work.stock), shape(work.ours), work.tells) for work in trace.work]
    return Table(("module", "stock computes", "segment computes", "how often"), rows, shapes=(0, 1, 2))


def shape(sizes: Shape | None) -> str:
    """(256, 28, 34)"""
    return "not called" if sizes is None else f"({', '.join(map(str, sizes))})"


def difference_in_words(trace: Trace) -> str:
    """How far apart the kept masks of the two ways are; there must be some."""
    largest = max(float(np.abs(image.masks[list(image.kept)]).max()) for image in trace.images if image.kept)
    return (
        f"The kept masks of the two ways differ by at most {trace.difference:.1g}, where logits reach {largest:.1f}."
    )


def chosen_queries(image: TracedImage, wanted: Sequence[str] | None) -> list[int]:
    """The queries to show: of the segments that were asked for by number or class, else of a few large ones.

    Where no query passed, the surest.
    """
    made = dict(zip(image.map.segments, image.queries, strict=True))
    if wanted:
        return list(dict.fromkeys(query for word in wanted for query in _queries_of(word, image.map, made)))
    if not made:
        return np.argsort(-image.scores, kind="stable")[:_SHOWN].tolist()
    areas = image.map.areas()
    by_size = sorted(made, key=lambda segment: -areas[segment.id])
    largest = {segment.label: segment.id for segment in reversed(by_size)}
    by_size.sort(key=lambda segment: segment.id != largest[segment.label])  # one of each class before a second one
    things = [made[segment] for segment in by_size if image.map.space[segment.label].isthing]
    stuff = [made[segment] for segment in by_size if not image.map.space[segment.label].isthing]
    mixed = itertools.chain.from_iterable(itertools.zip_longest(things, stuff))
    return [query for query in mixed if query is not None][:_SHOWN]


def story(trace: Trace, photo: Image.Image, wanted: Sequence[str] | None = None) -> list[Section]:
    """The sections of the page, of a trace of one photo."""
    (image,) = trace.images
    queries = chosen_queries(image, wanted)
    traced = [_traced(image, query) for query in queries]
    final = draw(*_of_a_size(photo, image.map))
    drawn = [
        [Picture("trace-levels.png", _png(pictures.levels_picture(photo, _levels(image))), _LEVELS_SHOW)],
        [Picture("trace-self-attention.png", _png(_self_attention(photo, image, queries)), _SELF_ATTENTION_SHOWS)],
        [Picture("trace-boxes.png", _png(_boxes(photo, image, queries)), _BOXES_SHOW)],
        [Picture("trace-attention.png", _png(pictures.attention_picture(photo, traced)), _ATTENTION_SHOWS)],
        [Picture("trace-growth.png", _png(pictures.growth_picture(photo, traced)), _GROWTH_SHOWS)],
        [
            Picture("trace-scores.png", _png(_scores(trace, image)), _SCORES_SHOW),
            Picture("trace-masks.png", _png(_masks(photo, image, final)), _MASKS_SHOW),
        ],
        [Picture("trace-map.png", _png(final), "The panoptic map on the photo.")],
    ]
    moves = [
        Section(f"Move {number}: {title.lower()}", text, [shape_table(trace, number)], drawn[number - 1])
        for (number, title), text in zip(enumerate(MOVES, start=1), _texts(trace, image), strict=True)
    ]
    moves[-1] = Section(moves[-1].title, moves[-1].text, [*moves[-1].tables, _segments(image)], moves[-1].pictures)
    return [*moves, Section("What segment computes instead", _work_text(trace, image), [work_table(trace)])]


_LEVELS_SHOW = (
    "The photo and what each level makes of it, in false colours: within one map, cells of like colour hold like "
    "features. Colours of two maps cannot be compared."
)
_SELF_ATTENTION_SHOWS = (
    "Where the ringed cell looks in the encoder's last layer: bright is much. Its heads are averaged, and the photo "
    "is grey behind."
)
_BOXES_SHOW = "The box of each query, read from its vector as its class is. The mask head is not told about it."
_SCORES_SHOW = (
    "The probability of each query's best class. Blue queries count; grey ones are dropped, and their masks with them."
)
_ATTENTION_SHOWS = (
    "Of each query its mask, the attention of the decoder's last layer, and then the mask head's own attention, head "
    "by head on one scale: the shares in the titles add up to 100 %. The line is the mask's border."
)
_GROWTH_SHOWS = (
    "Of each query: the attention summed over heads, the mean over channels after each step of the mask head, the "
    "logits (orange above 0, blue below, white between), and the mask on the photo."
)
_MASKS_SHOW = (
    "The kept masks' logits, each by itself (orange above 0, blue below, white between), and the map in which the "
    "highest won each pixel."
)


def _texts(trace: Trace, image: TracedImage) -> list[list[str]]:
    """What happens in each move, with this trace's own sizes."""
    by_name = {row.what: row for row in trace.shapes}
    channels, height, width = by_name["memory"].one_image
    queries, heads = by_name["attention"].one_image[:2]
    fused = shape(by_name["input"].one_image)
    low, high = by_name["projected"].stride, by_name["masks"].stride
    settings = trace.settings
    canvas = f"{trace.canvas[0]}×{trace.canvas[1]}"
    nothing = [] if image.kept else ["No query passed. The pictures show the surest ones."]
    return [
        [
            f"The photo enters as {canvas} pixels. A convolutional network, the backbone, makes maps of it at "
            f"{len(image.levels)} levels. The last one goes on to the transformer; three others wait for "
            "the mask head."
        ],
        [
            f"A 1×1 convolution brings Res5 to d = {channels} channels. The encoder takes its {height}·{width} = "
            f"{height * width} cells as a list of words and lets each look at all others. What leaves the encoder is "
            "the encoded image: neither the photo nor the backbone's map. Positions are added to queries and keys in "
            "every layer, never to what is passed on.",
        ],
        [
            f"{queries} learned vectors, the object queries, are the same for every photo. The decoder lets them look "
            "at each other and at the encoded image. What comes out are the box embeddings: the class, the box and "
            "the mask of a query are all read from its one vector.",
        ],
        [
            f"The mask head has an attention of its own, after the decoder is done: each box embedding is compared "
            f"with each cell of the encoded image, in {heads} heads, and one softmax runs over all {heads}·{height}·"
            f"{width} = {heads * height * width} places of a query. Nothing is summed up with these weights: the "
            "weights themselves are the maps.",
        ],
        [
            f"The {heads} maps of a query are laid beside the projected Res5 (move 2), {channels} + {heads} = "
            f"{by_name['input'].one_image[1]} channels: {fused}. It is not the encoder's output that lies there. This "
            "is the only concatenation. Res4, Res3 and Res2 each pass a 1×1 convolution that brings them to as many "
            "channels as have come up from below, and are added. "
            f"So the grid grows from 1/{low} to 1/{high} of the photo, and the channels become fewer: one a query.",
        ],
        [
            f"A query counts when its best class is surer than {settings.threshold:g}, and is a class, not “no "
            f"object”. Stock DETR computes all {queries} masks first, and then drops those of the other queries.",
            *nothing,
        ],
        [
            "The kept masks are enlarged to the photo. A pixel goes to the mask with the highest logit there"
            + (
                f", if that one is surer than {settings.mask_threshold:g}; else it stays void."
                if settings.fill == "void"
                else "."
            )
            + _alone(settings)
            + " Masks of the same stuff are one segment. Only here do masks get to know each other.",
        ],
    ]


def _alone(settings: Postprocess) -> str:
    """Which masks that count still do not become segments."""
    rules = ""
    if settings.duplicate < 1:
        rules += f" Of two things of a class whose masks have an IoU above {settings.duplicate:g} the surer stays."
    if settings.min_area > 0:
        rules += f" Segments of fewer than {settings.min_area} pixels give way to the next best mask."
    return rules


def _work_text(trace: Trace, image: TracedImage) -> list[str]:
    kept, queries = len(image.kept), len(image.scores)
    text = (
        f"Nothing in the mask head mixes queries. So model.segment runs the detector first and computes masks for the "
        f"{kept} kept of {queries} queries only, does once an image what does not depend on the query, and uses a "
        "backbone whose frozen batch norm is folded into the convolutions."
    )
    if trace.difference is None:
        return [text + " Here nothing was kept, so no mask is computed at all."]
    return [f"{text} {difference_in_words(trace)}"]


def _queries_of(word: str, map: PanopticMap, made: dict[Segment, int]) -> list[int]:
    by_id = {str(segment.id): query for segment, query in made.items()}
    if word in by_id:
        return [by_id[word]]
    found = [query for segment, query in made.items() if map.space[segment.label].name == word]
    if not found:
        names = dict.fromkeys(map.space[segment.label].name for segment in made)
        raise LabelError(
            f"the map has no segment {word!r}",
            fix=did_you_mean(word, [*names, *by_id]) if made else "No query passed: try a lower --threshold.",
        )
    return found


def _title(image: TracedImage, query: int) -> str:
    name = image.map.space[image.labels[query]].name
    return pictures.query_title(query, name, float(image.scores[query]))


def _traced(image: TracedImage, query: int) -> pictures.Traced:
    steps = [(name, maps[query]) for name, maps in image.growth]
    title = _title(image, query)
    return pictures.Traced(title, image.cross_attention[query], image.attention[query], steps, image.masks[query])


def _levels(image: TracedImage) -> list[tuple[str, pictures.Grid]]:
    levels = [(f"Res{number}", features) for number, features in enumerate(image.levels, start=2)]
    named = [*levels, ("projected", image.projected), ("memory", image.memory)]
    return [(f"{name}  {' x '.join(map(str, features.shape))}", features) for name, features in named]


def _self_attention(photo: Image.Image, image: TracedImage, queries: Sequence[int]) -> Image.Image:
    """A point within each chosen segment; the middle where there is none."""
    places = np.zeros(image.map.ids.shape, dtype=np.uint32)
    names = []
    for segment, query in zip(image.map.segments, image.queries, strict=True):
        if query in queries:
            names.append(image.map.space[segment.label].name)
            places[image.map.mask(segment.id)] = len(names)
    spots = inscribed_points(places, len(names))[0].tolist() if names else [[photo.width // 2, photo.height // 2]]
    height, width = image.memory.shape[-2:]
    points = []
    for (x, y), name in zip(spots, names or ["the middle"], strict=True):
        row, column = int(y * height / image.map.height), int(x * width / image.map.width)
        spot = ((column + 0.5) / width, (row + 0.5) / height)
        points.append((f"from {name}", spot, image.self_attention[row, column]))
    return pictures.self_attention_picture(photo, points)


def _of_a_size(photo: Image.Image, map: PanopticMap) -> tuple[Image.Image, PanopticMap]:
    """Large enough for labels, small enough for a page."""
    times = _SMALLEST // max(photo.size)
    if times < 2:
        return shrunk(photo, map, _LARGEST)
    larger = photo.resize((times * photo.width, times * photo.height), Image.Resampling.BICUBIC)
    return larger, PanopticMap(np.kron(map.ids, np.ones((times, times), dtype=np.int32)), map.segments, map.space)


def _boxes(photo: Image.Image, image: TracedImage, queries: Sequence[int]) -> Image.Image:
    named = [(_title(image, query), image.boxes[query]) for query in queries]
    return pictures.boxes_picture(photo, named)


def _scores(trace: Trace, image: TracedImage) -> Image.Image:
    return pictures.scores_picture(image.scores, image.kept, trace.settings.threshold)


def _masks(photo: Image.Image, image: TracedImage, final: Image.Image) -> Image.Image:
    surest = sorted(image.kept, key=lambda query: -image.scores[query])[:_MASKS]
    named = [(_title(image, query), image.masks[query]) for query in surest]
    picture = final.crop((0, 0, final.width, round(final.width * photo.height / photo.width)))  # without its legend
    return pictures.masks_picture(photo, named, picture)


def _segments(image: TracedImage) -> Table:
    areas, boxes, space = image.map.areas(), image.map.boxes(), image.map.space
    rows = [
        (
            str(segment.id),
            space[segment.label].name,
            "thing" if space[segment.label].isthing else "stuff",
            str(query),
            f"{segment.score:.3f}",
            str(areas[segment.id]),
            shape(boxes[segment.id]),
        )
        for segment, query in zip(image.map.segments, image.queries, strict=True)
    ]
    rows.append(("0", "void", "", "", "", str(image.map.void_area), ""))
    return Table(("segment", "class", "kind", "query", "score", "pixels", "x, y, width, height"), rows, shapes=(6,))


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()

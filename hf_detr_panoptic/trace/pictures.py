"""The seven moves of a traced photo as a story: texts, tables, and maps from inside the model as pictures.

A grid [h, w] of any size covers all of the photo. Cells are drawn as cells, so that one sees how coarse a map is.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ..dataset.photos import shrunk
from ..errors import LabelError, did_you_mean
from ..panoptic_map import PanopticMap
from ..pictures.draw import (
    CUSTOM,
    DARK,
    GREY,
    MODEL,
    WHITE,
    Color,
    Pixels,
    draw,
    inscribed_points,
    one_line,
    paint_contours,
    stamp,
    words,
)
from ..pictures.panels import panels
from .trace import MOVES

if TYPE_CHECKING:
    from ..panoptic_map import Segment
    from ..settings import Postprocess
    from .trace import Sizes, Trace, TracedImage, TracedShape

Grid = npt.NDArray[np.floating[Any]]

# Dark to light, so that grey print shows the order too; and two colours that part at a white zero.
_HEAT: tuple[Color, ...] = (
    (14, 16, 44),
    (58, 36, 116),
    (130, 40, 124),
    (204, 66, 86),
    (246, 136, 48),
    (255, 236, 150),
)
_SIGNED: tuple[Color, ...] = ((24, 62, 140), (120, 164, 214), (255, 255, 255), (240, 164, 92), (168, 64, 10))
_SIDE = 230  # the longer side of one picture among several
_BAR: Color = (36, 104, 176)
_PALE: Color = (186, 192, 200)
_LINE: Color = (200, 60, 20)
_SHOWN = 4  # segments, unless others are asked for
_MASKS = 19  # kept masks side by side, beside the map
_SMALLEST, _LARGEST = 640, 1000  # the final map's longer side


@dataclass(frozen=True)
class Table:
    """`shapes`: the columns that hold shapes and module names, kept on one line."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    shapes: Sequence[int] = ()


@dataclass(frozen=True)
class Picture:
    """A PNG, the name of its file, and what it shows."""

    name: str
    png: bytes
    shows: str


@dataclass(frozen=True)
class Section:
    """A heading with text, tables and pictures under it, in this order."""

    title: str
    text: Sequence[str]
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True)
class Traced:
    """One query on its way: maps over the photo.

    cross: [h, w], where the decoder looked; heads: [M, h, w], the mask head's attention; steps: (title, [h, w]) of the
    mask head in order; logits: [h, w].
    """

    title: str
    cross: Grid
    heads: Grid
    steps: Sequence[tuple[str, Grid]]
    logits: Grid


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
    kept_whole = [index for index, name in enumerate(columns) if name in ("one image", "whole tensor", "module")]
    return Table(tuple(columns), rows, shapes=kept_whole)


def work_table(trace: Trace) -> Table:
    """Stock's mask head beside ours."""
    rows = [(work.module, shape(work.stock), shape(work.ours), work.tells) for work in trace.work]
    return Table(("module", "stock computes", "segment computes", "how often"), rows, shapes=(0, 1, 2))


def shape(sizes: Sizes | None) -> str:
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
        [Picture("trace-levels.png", _png(levels_picture(photo, _levels(image))), _LEVELS_SHOW)],
        [Picture("trace-self-attention.png", _png(_self_attention(photo, image, queries)), _SELF_ATTENTION_SHOWS)],
        [Picture("trace-boxes.png", _png(_boxes(photo, image, queries)), _BOXES_SHOW)],
        [Picture("trace-attention.png", _png(attention_picture(photo, traced)), _ATTENTION_SHOWS)],
        [Picture("trace-growth.png", _png(growth_picture(photo, traced)), _GROWTH_SHOWS)],
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


def _queries_of(word: str, panoptic: PanopticMap, made: dict[Segment, int]) -> list[int]:
    by_id = {str(segment.id): query for segment, query in made.items()}
    if word in by_id:
        return [by_id[word]]
    queries = [query for segment, query in made.items() if panoptic.space[segment.label].name == word]
    if not queries:
        names = dict.fromkeys(panoptic.space[segment.label].name for segment in made)
        raise LabelError(
            f"the map has no segment {word!r}",
            fix=did_you_mean(word, [*names, *by_id]) if made else "No query passed: try a lower --threshold.",
        )
    return queries


def _title(image: TracedImage, query: int) -> str:
    name = image.map.space[image.labels[query]].name
    return query_title(query, name, float(image.scores[query]))


def _traced(image: TracedImage, query: int) -> Traced:
    steps = [(name, maps[query]) for name, maps in image.growth]
    title = _title(image, query)
    return Traced(title, image.cross_attention[query], image.attention[query], steps, image.masks[query])


def _levels(image: TracedImage) -> list[tuple[str, Grid]]:
    levels = [(f"Res{number}", features) for number, features in enumerate(image.levels, start=2)]
    named = [*levels, ("projected", image.projected), ("memory", image.memory)]
    return [(f"{name}  {' x '.join(map(str, features.shape))}", features) for name, features in named]


def _self_attention(photo: Image.Image, image: TracedImage, queries: Sequence[int]) -> Image.Image:
    """A point within each chosen segment; the middle where there is none."""
    numbers = np.zeros(image.map.ids.shape, dtype=np.uint32)
    names = []
    for segment, query in zip(image.map.segments, image.queries, strict=True):
        if query in queries:
            names.append(image.map.space[segment.label].name)
            numbers[image.map.mask(segment.id)] = len(names)
    spots = inscribed_points(numbers, len(names))[0].tolist() if names else [[photo.width // 2, photo.height // 2]]
    height, width = image.memory.shape[-2:]
    points = []
    for (x, y), name in zip(spots, names or ["the middle"], strict=True):
        row, column = int(y * height / image.map.height), int(x * width / image.map.width)
        spot = ((column + 0.5) / width, (row + 0.5) / height)
        points.append((f"from {name}", spot, image.self_attention[row, column]))
    return self_attention_picture(photo, points)


def _of_a_size(photo: Image.Image, panoptic: PanopticMap) -> tuple[Image.Image, PanopticMap]:
    """Large enough for labels, small enough for a page."""
    times = _SMALLEST // max(photo.size)
    if times < 2:
        return shrunk(photo, panoptic, _LARGEST)
    larger = photo.resize((times * photo.width, times * photo.height), Image.Resampling.BICUBIC)
    return larger, PanopticMap(
        np.kron(panoptic.ids, np.ones((times, times), dtype=np.int32)), panoptic.segments, panoptic.space
    )


def _boxes(photo: Image.Image, image: TracedImage, queries: Sequence[int]) -> Image.Image:
    named = [(_title(image, query), image.boxes[query]) for query in queries]
    return boxes_picture(photo, named)


def _scores(trace: Trace, image: TracedImage) -> Image.Image:
    return scores_picture(image.scores, image.kept, trace.settings.threshold)


def _masks(photo: Image.Image, image: TracedImage, final: Image.Image) -> Image.Image:
    surest = sorted(image.kept, key=lambda query: -image.scores[query])[:_MASKS]
    named = [(_title(image, query), image.masks[query]) for query in surest]
    picture = final.crop((0, 0, final.width, round(final.width * photo.height / photo.width)))  # without its legend
    return masks_picture(photo, named, picture)


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


# --- pictures of plain arrays


def levels_picture(photo: Image.Image, levels: Sequence[tuple[str, Grid]], columns: int = 4) -> Image.Image:
    """The photo, then feature maps [C, h, w] in false colour: like colours are like features, within one map."""
    size = _tile(photo, _SIDE)
    tiles = [_small(photo, size), *(_cells(false_color(features), size) for _, features in levels)]
    return panels(tiles, ["the photo", *(title for title, _ in levels)], columns=columns)


def self_attention_picture(photo: Image.Image, points: Sequence[tuple[str, tuple[float, float], Grid]]) -> Image.Image:
    """Of each point (title, (x, y) as shares of the photo, [h, w]) where its cell looks; a ring marks the point."""
    size = _tile(photo, _SIDE)
    tiles = []
    for _, (x, y), grid in points:
        tile = heat(photo, grid, size)
        _ring(tile, x * size[0], y * size[1])
        tiles.append(tile)
    return panels(tiles, [title for title, _, _ in points], columns=min(4, len(points)))


def attention_picture(photo: Image.Image, queries: Sequence[Traced]) -> Image.Image:
    """Two rows a query: its mask on the photo, the decoder's attention, then each head of the mask head's attention.

    The heads of a query share one scale, because they share one softmax; a title says how much of it a head holds.
    The mask's border is drawn on all of them.
    """
    size = _tile(photo, 180)
    tiles, titles = [], []
    for query in queries:
        highest = max(float(query.heads.max()), 1e-12)
        mask = query.logits > 0
        tiles.append(outlined(photo, mask, size))
        tiles.append(_bordered(query.cross / max(float(query.cross.max()), 1e-12), mask, size))
        titles += [query.title, "decoder"]
        for number, head in enumerate(query.heads, start=1):
            tiles.append(_bordered(head / highest, mask, size))
            titles.append(f"head {number}: {head.sum() / query.heads.sum():.0%}")
        if len(query.heads) % 2:
            tiles.append(Image.new("RGB", size, WHITE))
            titles.append("")
    return panels(tiles, titles, columns=len(tiles) // len(queries) // 2)


def growth_picture(photo: Image.Image, queries: Sequence[Traced]) -> Image.Image:
    """A row a query: attention, each step of the mask head, the logits, and the mask on the photo."""
    size = _tile(photo, 132)
    tiles, titles = [], []
    for query in queries:
        total = query.heads.sum(0)
        tiles.append(_colored(total / max(float(total.max()), 1e-12), size, _HEAT))
        titles.append(f"attention {_grid(total)}")
        for title, grid in query.steps:
            tiles.append(_colored(_stretched(grid), size, _HEAT))
            titles.append(f"{title} {_grid(grid)}")
        tiles += [_colored(_signed(query.logits), size, _SIGNED), outlined(photo, query.logits > 0, size)]
        titles += [f"logits {_grid(query.logits)}", query.title]
    return panels(tiles, titles, columns=len(tiles) // len(queries))


def masks_picture(
    photo: Image.Image, masks: Sequence[tuple[str, Grid]], final: Image.Image, columns: int = 5
) -> Image.Image:
    """Mask logits (title, [h, w]) side by side, each by itself; last the map in which the highest won each pixel."""
    size = _tile(photo, 200)
    tiles = [_colored(_signed(logits), size, _SIGNED) for _, logits in masks]
    titles = [title for title, _ in masks]
    return panels([*tiles, _small(final, size)], [*titles, "pixel by pixel the highest"], columns=columns)


def boxes_picture(photo: Image.Image, boxes: Sequence[tuple[str, Grid]]) -> Image.Image:
    """Each query's box (title, centre x, y, width, height as shares of the photo) on a photo of its own."""
    size = _tile(photo, _SIDE)
    tiles = []
    for _, (x, y, width, height) in boxes:
        tile = _small(photo, size)
        draw = ImageDraw.Draw(tile)
        left, right = (share * size[0] for share in (x - width / 2, x + width / 2))
        upper, lower = (share * size[1] for share in (y - height / 2, y + height / 2))
        for color, line in ((DARK, 4), (WHITE, 2)):
            draw.rectangle((left, upper, right, lower), outline=color, width=line)
        tiles.append(tile)
    return panels(tiles, [title for title, _ in boxes], columns=min(4, len(boxes)))


def scores_picture(scores: npt.ArrayLike, kept: Sequence[int], threshold: float, width: int = 760) -> Image.Image:
    """A bar a query, the surest first: dark where it was kept, with the threshold as a line."""
    values = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    size, height, left, top = 13, 180, 44, 34
    floor = top + height
    canvas = np.full((floor + 2 * size + 6, width, 3), 255, dtype=np.uint8)
    step = (width - left - 10) / max(1, len(order))
    wanted = set(kept)
    for index, query in enumerate(order.tolist()):
        x0, x1 = round(left + index * step), round(left + (index + 1) * step) - (step > 3)
        upper = floor - max(1, round(height * values[query]))
        canvas[upper:floor, x0 : max(x1, x0 + 1)] = _BAR if query in wanted else _PALE
    canvas[floor, left:] = DARK
    line = floor - round(height * threshold)
    canvas[line : line + 2, left:] = _LINE
    for value in (0.0, 0.5, 1.0):
        stamp(canvas, words(f"{value:.1f}", size, GREY, WHITE), 8, floor - round(height * value) - size // 2 - 3)
    title = f"{len(wanted)} of {len(order)} queries pass the threshold of {threshold:g}"
    stamp(canvas, words(title, size, _LINE, WHITE), left, 4)
    stamp(canvas, words("queries, the surest first", size, GREY, WHITE), left, floor + 4)
    return Image.fromarray(canvas)


def heat(photo: Image.Image, grid: Grid, size: tuple[int, int]) -> Image.Image:
    """A map of what is 0 or more, over the photo in grey."""
    colored = _colored(grid / max(float(grid.max()), 1e-12), size, _HEAT)
    grey = _small(photo, size).convert("L").convert("RGB")
    return Image.blend(grey, colored, 0.72)


def outlined(photo: Image.Image, mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    """The photo, dimmed where the mask is not, with the mask's border."""
    inside = _inside(mask, size)
    pixels = np.array(_small(photo, size))
    pixels[~inside] = pixels[~inside] // 3 + 20
    paint_contours(pixels, inside.astype(np.uint8), np.array([MODEL, MODEL], dtype=np.uint8), 1)
    return Image.fromarray(pixels)


def _bordered(shares: Grid, mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    """Shares [h, w] from 0 to 1 as colours, with the mask's border in white beside dark."""
    pixels = np.array(_colored(shares, size, _HEAT))
    paint_contours(pixels, _inside(mask, size).astype(np.uint8), np.array([CUSTOM, CUSTOM], dtype=np.uint8), 1)
    return Image.fromarray(pixels)


def _inside(mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    inside: npt.NDArray[np.bool_] = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    return inside


def false_color(features: Grid) -> Pixels:
    """[C, h, w] → uint8 [h, w, 3]: the three directions in which the cells differ most, as red, green and blue."""
    channels, height, width = features.shape
    cells = features.reshape(channels, -1).T.astype(np.float64)
    cells = cells - cells.mean(0)
    # A few rounds of power iteration: a full decomposition of 2048 channels would take seconds.
    axes = np.random.default_rng(0).normal(size=(channels, min(3, channels)))
    for _ in range(12):
        axes, _ = np.linalg.qr(cells.T @ (cells @ axes))
    # By falling variance, and a sign that does not hang on chance: red is where the strongest cell is.
    parts = cells @ axes
    parts = parts[:, np.argsort(-parts.var(0), kind="stable")]
    parts *= np.where(parts.max(0) >= -parts.min(0), 1.0, -1.0)
    low, high = np.percentile(parts, (1, 99), axis=0)
    shares = ((parts - low) / np.maximum(high - low, 1e-12)).clip(0, 1)
    pixels = np.zeros((height * width, 3), dtype=np.uint8)
    pixels[:, : shares.shape[1]] = np.rint(30 + 215 * shares)
    return pixels.reshape(height, width, 3)


def _stretched(grid: Grid) -> Grid:
    low, high = float(grid.min()), float(grid.max())
    stretched: Grid = (grid - low) / max(high - low, 1e-12)
    return stretched


def _signed(grid: Grid) -> Grid:
    """0 at the middle of the scale, where the colour turns: a border of the mask. Each side has its own range."""
    above, below = grid[grid > 0], -grid[grid < 0]
    most, least = (float(np.percentile(side, 98)) if side.size else 1.0 for side in (above, below))
    signed: Grid = np.where(grid > 0, grid / most, grid / least).clip(-1, 1) / 2 + 0.5
    return signed


def _colored(shares: Grid, size: tuple[int, int], anchors: Sequence[Color]) -> Image.Image:
    """Shares [h, w] from 0 to 1 on a scale of colours."""
    stops = np.linspace(0, 1, len(anchors))
    channels = [np.interp(shares, stops, [anchor[channel] for anchor in anchors]) for channel in range(3)]
    return _cells(np.rint(np.stack(channels, -1)).astype(np.uint8), size)


def _cells(pixels: Pixels, size: tuple[int, int]) -> Image.Image:
    """Small maps as squares; larger ones than the picture are averaged."""
    larger = pixels.shape[1] > size[0]
    return Image.fromarray(pixels).resize(size, Image.Resampling.BOX if larger else Image.Resampling.NEAREST)


def _ring(tile: Image.Image, x: float, y: float) -> None:
    draw = ImageDraw.Draw(tile)
    for radius, color, width in ((9, DARK, 5), (8, WHITE, 2)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=color, width=width)


def _tile(photo: Image.Image, longest: int) -> tuple[int, int]:
    scale = longest / max(photo.size)
    return max(1, round(photo.width * scale)), max(1, round(photo.height * scale))


def _small(photo: Image.Image, size: tuple[int, int]) -> Image.Image:
    return photo.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _grid(grid: Grid) -> str:
    return f"{grid.shape[-2]}x{grid.shape[-1]}"


def query_title(query: int, name: str, score: float) -> str:
    """How a query is called in all pictures."""
    return f"{query}: {score:.2f} {one_line(name, 13)}"  # a narrow tile cuts off the name's end

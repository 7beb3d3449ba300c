"""Synthetic photos of a construction site with their full panoptic truth, each a function of (seed, index)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from ..labels import Category, LabelSpace
from ..panoptic_map import PanopticMap, Segment
from . import backdrop, things
from . import things as materials
from .backdrop import air, crop, ground_texture, lens_and_sensor, sky, tile
from .view import OUTLINE_ONLY, Colour, Sketch, View

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


FINE = 2
"""Strokes are painted on a canvas this many times as wide, then averaged."""
MIN_SHARE = 0.005
"""The smallest segment, as a share of the picture: 246 pixels of 256 × 192."""

SKY = "sky-other-merged"
STUFF = frozenset(category.name for category in SITE if not category.isthing)
GROUNDS: dict[str, tuple[Colour, ...]] = {
    "dirt-merged": ((150, 122, 90), (134, 104, 76), (168, 144, 112), (142, 120, 100)),
    "pavement-merged": ((140, 140, 140), (112, 112, 116), (168, 164, 156)),
    "grass-merged": ((104, 126, 60), (88, 116, 56), (132, 136, 76)),
}
GROUND_ROUGHNESS = {"dirt-merged": 30, "pavement-merged": 11, "grass-merged": 34}
"""How strong a surface's texture is, in percent; on the ground it follows the perspective."""
ROUGHNESS = {
    "building-other-merged": 6,
    "tree-merged": 34,
    "fence-merged": 8,
    "brick stack": 14,
    "rebar bundle": 20,
    "cement bag": 9,
    "pipe": 7,
    "person": 7,
    "car": 3,
    "truck": 3,
}

Maker = Callable[[View, np.random.Generator, float, float], Sketch]


@dataclass(frozen=True)
class Kind:
    """How many of one class a scene gets, how far away at most, and how much room each takes (metres)."""

    make: Maker
    weights: Sequence[float]
    far: float
    room: float


COMMON = (
    Kind(things.truck, (0.5, 0.42, 0.08), 16, 3.2),
    Kind(things.car, (0.42, 0.4, 0.18), 12, 2.2),
    Kind(things.person, (0.18, 0.32, 0.28, 0.22), 8, 0.55),
    Kind(things.ladder, (0.5, 0.4, 0.1), 8.5, 0.7),
    Kind(things.cone, (0.4, 0.25, 0.2, 0.15), 5.5, 0.4),
)
MARKED = (
    Kind(materials.rebar_bundle, (0.46, 0.42, 0.12), 8, 1.0),
    Kind(materials.brick_stack, (0.54, 0.34, 0.12), 8, 0.8),
    Kind(materials.pipe, (0.52, 0.36, 0.12), 8, 0.9),
    Kind(materials.cement_bag, (0.54, 0.26, 0.16, 0.04), 5.5, 0.6),
)


@dataclass(frozen=True)
class Light:
    """The sky's colour overhead, how cloudy it is, and how much of the light a shadow takes; both 0 to 1."""

    zenith: Colour
    cover: float
    shadow: float


@dataclass(frozen=True)
class Scene:
    """A photo and what each of its pixels shows."""

    photo: Image.Image
    truth: PanopticMap


def scenes(
    count: int, seed: int, size: tuple[int, int] = (256, 192), custom: bool = True, start: int = 0
) -> Iterator[Scene]:
    """`count` scenes from index `start` on."""
    for index in range(start, start + count):
        yield scene(seed, index, size, custom)


def scene(seed: int, index: int, size: tuple[int, int] = (256, 192), custom: bool = True) -> Scene:
    """One scene; `size` is (width, height).

    Without `custom`, the same place without anything of the person's classes, its truth in the space TEACHER.
    """
    width, height = size
    # One generator a step: what one step draws does not move the others.
    setting, below, behind, common, marked, texture, camera = (
        np.random.default_rng([seed, index, step]) for step in range(7)
    )
    view, light = _setting(setting, width * FINE, height * FINE)
    base, base_colour, patches = _ground(view, below)
    taken: list[tuple[float, float, float]] = []
    standing = _behind(view, behind) + _placed(view, common, COMMON, taken)
    if custom:
        standing += _placed(view, marked, MARKED, taken)
    sketches = patches + sorted(standing, key=lambda sketch: -sketch.depth)
    claims, surfaces, names, sketches = _claims(view, base, sketches)
    paint = _painted(view, sketches, light, base_colour, surfaces, names, texture)
    return Scene(lens_and_sensor(camera, paint), _truth(claims, names, SITE if custom else TEACHER))


def _setting(random: np.random.Generator, width: int, height: int) -> tuple[View, Light]:
    sunny = random.random() < 0.7
    turn = random.uniform(0, 2 * math.pi)
    reach = random.uniform(0.45, 1.5) if sunny else random.uniform(0.05, 0.2)
    grey = random.uniform(0.72, 1.0)
    haze: Colour = (206, 218, 230) if sunny else (214 * grey, 217 * grey, 220 * grey)
    blue = random.uniform(0, 1)
    zenith: Colour = (70 + 50 * blue, 124 + 36 * blue, 190 + 22 * blue)
    if not sunny:
        zenith = (168 * grey, 176 * grey, 186 * grey)
    view = View(
        width,
        height,
        focal=height * random.uniform(0.95, 1.3),
        horizon=height * random.uniform(0.3, 0.46),
        eye=random.uniform(1.9, 3.4),
        shadow=(reach * math.cos(turn), reach * math.sin(turn) * 0.8),
        ambient=random.uniform(0.52, 0.64) if sunny else random.uniform(0.86, 0.94),
        haze=haze,
    )
    cover = random.uniform(0.15, 0.6) if sunny else random.uniform(0.6, 1.0)
    shadow = random.uniform(0.42, 0.58) if sunny else random.uniform(0.22, 0.34)
    return view, Light(zenith, cover, shadow)


def _ground(view: View, random: np.random.Generator) -> tuple[str, Colour, list[Sketch]]:
    """The surface that lies everywhere, its colour, and other surfaces on it."""
    kinds = ["dirt-merged", "pavement-merged", "grass-merged"]
    base = kinds[random.choice(3, p=(0.62, 0.24, 0.14))]
    light = view.ambient * 0.5 + 0.6

    def colour(name: str) -> Colour:
        red, green, blue = GROUNDS[name][random.integers(len(GROUNDS[name]))]
        tone = light * random.uniform(0.9, 1.1)
        return red * tone, green * tone, blue * tone

    own = colour(base)
    patches = [backdrop.tracks(view, random, base, own)] if base != "pavement-merged" and random.random() < 0.6 else []
    for name in kinds:
        if name != base and random.random() < 0.42:
            patches.append(backdrop.ground_patch(view, random, name, colour(name)))
    return base, own, patches


def _behind(view: View, random: np.random.Generator) -> list[Sketch]:
    sketches = []
    if random.random() < 0.68:
        sketches.append(backdrop.tree_line(view, random, random.uniform(45, 80)))
    for _ in range(random.choice(4, p=(0.16, 0.46, 0.28, 0.1))):
        z = random.uniform(22, 48)
        sketches.append(backdrop.building(view, random, random.uniform(-0.9, 0.9) * view.half_width(z), z))
    if random.random() < 0.45:
        sketches.append(backdrop.fence(view, random, random.uniform(14, 24)))
    if random.random() < 0.3:
        z = random.uniform(11, 20)
        sketches.append(backdrop.heap(view, random, random.uniform(-0.9, 0.9) * view.half_width(z), z))
    for _ in range(random.choice(4, p=(0.5, 0.24, 0.16, 0.1))):
        z = random.uniform(16, 34)
        sketches.append(backdrop.tree(view, random, random.uniform(-1, 1) * view.half_width(z), z))
    return sketches


def _placed(
    view: View, random: np.random.Generator, kinds: Sequence[Kind], taken: list[tuple[float, float, float]]
) -> list[Sketch]:
    """Things on free ground; `taken` (x, z, room) grows. Where a few tries find no room, there is one thing less."""
    sketches = []
    for kind in kinds:
        for _ in range(int(random.choice(len(kind.weights), p=kind.weights))):
            for _ in range(6):
                near = view.nearest + kind.room * 0.7
                z = near + (kind.far - near) * random.random() ** 1.3 if kind.far > near else near
                x = random.uniform(-0.88, 0.88) * view.half_width(z)
                if all(math.hypot(x - a, z - b) > (kind.room + room) * 0.8 for a, b, room in taken):
                    taken.append((x, z, kind.room))
                    sketches.append(kind.make(view, random, x, z))
                    break
    return sketches


def _claims(
    view: View, base: str, sketches: list[Sketch]
) -> tuple[Image.Image, Image.Image, dict[int, str], list[Sketch]]:
    """Which segment claims each fine pixel, which one is seen there, their classes, the sketches seen enough.

    Claimed and seen differ between a ladder's rungs.
    """
    least = MIN_SHARE * view.width * view.height * 1.02
    names = {1: SKY, 2: base}
    numbers = {SKY: 1, base: 2}
    owner: list[int] = []
    for sketch in sketches:
        number = len(names) + 1
        if sketch.name in STUFF:
            number = numbers.setdefault(sketch.name, number)
        names.setdefault(number, sketch.name)
        owner.append(number)
    while True:
        claims = _numbered(view, sketches, owner, outlines=True)
        areas = claims.histogram()
        seen = [k for k, number in enumerate(owner) if areas[number] >= least]
        if len(seen) == len(owner):
            break
        sketches, owner = [sketches[k] for k in seen], [owner[k] for k in seen]
    see_through = any(sketch.name == "ladder" for sketch in sketches)
    surfaces = _numbered(view, sketches, owner, outlines=False) if see_through else claims
    return claims, surfaces, names, sketches


def _numbered(view: View, sketches: list[Sketch], numbers: list[int], outlines: bool) -> Image.Image:
    """The number of the sketch on top at each fine pixel: 1 where there is only sky, 2 where only ground."""
    canvas = Image.new("L", (view.width, view.height), 1)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((0, round(view.horizon), view.width, view.height), fill=2)
    for sketch, number in zip(sketches, numbers, strict=True):
        for polygon, colour, solid in sketch.strokes:
            if solid and (outlines or colour is not OUTLINE_ONLY):
                draw.polygon(polygon, fill=number)
    return canvas


def _painted(
    view: View,
    sketches: list[Sketch],
    light: Light,
    base_colour: Colour,
    surfaces: Image.Image,
    names: dict[int, str],
    random: np.random.Generator,
) -> npt.NDArray[np.float32]:
    """float32 [height, width, 3]: flat strokes, then textures, shadows on the ground, haze and clouds."""
    above = view.through_air(light.zenith, 60)
    picture = Image.new("RGB", (view.width, view.height), above)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, round(view.horizon), view.width, view.height), fill=view.through_air(base_colour, 8))
    for sketch in sketches:
        for polygon, colour, _ in sketch.strokes:
            if colour is not OUTLINE_ONLY:
                draw.polygon(polygon, fill=colour)
    paint = np.array(picture.reduce(FINE), np.float32)
    height, width = paint.shape[:2]

    def share(values: Mapping[str, float]) -> npt.NDArray[np.float32]:
        """float32 [height, width]: a number a class, soft along the borders."""
        table = [0] * 256
        for number, name in names.items():
            table[number] = round(values.get(name, 0))
        return np.asarray(surfaces.point(table).reduce(FINE), np.float32)

    lying = share(dict.fromkeys(GROUNDS, 255.0)) * np.float32(1 / 255)
    grain = share({name: 0.6 * depth for name, depth in ROUGHNESS.items()}) * crop(
        tile(5, 0.55), random, height, width
    )
    soil = ground_texture(view, random, height, width)
    grain[-len(soil) :] += share({name: 0.8 * depth for name, depth in GROUND_ROUGHNESS.items()})[-len(soil) :] * soil
    factor = 1 + grain * np.float32(1 / 100)
    factor *= 1 - lying * _shadows(sketches, width, height, light.shadow)
    paint *= factor[:, :, None]
    paint += (lying * air(view, height))[:, :, None] * (np.array(view.haze, np.float32) - paint)
    heaven = sky(view, random, light.zenith, light.cover, height, width)
    share_of_sky = share({SKY: 255.0})[: len(heaven), :, None] * np.float32(1 / 255)
    paint[: len(heaven)] += share_of_sky * (heaven - np.array(above, np.float32))
    return paint


def _shadows(sketches: list[Sketch], width: int, height: int, deep: float) -> npt.NDArray[np.float32]:
    """float32 [height, width]: how much of the light is missing on the ground."""
    fall = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(fall)
    for sketch in sketches:
        for polygon in sketch.shadows:
            if len(polygon) > 2:
                draw.polygon([(x / FINE, y / FINE) for x, y in polygon], fill=255)
    soft = 0.8 if deep > 0.4 else 2.6
    blurred = fall.filter(ImageFilter.BoxBlur(soft * height / 192))
    return np.asarray(blurred, np.float32) * np.float32(deep / 255)


def _truth(claims: Image.Image, names: dict[int, str], space: LabelSpace) -> PanopticMap:
    """Segments in the order of painting, numbered from 1. What is too small after all joins what surrounds it most."""
    ids = np.asarray(claims)[::FINE, ::FINE].astype(np.int32)
    least = math.ceil(MIN_SHARE * ids.size)
    while True:
        areas = np.bincount(ids.ravel(), minlength=256)
        small = [number for number in np.flatnonzero(areas).tolist() if areas[number] < least]
        if not small:
            break
        mask = ids == small[0]
        ids[mask] = _surrounding(ids, mask)
    segments = []
    for number in np.flatnonzero(areas).tolist():
        category = space[space.index(names[number])]
        segments.append(Segment(number, space.index(category), source=category.source))
    return PanopticMap(ids, segments, space).compacted()


def _surrounding(ids: npt.NDArray[np.int32], mask: npt.NDArray[np.bool_]) -> int:
    wide = mask.copy()
    wide[1:] |= mask[:-1]
    wide[:-1] |= mask[1:]
    wide[:, 1:] |= mask[:, :-1]
    wide[:, :-1] |= mask[:, 1:]
    return int(np.bincount(ids[wide & ~mask]).argmax())

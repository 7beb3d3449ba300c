"""What stands behind and lies below, and the way from flat paint to a photo: light, textures, lens, JPEG."""

from __future__ import annotations

import functools
import io
import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from ..images import open_lazily
from .view import Colour, Point, Pose, Sketch, Stroke, View, box, on_face, shade, solid

WALLS: tuple[Colour, ...] = (
    (196, 184, 166),
    (164, 96, 74),
    (178, 178, 176),
    (214, 206, 190),
    (150, 144, 136),
    (188, 152, 118),
)
LEAVES: tuple[Colour, ...] = ((74, 104, 48), (58, 90, 46), (98, 112, 52), (66, 98, 62))
HOARDINGS: tuple[Colour, ...] = ((120, 132, 120), (66, 98, 140), (176, 170, 158), (150, 116, 80), (196, 196, 190))


def building(view: View, random: np.random.Generator, x: float, z: float) -> Sketch:
    """Finished, with windows, or a bare frame of slabs and columns, now and then behind a scaffold."""
    sketch = Sketch("building-other-merged", z)
    floors = int(random.integers(1, 6))
    storey, long, deep = random.uniform(2.9, 3.4), random.uniform(9, 20), random.uniform(7, 12)
    pose = Pose(x, z + deep / 2, random.uniform(-0.5, 0.5))
    tall = floors * storey + 0.5
    wall = WALLS[random.integers(len(WALLS))]
    frame = random.random() < 0.35
    bays = max(2, round(long / random.uniform(2.6, 3.6)))
    if frame:
        wall = shade((172, 168, 160), random.uniform(0.9, 1.08))
    scaffold = random.random() < 0.4
    glass: Colour = ((74, 92, 112), (96, 116, 134), (58, 66, 76))[random.integers(3)]
    for face in solid(view, sketch, pose, box(long, tall), deep, wall):
        if face.normal[1] > 0.5:
            continue
        corners = face.corners if face.edge is None else [face.corners[k] for k in (0, 3, 2, 1)]
        if face.edge == 3:
            corners = [corners[k] for k in (3, 2, 1, 0)]
        count = bays if face.edge is None else max(2, round(deep / 3.2))

        def paint(u0: float, v0: float, u1: float, v1: float, colour: Colour, face=face, corners=corners) -> None:  # type: ignore[no-untyped-def]
            sketch.strokes.append(
                Stroke(on_face(view, corners, u0, v0, u1, v1), view.lit(colour, face.normal, z), False)
            )

        for floor in range(floors):
            low, step = floor * storey / tall, storey / tall
            for bay in range(count):
                left = bay / count
                if frame:
                    inside = shade((66, 62, 58), random.uniform(0.7, 1.25))
                    paint(left + 0.1 / count, low + 0.04 * step, left + 0.9 / count, low + 0.88 * step, inside)
                    continue
                pane = shade(glass, random.uniform(0.75, 1.35))
                paint(left + 0.24 / count, low + 0.29 * step, left + 0.76 / count, low + 0.8 * step, shade(wall, 1.14))
                paint(left + 0.28 / count, low + 0.34 * step, left + 0.72 / count, low + 0.77 * step, pane)
                paint(left + 0.49 / count, low + 0.34 * step, left + 0.51 / count, low + 0.77 * step, shade(wall, 1.1))
            if not frame:
                paint(0, low + 0.97 * step, 1, low + 1.0 * step, shade(wall, 0.84))
        if scaffold and face.edge is None:
            for k in range(2 * count + 1):
                u = k / (2 * count)
                paint(max(0, u - 0.003), 0, min(1, u + 0.003), 1, (196, 186, 150))
            for floor in range(1, floors + 1):
                v = (floor * storey - 0.9) / tall
                paint(0, v, 1, v + 0.16 / tall, (156, 122, 82))
                paint(0, v + 0.9 / tall, 1, v + 0.98 / tall, (206, 196, 160))
    return sketch


def tree(view: View, random: np.random.Generator, x: float, z: float) -> Sketch:
    sketch = Sketch("tree-merged", z)
    tall = random.uniform(4.5, 9)
    crown = tall * random.uniform(0.26, 0.34)
    leaf = shade(LEAVES[random.integers(len(LEAVES))], random.uniform(0.85, 1.2))
    trunk = [(x - 0.16, 0.0, z), (x + 0.16, 0.0, z), (x + 0.1, tall * 0.5, z), (x - 0.1, tall * 0.5, z)]
    sketch.strokes.append(Stroke(view.polygon(trunk), view.through_air((84, 66, 50), z), True))
    sun_x, sun_y, _ = view.sun
    turns, reach = random.uniform(0, 2 * math.pi, 13), np.sqrt(random.uniform(0, 1, 13)) * 0.8
    spots = list(zip((reach * np.cos(turns)).tolist(), (reach * np.sin(turns) * 0.9).tolist(), strict=True))
    for tone, shift, size, count in ((0.55, 0.0, 0.4, 13), (0.84, 0.12, 0.3, 9), (1.2, 0.3, 0.2, 7)):
        hue = shade(leaf, tone * (0.75 + 0.3 * (1.1 - view.ambient)))
        for a, b in spots[:count]:
            middle = x + (a + sun_x * shift) * crown, tall - crown + (b + max(sun_y, 0.5) * shift) * crown
            outline = _puff(random, *middle, size * crown, z)
            tint = view.through_air(shade(hue, random.uniform(0.9, 1.1)), z)
            sketch.strokes.append(Stroke(view.polygon(outline), tint, True))
            if tone < 0.6:
                sketch.shadows.append([view.on_ground(point) for point in outline])
    return sketch


def _puff(random: np.random.Generator, x: float, y: float, radius: float, z: float) -> list[Point]:
    """A ragged disc."""
    rays = radius * random.uniform(0.7, 1.2, 13)
    return [
        (x + ray * math.cos(k * 2 * math.pi / 13), max(0.3, y + ray * math.sin(k * 2 * math.pi / 13)), z)
        for k, ray in enumerate(rays.tolist())
    ]


def tree_line(view: View, random: np.random.Generator, z: float) -> Sketch:
    """Woods along the horizon, over a part of the picture."""
    sketch = Sketch("tree-merged", z)
    half = view.half_width(z) * 1.1
    left, right = sorted(random.uniform(-half, half, 2).tolist())
    if right - left < half:
        left, right = (-half, left + half) if random.random() < 0.5 else (right - half, half)
    leaf = LEAVES[random.integers(len(LEAVES))]
    tall = random.uniform(5, 11)
    steps = 60
    for share, tone in ((1.0, 0.8), (0.66, 0.68)):
        bumps = np.abs(np.sin(np.arange(steps) * random.uniform(0.5, 0.9) + random.uniform(0, 3)))
        tops = tall * share * (0.72 + 0.2 * bumps + random.uniform(-0.08, 0.08, steps))
        tops[:3] *= (0.2, 0.65, 0.9)
        tops[-3:] *= (0.9, 0.65, 0.2)
        line = [(left + (right - left) * k / (steps - 1), float(top), z) for k, top in enumerate(tops)]
        outline = [(left, 0.0, z), *line, (right, 0.0, z)]
        sketch.strokes.append(Stroke(view.polygon(outline), view.through_air(shade(leaf, tone), z), True))
    return sketch


def fence(view: View, random: np.random.Generator, z: float) -> Sketch:
    """Hoarding: boards between posts, along a part of the site's far edge."""
    sketch = Sketch("fence-merged", z)
    colour = HOARDINGS[random.integers(len(HOARDINGS))]
    tall, panel = random.uniform(1.8, 2.3), random.uniform(1.8, 2.6)
    half = view.half_width(z) * 1.15
    slope = random.uniform(-0.25, 0.25)
    count = int(random.uniform(0.45, 1.0) * 2 * half / panel)
    start = -half if random.random() < 0.5 else half - count * panel
    second = shade(colour, 0.86) if random.random() < 0.6 else (206, 204, 198)
    for k in range(count):
        x = start + k * panel
        a, b = (x, z + slope * (x - start)), (x + panel, z + slope * (x + panel - start))
        ends = [(a[0], 0.05, a[1]), (b[0], 0.05, b[1]), (b[0], tall, b[1]), (a[0], tall, a[1])]
        hue = shade(colour if k % 2 else second, random.uniform(0.95, 1.05))
        lit = view.lit(hue, (slope * 0.9, 0.1, -0.95), z)
        sketch.strokes.append(Stroke(view.polygon(ends), lit, True))
        for share in (0.25, 0.5, 0.75):
            groove = on_face(view, ends, share - 0.012, 0, share + 0.012, 1)
            sketch.strokes.append(Stroke(groove, view.lit(shade(hue, 0.86), (0, 0.1, -0.95), z), False))
        post = on_face(view, ends, 0, 0, 0.05, 1.06)
        sketch.strokes.append(Stroke(post, view.lit((92, 88, 84), (0, 0.1, -0.95), z), True))
        sketch.shadows.append([view.on_ground(point) for point in ends])
    return sketch


def heap(view: View, random: np.random.Generator, x: float, z: float) -> Sketch:
    """A heap of excavated earth."""
    sketch = Sketch("dirt-merged", z)
    wide, tall = random.uniform(2.5, 5), random.uniform(1.0, 2.0)
    colour = shade((142, 112, 80), random.uniform(0.85, 1.1))
    lean = view.sun[0]
    steps = np.linspace(-1, 1, 19)
    tops = tall * np.clip(1 - np.abs(steps) ** 1.5, 0, 1) * random.uniform(0.88, 1.08, 19)
    ridge = [(x + wide * u, top, z) for u, top in zip(steps.tolist(), tops.tolist(), strict=True)]
    bright = view.ambient + 0.45 * (1.1 - view.ambient)
    sketch.strokes.append(Stroke(view.polygon(ridge), view.through_air(shade(colour, bright), z), True))
    peak = (x + wide * 0.1 * lean, tall * 0.93, z)
    flank = [spot for spot in ridge if (spot[0] - x) * lean < 0]
    foot = [(x, 0.0, z - 0.3)]
    dark = [*(flank if lean > 0 else [*flank[::-1]]), peak, *foot]
    sketch.strokes.append(Stroke(view.polygon(dark), view.through_air(shade(colour, bright * 0.78), z), False))
    sketch.shadows.append([view.on_ground(point) for point in ridge])
    return sketch


def tracks(view: View, random: np.random.Generator, name: str, colour: Colour) -> Sketch:
    """Two ruts that wheels have left, on the surface `name`."""
    sketch = Sketch(name, 1e6)
    depths = np.geomspace(view.nearest * 0.7, view.nearest * 12, 14).tolist()
    start, drift, sway, phase = (random.uniform(low, high) for low, high in ((-4, 4), (-0.7, 0.7), (0.2, 1.2), (0, 6)))
    tone = view.through_air(shade(colour, 0.82), 8)
    for side in (-0.85, 0.85):
        middle = [start + side + drift * z + sway * math.sin(0.35 * z + phase) for z in depths]
        rut = [(x - 0.2, 0.0, z) for x, z in zip(middle, depths, strict=True)]
        rut += [(x + 0.2, 0.0, z) for x, z in reversed(list(zip(middle, depths, strict=True)))]
        sketch.strokes.append(Stroke(view.polygon(rut), tone, False))
    return sketch


def ground_patch(view: View, random: np.random.Generator, name: str, colour: Colour) -> Sketch:
    """A strip along, or a field at one side, with a ragged edge. Lies flat: painted before all that stands."""
    sketch = Sketch(name, 1e6)
    far = view.nearest * 12
    if random.random() < 0.5:  # a strip towards the distance
        middle, wide, drift = random.uniform(-6, 6), random.uniform(3.5, 6.5), random.uniform(-0.35, 0.35)
        edge = 0.02 if name == "pavement-merged" else 0.16
        depths = np.geomspace(view.nearest * 0.7, far * 3 if edge < 0.1 else far, 16).tolist()
        sway = random.uniform(-edge, edge, (2, 16))
        outline = [
            (middle - wide / 2 + drift * z + s * wide, 0.0, z) for z, s in zip(depths, sway[0].tolist(), strict=True)
        ]
        outline += [
            (middle + wide / 2 + drift * z + s * wide, 0.0, z)
            for z, s in reversed(list(zip(depths, sway[1].tolist(), strict=True)))
        ]
    else:  # a band across
        near = random.uniform(view.nearest * 1.2, view.nearest * 3.2)
        end = far if random.random() < 0.4 else near * random.uniform(1.6, 2.6)
        steps = np.linspace(-1.1, 1.1, 16)
        edge = 0.02 if name == "pavement-merged" else 0.09
        tilt = random.uniform(-0.12, 0.12)
        outline = []
        for z, way in ((near, 1), (end, -1)):
            half = view.half_width(z * 1.2)
            for u in steps[::way].tolist():
                outline.append((u * half, 0.0, max(1.0, z * (1 + tilt * u + random.uniform(-edge, edge)))))
    sketch.strokes.append(Stroke(view.polygon(outline), view.through_air(colour, 8), True))
    return sketch


Pixels = npt.NDArray[np.float32]
TILE = 1024
TEXELS = 48
"""Of a tile, to a metre of the ground."""


@functools.cache
def tile(kind: int, falloff: float) -> Pixels:
    """float32 [1024, 1024], mean 0 and deviation 1, wrapping around; amplitude falls with frequency ** -falloff."""
    noise = np.fft.rfft2(np.random.default_rng([20200526, kind]).standard_normal((TILE, TILE), dtype=np.float32))
    across, down = np.fft.rfftfreq(TILE), np.fft.fftfreq(TILE)
    frequency = np.hypot(down[:, None], across[None, :])
    frequency[0, 0] = np.inf
    shaped = np.fft.irfft2(noise * np.maximum(frequency, 4 / TILE) ** -falloff * (frequency < np.inf), (TILE, TILE))
    return ((shaped - shaped.mean()) / shaped.std()).astype(np.float32)


def crop(source: Pixels, random: np.random.Generator, height: int, width: int) -> Pixels:
    """float32 [height, width] from a random place, wrapping where the tile ends."""
    top, left = random.integers(TILE, size=2).tolist()
    if top + height <= TILE and left + width <= TILE:
        return source[top : top + height, left : left + width]
    rows, columns = (top + np.arange(height)) % TILE, (left + np.arange(width)) % TILE
    return source[rows[:, None], columns]


def sky(view: View, random: np.random.Generator, zenith: Colour, cover: float, height: int, width: int) -> Pixels:
    """float32 [rows down to the horizon, width, 3]: a gradient to the haze, clouds that flatten towards it."""
    scale = view.height / height
    y = (np.arange(min(height, math.ceil(view.horizon / scale) + 1), dtype=np.float32) + 0.5) * scale
    rise = np.clip((view.horizon - y) / view.horizon, 0, 1)[:, None]
    low, high = np.array(view.haze, np.float32), np.array(zenith, np.float32)
    colour = low + (high - low) * (rise**0.7)[:, :, None]
    # Clouds lie on a plane above: rows near the horizon look further along it.
    reach = 60.0 / (rise + 0.22)
    x = (np.arange(width, dtype=np.float32) - width / 2) / height
    top, left = random.integers(TILE, size=2).tolist()
    rows = (top + 2.2 * reach).astype(np.int32) % TILE
    columns = (left + 1.6 * reach * x[None, :]).astype(np.int32) % TILE
    clouds = tile(1, 1.5)[rows, columns]
    density = np.clip((clouds + (2.4 * cover - 1.2)) * 0.75, 0, 1) * np.clip(rise * 5, 0, 1)
    bright = 238 + 9 * clouds - 26 * cover * density
    return colour + (bright[:, :, None] - colour) * (density * 0.88)[:, :, None]


def ground_texture(view: View, random: np.random.Generator, height: int, width: int) -> Pixels:
    """float32 [rows from the horizon down, width], about ±1: noise that lies on the ground, finer with distance."""
    scale = view.height / height
    y = (np.arange(int(view.horizon / scale), height, dtype=np.float32) + 0.5) * scale
    distance = view.eye * view.focal / np.maximum(y - view.horizon, 0.5)
    x = (np.arange(width, dtype=np.float32) + 0.5) * scale - view.width / 2
    top, left = random.integers(TILE, size=2).tolist()
    rows = ((top + distance * TEXELS).astype(np.int32) % TILE)[:, None]
    columns = (left + (distance * (TEXELS / view.focal))[:, None] * x[None, :]).astype(np.int32) % TILE
    return tile(2, 1.0)[rows, columns] * (np.clip(9 / distance, 0, 1) ** 0.7)[:, None]


def air(view: View, height: int) -> Pixels:
    """float32 [height, 1], 0 to 1: how much of the ground's colour is lost in the haze, row by row."""
    y = (np.arange(height, dtype=np.float32) + 0.5) * (view.height / height)
    distance = view.eye * view.focal / np.maximum(y - view.horizon, 0.5)
    return (0.8 - 0.8 * np.exp(-distance / 140))[:, None]


def lens_and_sensor(random: np.random.Generator, paint: Pixels) -> Image.Image:
    """paint: float32 [H, W, 3], 0 to 255. Exposure, white balance, vignette, blur, noise, JPEG."""
    height, width = paint.shape[:2]
    balance = random.uniform(0.86, 1.14) * random.uniform(0.95, 1.05, 3).astype(np.float32)
    across, down = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
    vignette = 1 - random.uniform(0.02, 0.16) * (across[None, :] ** 2 + down[:, None] ** 2) / 2
    values = paint * (vignette[:, :, None] * balance.astype(np.float32))
    # A soft shoulder instead of a hard cut at white.
    np.minimum(values, 200 + (values - 200) * 0.62, out=values)
    blur = random.uniform(0.25, 0.75) * height / 192 + (random.random() < 0.12) * random.uniform(0.3, 0.7)
    photo = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(float(blur)))
    grain = random.uniform(0.8, 3.6)
    values = np.asarray(photo, np.float32)
    noise = crop(tile(3, 0.25), random, height, width) * np.float32(grain)
    chroma = crop(tile(4, 0.4), random, height, width) * np.float32(grain * 0.4)
    noisy = values + noise[:, :, None]
    noisy[:, :, 0] += chroma
    noisy[:, :, 2] -= chroma
    photo = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=int(random.integers(58, 93)))
    return open_lazily(file).convert("RGB")

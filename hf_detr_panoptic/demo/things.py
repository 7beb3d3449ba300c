"""What drives, walks, stands and lies about on a site: what COCO knows, and what only the person marks."""

from __future__ import annotations

import itertools
import math

import numpy as np

from .view import (
    OUTLINE_ONLY,
    Colour,
    Face,
    Polygon,
    Pose,
    Sketch,
    Stroke,
    View,
    box,
    disc,
    hull,
    on_face,
    shade,
    solid,
)

CAR_PAINTS: tuple[Colour, ...] = (
    (205, 208, 210),
    (60, 62, 66),
    (150, 24, 28),
    (38, 66, 128),
    (150, 152, 156),
    (232, 232, 228),
    (44, 84, 66),
)
TRUCK_PAINTS: tuple[Colour, ...] = ((232, 170, 24), (226, 226, 222), (196, 62, 30), (52, 96, 150), (232, 126, 30))
VESTS: tuple[Colour, ...] = ((242, 112, 26), (206, 226, 40), (244, 90, 40), (70, 86, 120), (120, 110, 96))
HELMETS: tuple[Colour, ...] = ((240, 240, 236), (244, 204, 36), (226, 56, 40), (50, 96, 180), (240, 120, 30))
TROUSERS: tuple[Colour, ...] = ((52, 58, 80), (84, 76, 64), (46, 46, 50), (104, 100, 90))
SKINS: tuple[Colour, ...] = ((226, 178, 146), (190, 138, 104), (128, 86, 62), (92, 62, 46))
GLASS: Colour = (70, 88, 104)
RUBBER: Colour = (34, 34, 36)


def person(view: View, random: np.random.Generator, x: float, z: float) -> Sketch:
    """A worker with helmet and vest, drawn upright towards the camera."""
    sketch = Sketch("person", z)
    tall = random.uniform(1.62, 1.92)
    turn = random.uniform(0.75, 1.05) * random.choice((-1, 1))
    stride = random.uniform(0.03, 0.2)
    vest, helmet = VESTS[random.integers(len(VESTS))], HELMETS[random.integers(len(HELMETS))]
    legs, skin = TROUSERS[random.integers(len(TROUSERS))], SKINS[random.integers(len(SKINS))]
    sleeves = shade(vest, 0.9) if random.random() < 0.5 else shade(legs, 1.25)
    stripe: Colour = (222, 224, 210)
    bright = 0.72 + 0.28 * max(0.2, -view.sun[2] * 0.5 + 0.7)
    lit_side = math.copysign(1, view.sun[0])

    def paint(colour: Colour, *spots: tuple[float, float], solid: bool = True) -> None:
        outline = [(x + a * turn, b * tall, z) for a, b in spots]
        sketch.strokes.append(Stroke(view.polygon(outline), view.through_air(shade(colour, bright), z), solid))
        if solid:
            sketch.shadows.append([view.on_ground(point) for point in outline])

    for side, tone in ((-1, 0.78), (1, 1.0)):
        foot = side * stride
        paint(
            shade(legs, tone),
            *((side * 0.02 - 0.09, 0.5), (side * 0.02 + 0.09, 0.5), (foot + 0.075, 0.04), (foot - 0.075, 0.04)),
        )
        paint((58, 46, 38), (foot - 0.08, 0.06), (foot + 0.09, 0.06), (foot + 0.15, 0.0), (foot - 0.08, 0.0))
    arms = random.uniform(-0.12, 0.28, 2)
    hands = random.uniform(0.44, 0.5, 2)
    if random.random() < 0.3:
        arms[1], hands[1] = random.uniform(0.3, 0.42), random.uniform(0.6, 0.95)

    def arm(side: int, reach: float, hand: float) -> None:
        ax, elbow = side * 0.19, side * (0.23 + reach * 0.35)
        wrist, middle = side * (0.2 + reach), (0.79 + hand) / 2 - 0.03
        paint(sleeves, (ax - 0.055, 0.8), (ax + 0.055, 0.8), (elbow + 0.055, middle), (elbow - 0.055, middle))
        paint(sleeves, (elbow - 0.05, middle), (elbow + 0.05, middle), (wrist + 0.04, hand), (wrist - 0.04, hand))
        paint(
            skin, (wrist - 0.04, hand), (wrist + 0.04, hand), (wrist + 0.03, hand - 0.04), (wrist - 0.03, hand - 0.04)
        )

    arm(-1, float(arms[0]), float(hands[0]))
    paint(
        vest,
        (-0.15, 0.46),
        (0.15, 0.46),
        (0.2, 0.7),
        (0.19, 0.81),
        (0.07, 0.84),
        (-0.07, 0.84),
        (-0.19, 0.81),
        (-0.2, 0.7),
    )
    dark = -lit_side * math.copysign(1, turn)
    paint(
        shade(vest, 0.74),
        (dark * 0.15, 0.46),
        (dark * 0.2, 0.7),
        (dark * 0.19, 0.81),
        (dark * 0.06, 0.82),
        (dark * 0.05, 0.46),
        solid=False,
    )
    for low in (0.54, 0.65):
        paint(stripe, (-0.17, low), (0.17, low), (0.18, low + 0.03), (-0.18, low + 0.03), solid=False)
    arm(1, float(arms[1]), float(hands[1]))
    paint(skin, (-0.04, 0.82), (0.04, 0.82), (0.04, 0.87), (-0.04, 0.87))
    turns = [math.pi * k / 5 for k in range(10)]
    paint(skin, *((0.01 + 0.062 * math.cos(t), 0.905 + 0.058 * math.sin(t)) for t in turns))
    dome = [math.pi * k / 6 for k in range(7)]
    paint(helmet, *((0.08 * math.cos(t), 0.925 + 0.075 * math.sin(t)) for t in dome), (-0.08, 0.915), (0.12, 0.915))
    paint(shade(helmet, 0.75), (-0.08, 0.915), (0.12, 0.915), (0.1, 0.928), (-0.08, 0.928), solid=False)
    return sketch


def wheel(view: View, sketch: Sketch, pose: Pose, radius: float, hub: Colour, inwards: float) -> None:
    """`pose` is the middle of its outer side on the ground; `inwards` where its inner side is, across."""
    light = pose.direction(0, 0.5, -0.8)

    def ring(size: float, across: float = 0.0) -> Polygon:
        return view.polygon([pose.point(a, b, across) for a, b in disc(radius * size, 12, up=radius)])

    sketch.strokes.append(Stroke(hull(ring(1, inwards) + ring(1)), view.lit(shade(RUBBER, 0.8), light, pose.z), True))
    for size, colour in ((0.94, RUBBER), (0.58, hub), (0.2, shade(hub, 0.6))):
        sketch.strokes.append(Stroke(ring(size), view.lit(colour, light, pose.z), False))


def near_side(view: View, pose: Pose) -> int:
    """-1 or 1: which side of something long faces the camera."""
    nx, _, nz = pose.direction(0, 0, 1)
    return 1 if -pose.x * nx - pose.z * nz > 0 else -1


def car(view: View, random: np.random.Generator, x: float, z: float) -> Sketch:
    sketch = Sketch("car", z)
    pose = Pose(x, z, random.uniform(-math.pi, math.pi))
    paint = CAR_PAINTS[random.integers(len(CAR_PAINTS))]
    long, tall = random.uniform(1.85, 2.15), random.uniform(1.36, 1.6)
    back = random.uniform(-0.95, -0.75) * long
    side = near_side(view, pose)
    for spot in (-0.62, 0.62):  # the far pair, behind the body
        wheel(view, sketch, pose.moved(spot * long, across=-side * 0.72), 0.33, (80, 80, 84), -side * 0.1)
    body = [(-long, 0.28), (long, 0.28), (long, 0.68), (0.55 * long, 0.92), (-0.92 * long, 0.96), (-long, 0.8)]
    for face in solid(view, sketch, pose, body, 1.7, paint, {0: (20, 20, 22)}):
        if face.edge == 1:
            _lamps(view, sketch, face.corners, (250, 246, 220), pose.z)
        elif face.edge in (4, 5):
            _lamps(view, sketch, face.corners, (170, 26, 28), pose.z)
        elif face.edge is None:
            seam = [
                pose.point(a, b, side * 0.851) for a, b in ((-long, 0.28), (long, 0.28), (long, 0.4), (-long, 0.4))
            ]
            sketch.strokes.append(Stroke(view.polygon(seam), view.lit(shade(paint, 0.45), face.normal, z), False))
    roof = [(back, 0.94), (0.5 * long, 0.92), (0.2 * long, tall), (back * 0.72, tall)]
    cabin = solid(view, sketch, pose, roof, 1.46, GLASS, {2: paint})
    for face in cabin:
        if face.edge is None:
            a = side * 0.735
            for left, right in ((back * 0.88, -0.1 * long), (-0.06 * long, 0.4 * long)):
                frame = [
                    (left, 0.99),
                    (right, 0.99),
                    (min(right, 0.2 * long), tall - 0.1),
                    (max(left, back * 0.72), tall - 0.1),
                ]
                window = view.polygon(pose.point(u, v, a) for u, v in frame)
                sketch.strokes.append(Stroke(window, view.lit(shade(GLASS, 0.8), face.normal, z), False))
            pillar = [(-0.1 * long, 0.95), (-0.04 * long, 0.95), (-0.04 * long, tall), (-0.1 * long, tall)]
            sketch.strokes.append(
                Stroke(view.polygon(pose.point(u, v, a) for u, v in pillar), view.lit(paint, face.normal, z), False)
            )
    for spot in (-0.62, 0.62):
        wheel(view, sketch, pose.moved(spot * long, across=side * 0.86), 0.33, (168, 168, 172), -side * 0.22)
    return sketch


def _lamps(view: View, sketch: Sketch, corners: list[tuple[float, float, float]], colour: Colour, z: float) -> None:
    for u0, u1 in ((0.04, 0.24), (0.76, 0.96)):
        # A side's first two corners follow the profile; the lamps sit left and right of it.
        patch = on_face(view, corners, 0.55, u0, 0.9, u1)
        sketch.strokes.append(Stroke(patch, view.through_air(colour, z), False))


def truck(view: View, random: np.random.Generator, x: float, z: float) -> Sketch:
    """A cab and what it carries: an open tipper, a box, or a drum for concrete."""
    sketch = Sketch("truck", z)
    pose = Pose(x, z, random.uniform(-math.pi, math.pi))
    paint = TRUCK_PAINTS[random.integers(len(TRUCK_PAINTS))]
    side = near_side(view, pose)
    load = random.integers(3)
    hold = ((236, 236, 232), shade(paint, 0.95), (176, 178, 180))[random.integers(3)]
    for spot in (-2.3, -1.2, 2.2):
        wheel(view, sketch, pose.moved(spot, across=-side * 0.9), 0.5, (90, 90, 92), -side * 0.2)
    solid(view, sketch, pose, [(-3.1, 0.55), (3.0, 0.55), (3.0, 0.85), (-3.1, 0.85)], 1.9, (48, 48, 52))

    def cab() -> None:
        front = [(1.45, 0.6), (3.15, 0.6), (3.2, 1.6), (2.95, 2.65), (1.45, 2.7)]
        for face in solid(view, sketch, pose, front, 2.3, paint, {2: GLASS}):
            if face.edge is None:
                a = side * 1.16
                for frame, tone in (
                    ([(1.75, 1.65), (2.95, 1.65), (2.8, 2.4), (1.75, 2.4)], GLASS),
                    ([(1.45, 0.6), (3.15, 0.6), (3.15, 0.85), (1.45, 0.85)], shade(paint, 0.5)),
                ):
                    patch = view.polygon(pose.point(u, v, a) for u, v in frame)
                    sketch.strokes.append(Stroke(patch, view.lit(tone, face.normal, z), False))
            elif face.edge == 1:
                _lamps(view, sketch, face.corners[1:] + face.corners[:1], (250, 244, 214), z)
                grille = on_face(view, face.corners, 0.25, 0.25, 0.7, 0.75)
                sketch.strokes.append(Stroke(grille, view.lit((40, 40, 44), face.normal, z), False))

    def back() -> None:
        if load == 0:
            profile = [(-3.0, 0.95), (1.2, 0.95), (1.3, 2.15), (-3.3, 2.15)]
            for face in solid(view, sketch, pose, profile, 2.4, hold, {2: (122, 96, 70)}):
                if face.edge is None:
                    for spot in np.linspace(0.05, 0.95, 7):
                        rib = on_face(view, face.corners, spot - 0.015, 0.0, spot + 0.015, 1.0)
                        sketch.strokes.append(Stroke(rib, view.lit(shade(hold, 0.7), face.normal, z), False))
            mound = [(-2.7, 2.15), (0.8, 2.15), (0.1, 2.5), (-1.2, 2.66), (-2.2, 2.4)]
            solid(view, sketch, pose, mound, 1.7, (128, 100, 72), shadow=False)
        elif load == 1:
            for face in solid(view, sketch, pose, [(-3.2, 0.9), (1.3, 0.9), (1.3, 3.0), (-3.2, 3.0)], 2.35, hold):
                if face.edge is None:
                    band = on_face(view, face.corners, 0.0, 0.42, 1.0, 0.56)
                    sketch.strokes.append(Stroke(band, view.lit(paint, face.normal, z), False))
        else:
            _drum(view, sketch, pose, hold, paint)

    facing = pose.direction(1, 0, 0)
    cab_nearer = facing[0] * pose.x + facing[2] * pose.z < 0
    for part in (back, cab) if cab_nearer else (cab, back):
        part()
    for spot in (-2.3, -1.2, 2.2):
        wheel(view, sketch, pose.moved(spot, across=side * 1.12), 0.5, (190, 190, 190), -side * 0.32)
    return sketch


def _drum(view: View, sketch: Sketch, pose: Pose, colour: Colour, stripe: Colour) -> None:
    """A mixer's drum: short cylinders along the truck, far to near."""
    ends = (
        (-3.3, 0.62),
        (-2.9, 0.85),
        (-2.4, 1.02),
        (-1.7, 1.14),
        (-0.5, 1.16),
        (0.1, 1.04),
        (0.6, 0.86),
        (1.1, 0.62),
    )
    rings = [
        ((a + b) / 2, b - a, (r + s) / 2, stripe if k in (2, 4) else colour)
        for k, ((a, r), (b, s)) in enumerate(itertools.pairwise(ends))
    ]

    def distance(ring: tuple[float, float, float, Colour]) -> float:
        x, _, z = pose.point(ring[0], 0, 0)
        return x * x + z * z

    for middle, long, radius, tone in sorted(rings, key=distance, reverse=True):
        x, _, z = pose.point(middle, 0, 0)
        solid(view, sketch, Pose(x, z, pose.yaw + math.pi / 2), disc(radius, 14, up=2.05), long, tone)


def cone(view: View, random: np.random.Generator, x: float, z: float) -> Sketch:
    sketch = Sketch("traffic cone", z)
    tall = random.uniform(0.7, 0.95)
    orange: Colour = ((248, 96, 22), (250, 74, 30), (240, 120, 20))[random.integers(3)]
    solid(view, sketch, Pose(x, z, random.uniform(-0.8, 0.8)), box(0.52, 0.06), 0.52, shade(orange, 0.8))
    lit = math.copysign(1, view.sun[0])
    bands = [
        (0.06, 0.36, orange),
        (0.36, 0.56, (244, 244, 240)),
        (0.56, 0.74, orange),
        (0.74, 0.86, (244, 244, 240)),
        (0.86, 1.0, orange),
    ]

    def radius(share: float) -> float:
        return 0.2 * (1 - share) + 0.035

    for low, high, colour in bands:
        a, b = radius(low), radius(high)
        for left, right, tone in ((-1.0, 1.0, 0.92), (0.1 * lit, lit, 1.08), (-lit, -0.45 * lit, 0.66)):
            spots = [(left * a, low), (right * a, low), (right * b, high), (left * b, high)]
            patch: Polygon = view.polygon((x + u, v * tall, z) for u, v in spots)
            sketch.strokes.append(Stroke(patch, view.through_air(shade(colour, tone), z), tone == 0.92))
    outline = [(-0.23, 0.0), (0.23, 0.0), (0.035, tall), (-0.035, tall)]
    sketch.shadows.append([view.on_ground((x + u, v, z)) for u, v in outline])
    return sketch


def ladder(view: View, random: np.random.Generator, x: float, z: float) -> Sketch:
    """A step ladder. Its truth is its outline, gaps between the rungs included, as people draw it."""
    sketch = Sketch("ladder", z)
    pose = Pose(x, z, random.uniform(-0.6, 0.6))
    tall, spread = random.uniform(1.9, 2.9), random.uniform(0.45, 0.7)
    colour: Colour = ((196, 200, 204), (226, 180, 50), (190, 142, 88), (214, 96, 40))[random.integers(4)]
    rungs = int(tall / 0.3)
    for lean, tone, steps in ((1, 0.68, False), (-1, 1.0, True)):

        def spot(across: float, share: float, lean: int = lean) -> tuple[float, float, float]:
            return pose.point(across * (0.34 - 0.1 * share), share * tall, lean * spread * (1 - share))

        hue = view.lit(shade(colour, tone), pose.direction(0, 0.3, -0.95), z)
        outline = [spot(-1, 0), spot(1, 0), spot(1, 1), spot(-1, 1)]
        sketch.strokes.append(Stroke(view.polygon(outline), OUTLINE_ONLY, True))
        if steps:
            for k in range(1, rungs):
                low, high = k / rungs, k / rungs + 0.045 / tall * 1.4
                bar = view.polygon([spot(-1, low), spot(1, low), spot(1, high), spot(-1, high)])
                sketch.strokes.append(Stroke(bar, hue, True))
                sketch.shadows.append(
                    [view.on_ground(p) for p in (spot(-1, low), spot(1, low), spot(1, high), spot(-1, high))]
                )
        for left, right in ((-1.16, -0.84), (0.84, 1.16)):
            rail = [spot(left, 0), spot(right, 0), spot(right, 1), spot(left, 1)]
            sketch.strokes.append(Stroke(view.polygon(rail), hue, True))
            sketch.shadows.append([view.on_ground(point) for point in rail])
    cap = [
        pose.point(a, b, c)
        for a, b, c in ((-0.3, tall, -0.1), (0.3, tall, -0.1), (0.3, tall + 0.05, 0), (-0.3, tall + 0.05, 0))
    ]
    sketch.strokes.append(Stroke(view.polygon(cap), view.lit(shade(colour, 0.9), (0, 0.8, -0.6), z), True))
    return sketch


BRICKS: tuple[Colour, ...] = ((178, 82, 58), (196, 104, 72), (150, 70, 56), (168, 120, 96))
PIPES: tuple[Colour, ...] = ((170, 170, 164), (226, 120, 52), (70, 112, 168), (52, 54, 58), (60, 130, 84))
BAGS: tuple[Colour, ...] = ((206, 196, 174), (222, 220, 212), (188, 168, 136))
LABELS: tuple[Colour, ...] = ((34, 92, 160), (196, 44, 40), (40, 128, 72), (60, 60, 64))


def brick_stack(view: View, random: np.random.Generator, x: float, z: float) -> Sketch:
    """Bricks on a pallet, course by course."""
    sketch = Sketch("brick stack", z)
    pose = Pose(x, z, random.uniform(-0.9, 0.9))
    long, deep, tall = random.uniform(0.95, 1.35), random.uniform(0.8, 1.1), random.uniform(0.6, 1.15)
    colour = BRICKS[random.integers(len(BRICKS))]
    solid(view, sketch, pose, box(long + 0.08, 0.14), deep + 0.06, (150, 118, 80))
    courses, across = max(4, round(tall / 0.12)), max(4, round(long / 0.2))
    # One level of detail that the picture can still show: a joint thinner than half a pixel is only noise.
    joint = 0.5 * tall / courses * view.focal / z > 1.5
    for face in solid(view, sketch, pose.moved(0, 0.14), box(long, tall), deep, colour):
        if face.normal[1] > 0.5 or not joint:
            if joint:
                for spot in np.linspace(0.12, 0.88, 5):
                    line = on_face(view, face.corners, 0.0, spot - 0.012, 1.0, spot + 0.012)
                    sketch.strokes.append(Stroke(line, view.lit(shade(colour, 0.72), face.normal, z), False))
            continue
        # The ends run along the profile, the sides across it: both lie with u along the course.
        corners = face.corners if face.edge is None else [face.corners[k] for k in (0, 3, 2, 1)]
        mortar = view.lit((176, 164, 150), face.normal, z)
        for course in range(courses):
            low, high = course / courses, (course + 1) / courses
            for k in range(across + 1):
                u0 = max(0.0, (k - 0.5 * (course % 2)) / across)
                u1 = min(1.0, (k + 1 - 0.5 * (course % 2)) / across)
                if u1 - u0 > 0.02 and random.random() < 0.45:
                    tone = shade(colour, random.uniform(0.74, 1.2))
                    patch = on_face(view, corners, u0, low, u1, high)
                    sketch.strokes.append(Stroke(patch, view.lit(tone, face.normal, z), False))
        for course in range(1, courses):
            line = on_face(
                view, corners, 0.0, course / courses - 0.06 / courses, 1.0, course / courses + 0.06 / courses
            )
            sketch.strokes.append(Stroke(line, mortar, False))
    return sketch


def pipe(view: View, random: np.random.Generator, x: float, z: float) -> Sketch:
    """One pipe on the ground, its dark mouth towards the camera when it points that way."""
    sketch = Sketch("pipe", z)
    lying = random.uniform(-0.75, 0.75) if random.random() < 0.7 else random.uniform(0.8, 2.3)
    pose = Pose(x, z, lying + math.pi / 2)
    radius, long = random.uniform(0.28, 0.5), random.uniform(1.6, 2.8)
    colour = PIPES[random.integers(len(PIPES))]
    for face in solid(view, sketch, pose, disc(radius, 18), long, colour):
        if face.edge is None:
            for size, tone in ((1.0, 1.05), (0.82, 0.3), (0.7, 0.16)):
                ring = [
                    tuple(c + (p - c) * size for p, c in zip(point, _middle(face.corners), strict=True))
                    for point in face.corners
                ]
                mouth = view.polygon((p[0], p[1], p[2]) for p in ring)
                sketch.strokes.append(Stroke(mouth, view.lit(shade(colour, tone), (0, 0.6, -0.8), z), False))
    return sketch


def _middle(corners: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    x, y, z = (sum(axis) / len(corners) for axis in zip(*corners, strict=True))
    return x, y, z


def rebar_bundle(view: View, random: np.random.Generator, x: float, z: float) -> Sketch:
    """Ribbed bars in a bundle with wire ties, on two timbers."""
    sketch = Sketch("rebar bundle", z)
    pose = Pose(x, z, random.uniform(-0.55, 0.55) + math.pi * random.integers(2))
    long, wide, tall = random.uniform(1.9, 3.1), random.uniform(0.5, 0.8), random.uniform(0.32, 0.5)
    rust: Colour = ((124, 78, 54), (98, 72, 60), (110, 92, 80))[random.integers(3)]
    for spot in (-0.32, 0.32):
        solid(view, sketch, pose.moved(spot * long), box(0.12, 0.1), wide + 0.2, (146, 112, 74))
    base = pose.moved(0, 0.1)
    profile = [(-long / 2, 0.0), (long / 2, 0.0), (long / 2, tall), (-long / 2, tall)]
    for face in solid(view, sketch, base, profile, wide, rust):
        if face.edge in (1, 3):
            for _ in range(16):
                u, v = random.uniform(0.05, 0.9, 2)
                spot_end = on_face(view, face.corners, u, v, u + 0.1, v + 0.07)
                sketch.strokes.append(Stroke(spot_end, view.lit((168, 120, 90), face.normal, z), False))
            continue
        top = face.edge is not None
        bars = 11 if top else 7
        for k in range(bars):
            tone = shade(rust, random.uniform(0.55, 1.5))
            low = k / bars + random.uniform(-0.02, 0.02)
            bar = on_face(view, face.corners, 0.0, max(low, 0), 1.0, min(low + 0.55 / bars, 1))
            sketch.strokes.append(Stroke(bar, view.lit(tone, face.normal, z), False))
        for share in (0.18, 0.5, 0.82):
            tie = on_face(view, face.corners, share - 0.008, 0.0, share + 0.008, 1.0)
            sketch.strokes.append(Stroke(tie, view.lit((52, 48, 46), face.normal, z), False))
    # Bars that stick out of the bundle: never two of one length.
    for end in (-1, 1):
        for _ in range(5):
            up, across, more = (
                random.uniform(0.03, tall),
                random.uniform(-0.45, 0.45) * wide,
                random.uniform(0.1, 0.45),
            )
            a, b = end * long / 2, end * (long / 2 + more)
            sag = random.uniform(0, 0.05)
            bar = [(a, up), (b, up - sag), (b, up - sag + 0.035), (a, up + 0.035)]
            stick = view.polygon(base.point(u, v, across) for u, v in bar)
            sketch.strokes.append(Stroke(stick, view.lit(shade(rust, 1.1), (0, 0.7, -0.7), z), True))
    return sketch


def cement_bag(view: View, random: np.random.Generator, x: float, z: float) -> Sketch:
    """One full paper bag: rounded, creased, with a printed band."""
    sketch = Sketch("cement bag", z)
    pose = Pose(x, z, random.uniform(-0.7, 0.7))
    long, deep, tall = random.uniform(0.8, 0.98), random.uniform(0.5, 0.62), random.uniform(0.24, 0.32)
    colour = BAGS[random.integers(len(BAGS))]
    label = LABELS[random.integers(len(LABELS))]
    a = long / 2
    profile = [(-a * 0.82, 0), (a * 0.82, 0), (a, tall * 0.35), (a * 0.96, tall * 0.7), (a * 0.72, tall)]
    profile += [(-a * 0.72, tall), (-a * 0.96, tall * 0.7), (-a, tall * 0.35)]
    for face in solid(view, sketch, pose, profile, deep, colour):
        tone = view.lit(label, face.normal, z)
        if face.edge is None:
            band = [
                pose.point(u * a, v * tall, _side(face, pose)) for u, v in ((-0.3, 0), (0.3, 0), (0.3, 1), (-0.3, 1))
            ]
            sketch.strokes.append(Stroke(view.polygon(band), tone, False))
            crease = [
                pose.point(u * a, v * tall, _side(face, pose))
                for u, v in ((-0.96, 0.42), (0.96, 0.42), (0.96, 0.5), (-0.96, 0.5))
            ]
            sketch.strokes.append(Stroke(view.polygon(crease), view.lit(shade(colour, 0.78), face.normal, z), False))
        elif face.normal[1] > 0.9:
            band = [pose.point(u * a, tall, v * deep) for u, v in ((-0.3, -0.5), (0.3, -0.5), (0.3, 0.5), (-0.3, 0.5))]
            sketch.strokes.append(Stroke(view.polygon(band), tone, False))
            text = [pose.point(u * a, tall, v * deep) for u, v in ((-0.2, -0.2), (0.2, -0.2), (0.2, 0.2), (-0.2, 0.2))]
            sketch.strokes.append(Stroke(view.polygon(text), view.lit((236, 232, 222), face.normal, z), False))
    return sketch


def _side(face: Face, pose: Pose) -> float:
    """How far across its solid an end face lies."""
    x, _, z = face.corners[0]
    return -(x - pose.x) * math.sin(pose.yaw) + (z - pose.z) * math.cos(pose.yaw)

"""What lies about on a site and only the person marks: brick stacks, pipes, bundles of rebar, bags of cement."""

from __future__ import annotations

import math

import numpy as np

from .view import Colour, Face, Place, Sketch, Stroke, View, box, disc, on_face, shade, solid

BRICKS: tuple[Colour, ...] = ((178, 82, 58), (196, 104, 72), (150, 70, 56), (168, 120, 96))
PIPES: tuple[Colour, ...] = ((170, 170, 164), (226, 120, 52), (70, 112, 168), (52, 54, 58), (60, 130, 84))
BAGS: tuple[Colour, ...] = ((206, 196, 174), (222, 220, 212), (188, 168, 136))
LABELS: tuple[Colour, ...] = ((34, 92, 160), (196, 44, 40), (40, 128, 72), (60, 60, 64))


def brick_stack(view: View, random: np.random.Generator, x: float, z: float) -> Sketch:
    """Bricks on a pallet, course by course."""
    sketch = Sketch("brick stack", z)
    place = Place(x, z, random.uniform(-0.9, 0.9))
    long, deep, tall = random.uniform(0.95, 1.35), random.uniform(0.8, 1.1), random.uniform(0.6, 1.15)
    colour = BRICKS[random.integers(len(BRICKS))]
    solid(view, sketch, place, box(long + 0.08, 0.14), deep + 0.06, (150, 118, 80))
    courses, across = max(4, round(tall / 0.12)), max(4, round(long / 0.2))
    # One level of detail that the picture can still show: a joint thinner than half a pixel is only noise.
    joint = 0.5 * tall / courses * view.focal / z > 1.5
    for face in solid(view, sketch, place.moved(0, 0.14), box(long, tall), deep, colour):
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
    place = Place(x, z, lying + math.pi / 2)
    radius, long = random.uniform(0.28, 0.5), random.uniform(1.6, 2.8)
    colour = PIPES[random.integers(len(PIPES))]
    for face in solid(view, sketch, place, disc(radius, 18), long, colour):
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
    place = Place(x, z, random.uniform(-0.55, 0.55) + math.pi * random.integers(2))
    long, wide, tall = random.uniform(1.9, 3.1), random.uniform(0.5, 0.8), random.uniform(0.32, 0.5)
    rust: Colour = ((124, 78, 54), (98, 72, 60), (110, 92, 80))[random.integers(3)]
    for spot in (-0.32, 0.32):
        solid(view, sketch, place.moved(spot * long), box(0.12, 0.1), wide + 0.2, (146, 112, 74))
    base = place.moved(0, 0.1)
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
    place = Place(x, z, random.uniform(-0.7, 0.7))
    long, deep, tall = random.uniform(0.8, 0.98), random.uniform(0.5, 0.62), random.uniform(0.24, 0.32)
    colour = BAGS[random.integers(len(BAGS))]
    label = LABELS[random.integers(len(LABELS))]
    a = long / 2
    profile = [(-a * 0.82, 0), (a * 0.82, 0), (a, tall * 0.35), (a * 0.96, tall * 0.7), (a * 0.72, tall)]
    profile += [(-a * 0.72, tall), (-a * 0.96, tall * 0.7), (-a, tall * 0.35)]
    for face in solid(view, sketch, place, profile, deep, colour):
        tone = view.lit(label, face.normal, z)
        if face.edge is None:
            band = [
                place.point(u * a, v * tall, _side(face, place)) for u, v in ((-0.3, 0), (0.3, 0), (0.3, 1), (-0.3, 1))
            ]
            sketch.strokes.append(Stroke(view.polygon(band), tone, False))
            crease = [
                place.point(u * a, v * tall, _side(face, place))
                for u, v in ((-0.96, 0.42), (0.96, 0.42), (0.96, 0.5), (-0.96, 0.5))
            ]
            sketch.strokes.append(Stroke(view.polygon(crease), view.lit(shade(colour, 0.78), face.normal, z), False))
        elif face.normal[1] > 0.9:
            band = [
                place.point(u * a, tall, v * deep) for u, v in ((-0.3, -0.5), (0.3, -0.5), (0.3, 0.5), (-0.3, 0.5))
            ]
            sketch.strokes.append(Stroke(view.polygon(band), tone, False))
            text = [
                place.point(u * a, tall, v * deep) for u, v in ((-0.2, -0.2), (0.2, -0.2), (0.2, 0.2), (-0.2, 0.2))
            ]
            sketch.strokes.append(Stroke(view.polygon(text), view.lit((236, 232, 222), face.normal, z), False))
    return sketch


def _side(face: Face, place: Place) -> float:
    """How far across its solid an end face lies."""
    x, _, z = face.corners[0]
    return -(x - place.x) * math.sin(place.yaw) + (z - place.z) * math.cos(place.yaw)

"""A pinhole camera and one sun: solid shapes become shaded polygons in the picture, and shadows on the ground.

Metres: x to the right, y up from the ground, z away from the camera, which stands above the origin.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Colour = tuple[float, float, float]
Point = tuple[float, float, float]
Flat = tuple[float, float]
Polygon = list[Flat]

OUTLINE_ONLY = (-1, -1, -1)
"""The colour of a stroke that claims pixels in the truth and leaves the picture alone."""


class Stroke(NamedTuple):
    """One filled polygon of the picture. `solid`: it also claims its pixels in the truth."""

    polygon: Polygon
    colour: tuple[int, int, int]
    solid: bool


@dataclass
class Sketch:
    """Something to paint: its class, how far away it is, its strokes from back to front, its shadow on the ground."""

    name: str
    depth: float
    strokes: list[Stroke] = field(default_factory=list)
    shadows: list[Polygon] = field(default_factory=list)


class Face(NamedTuple):
    """One side of a solid. `edge` is its place in the profile; None for the two ends."""

    corners: list[Point]
    normal: Point
    edge: int | None


@dataclass(frozen=True)
class View:
    """Camera and light of one scene, on a canvas of width × height pixels.

    `shadow`: where the shadow of a point one metre above the ground falls, in x and z.
    """

    width: int
    height: int
    focal: float
    horizon: float
    eye: float
    shadow: Flat
    ambient: float
    haze: Colour

    @functools.cached_property
    def sun(self) -> Point:
        """The direction to the sun, of length 1."""
        length = math.sqrt(self.shadow[0] ** 2 + 1 + self.shadow[1] ** 2)
        return -self.shadow[0] / length, 1 / length, -self.shadow[1] / length

    @property
    def nearest(self) -> float:
        """How far the ground at the picture's lower edge is."""
        return self.eye * self.focal / (self.height - self.horizon)

    def half_width(self, depth: float) -> float:
        return depth * self.width / 2 / self.focal

    def flat(self, point: Point) -> Flat:
        x, y, z = point
        scale = self.focal / max(z, 0.3)
        return self.width / 2 + x * scale, self.horizon + (self.eye - y) * scale

    def polygon(self, points: Iterable[Point]) -> Polygon:
        middle, horizon, eye, focal = self.width / 2, self.horizon, self.eye, self.focal
        spots = []
        for x, y, z in points:
            scale = focal / (z if z > 0.3 else 0.3)
            spots.append((middle + x * scale, horizon + (eye - y) * scale))
        return spots

    def on_ground(self, point: Point) -> Flat:
        """Where the shadow of a point lands in the picture."""
        x, y, z = point
        return self.flat((x + y * self.shadow[0], 0.0, z + y * self.shadow[1]))

    def lit(self, colour: Colour, normal: Point, depth: float) -> tuple[int, int, int]:
        """A matt surface under sun and sky, paler with distance."""
        (a, b, c), (x, y, z) = self.sun, normal
        light = self.ambient * (0.8 + 0.2 * y) + (1.12 - self.ambient) * max(0.0, a * x + b * y + c * z)
        return self.through_air((colour[0] * light, colour[1] * light, colour[2] * light), depth)

    def through_air(self, colour: Colour, depth: float) -> tuple[int, int, int]:
        seen = math.exp(-depth / 160)
        red, green, blue = self.haze
        return (
            min(255, max(0, int(red + (colour[0] - red) * seen))),
            min(255, max(0, int(green + (colour[1] - green) * seen))),
            min(255, max(0, int(blue + (colour[2] - blue) * seen))),
        )


@dataclass(frozen=True)
class Pose:
    """Where a solid stands and which way it points: `yaw` turns its length from the x axis towards the distance."""

    x: float
    z: float
    yaw: float = 0.0
    y: float = 0.0

    def point(self, along: float, up: float, across: float) -> Point:
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return self.x + along * cos - across * sin, self.y + up, self.z + along * sin + across * cos

    def direction(self, along: float, up: float, across: float) -> Point:
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return along * cos - across * sin, up, along * sin + across * cos

    def moved(self, along: float, up: float = 0.0, across: float = 0.0) -> Pose:
        x, y, z = self.point(along, up, across)
        return Pose(x, z, self.yaw, y)


def faces(view: View, pose: Pose, profile: Sequence[Flat], width: float) -> list[Face]:
    """The visible sides, far to near, of a profile (along, up; counter-clockwise) that is extruded across."""
    half = width / 2
    near = [pose.point(a, b, -half) for a, b in profile]
    far = [pose.point(a, b, half) for a, b in profile]
    sides = [
        Face(near, pose.direction(0, 0, -1), None),
        Face(far, pose.direction(0, 0, 1), None),
    ]
    for edge, (a, b) in enumerate(profile):
        after = (edge + 1) % len(profile)
        da, db = profile[after][0] - a, profile[after][1] - b
        length = math.hypot(da, db) or 1.0
        corners = [near[edge], near[after], far[after], far[edge]]
        sides.append(Face(corners, pose.direction(db / length, -da / length, 0), edge))
    seen = []
    for face in sides:
        x, y, z = face.corners[0]
        if -x * face.normal[0] + (view.eye - y) * face.normal[1] - z * face.normal[2] > 0:
            seen.append(face)
    return sorted(seen, key=lambda face: -sum(x * x + z * z for x, _, z in face.corners) / len(face.corners))


def solid(
    view: View,
    sketch: Sketch,
    pose: Pose,
    profile: Sequence[Flat],
    width: float,
    colour: Colour,
    edges: Mapping[int, Colour] | None = None,
    shadow: bool = True,
) -> list[Face]:
    """Paint an extruded profile and its shadow; the visible faces come back for details."""
    seen = faces(view, pose, profile, width)
    special = edges or {}
    for face in seen:
        own = special.get(face.edge, colour) if face.edge is not None else colour
        shade = view.lit(own, face.normal, pose.z)
        sketch.strokes.append(Stroke(view.polygon(face.corners), shade, True))
    if shadow:
        half = width / 2
        ring = [pose.point(a, b, c) for a, b in profile for c in (-half, half)]
        sketch.shadows.append(hull([view.on_ground(point) for point in ring]))
    return seen


def box(length: float, height: float) -> list[Flat]:
    """The profile of a box that stands on the ground."""
    return [(-length / 2, 0), (length / 2, 0), (length / 2, height), (-length / 2, height)]


def disc(radius: float, corners: int = 14, up: float | None = None) -> list[Flat]:
    """The profile of a lying cylinder, on the ground unless `up` says where its middle is."""
    middle = radius if up is None else up
    turns = [2 * math.pi * k / corners for k in range(corners)]
    return [(radius * math.cos(turn), middle + radius * math.sin(turn)) for turn in turns]


def on_face(view: View, corners: Sequence[Point], u0: float, v0: float, u1: float, v1: float) -> Polygon:
    """A rectangle on a four-cornered face, in shares of its sides."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz), (dx, dy, dz) = corners
    spots = []
    for u, v in ((u0, v0), (u1, v0), (u1, v1), (u0, v1)):
        a, b, c, d = (1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v
        spots.append(
            (ax * a + bx * b + cx * c + dx * d, ay * a + by * b + cy * c + dy * d, az * a + bz * b + cz * c + dz * d)
        )
    return view.polygon(spots)


def hull(points: Iterable[Flat]) -> Polygon:
    """The convex hull."""
    ordered = sorted(set(points))
    if len(ordered) < 3:
        return ordered
    half: list[Polygon] = []
    for line in (ordered, ordered[::-1]):
        chain: Polygon = []
        for x, y in line:
            while len(chain) > 1:
                (ax, ay), (bx, by) = chain[-2:]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                chain.pop()
            chain.append((x, y))
        half.append(chain[:-1])
    return half[0] + half[1]


def shade(colour: Colour, factor: float) -> Colour:
    return colour[0] * factor, colour[1] * factor, colour[2] * factor

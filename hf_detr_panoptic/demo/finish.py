"""From flat paint to a photo: clouds, textures, shadows on the ground, then what lens, sensor and JPEG do to it.

All textures are crops of a few tiles with a natural (1/f) spectrum, made once from a fixed seed.
"""

from __future__ import annotations

import functools
import io
import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from .view import Colour, View

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
    return Image.open(file).convert("RGB")

"""From flat colours to a photograph: hour of the day, sky, ground texture, sun and shadow, haze, lens and sensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from .canvas import PAVEMENT, ROAD, SKY, TREE, Camera, Canvas

Colour = tuple[float, float, float]

TILE = 256
"""Side of the tiled noise that ground and walls take their grain from."""


@dataclass(frozen=True)
class Light:
    """Hour and weather."""

    sun: Colour
    """Strength of direct light per channel; 1 leaves a colour as painted."""
    ambient: Colour
    zenith: Colour
    """Sky colours in 0..255; the lower one also is the colour of haze."""
    horizon: Colour
    clouds: float
    haze: float
    """Metres after which a third of the colour is left."""
    side: int
    """-1: the sun stands to the left, 1: to the right."""
    slope: float
    """Metres of shadow a metre of height throws; 0 when there are no shadows."""
    lamps: float
    """Share of windows lit."""


def draw_light(rng: np.random.Generator) -> Light:
    """Clear day, overcast, low sun or dusk."""
    side = int(rng.choice([-1, 1]))
    kind = rng.choice(["clear", "overcast", "low", "dusk"], p=[0.4, 0.25, 0.2, 0.15])
    dim = float(rng.uniform(0.88, 1.15))
    if kind == "clear":
        zenith, horizon = (70, 122, 196), (186, 208, 226)
        sun, ambient, slope, clouds, haze = (0.78, 0.74, 0.64), (0.42, 0.46, 0.54), rng.uniform(0.3, 1.0), 0.7, 220.0
    elif kind == "overcast":
        zenith, horizon = (150, 157, 166), (206, 208, 208)
        sun, ambient, slope, clouds, haze = (0.08, 0.08, 0.08), (0.74, 0.76, 0.79), 0.0, 0.5, 130.0
    elif kind == "low":
        zenith, horizon = (96, 128, 178), (244, 206, 158)
        sun, ambient, slope, clouds, haze = (0.86, 0.64, 0.40), (0.36, 0.37, 0.46), rng.uniform(0.9, 1.7), 0.8, 140.0
    else:
        zenith, horizon = (50, 60, 96), (186, 144, 126)
        sun, ambient, slope, clouds, haze = (0.10, 0.07, 0.06), (0.52, 0.50, 0.58), 0.0, 0.9, 120.0
    lamps = float(rng.uniform(0.25, 0.6)) if kind == "dusk" else 0.03
    return Light(
        sun=_times(sun, dim),
        ambient=_times(ambient, dim),
        zenith=_tinted(zenith, rng),
        horizon=_tinted(horizon, rng),
        clouds=clouds * float(rng.uniform(0.2, 1.1)),
        haze=haze * float(rng.uniform(0.7, 1.5)),
        side=side,
        slope=float(slope),
        lamps=lamps,
    )


def _times(colour: Colour, factor: float) -> Colour:
    red, green, blue = colour
    return red * factor, green * factor, blue * factor


def _tinted(colour: Colour, rng: np.random.Generator) -> Colour:
    red, green, blue = (float(v) for v in np.array(colour) + rng.normal(0, 9, 3))
    return red, green, blue


def develop(canvas: Canvas, light: Light, rng: np.random.Generator) -> np.ndarray:
    """Light the canvas. Returns (H, W, 3) float32 in 0..255 at the canvas's own size."""
    camera = canvas.camera
    label, depth, sunlit = canvas.facts()
    grain = fractal(rng, TILE, TILE, octaves=6)
    x, z = camera.ground()
    is_ground = (label == ROAD) | (label == PAVEMENT)
    depth = np.where(is_ground, z, depth)
    albedo = canvas.colour() * _texture(label, is_ground, x, z, grain, rng)[..., None]
    soft = _blurred(sunlit, camera.width / 400)
    sun, ambient, far = _array(light.sun), _array(light.ambient), _array(light.horizon)
    picture = albedo * (ambient + soft[..., None] * sun)
    clear = np.exp(-depth / np.float32(light.haze))[..., None]
    picture = picture * clear + far * (1 - clear)
    is_sky = (label == SKY)[..., None]
    return np.where(is_sky, _sky(camera, light, rng), picture).astype(np.float32)


def expose(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lens and sensor at the final size: vignette, exposure, white balance, blur, shot and read noise; uint8."""
    height, width = picture.shape[:2]
    rows, columns = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    vignette = 1 - rng.uniform(0, 0.22) * (rows**2 + columns**2) / 2
    gain = rng.uniform(0.82, 1.18) * (1 + rng.normal(0, 0.025, 3))
    exposed = picture * vignette[..., None].astype(np.float32) * np.float32(gain)
    radius = float(rng.uniform(0, 0.55)) * max(1.0, height / 256)
    image = Image.fromarray(np.clip(exposed, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    sharp = np.asarray(image, dtype=np.float32)
    read, shot = np.float32(rng.uniform(1, 3)), np.float32(rng.uniform(0.1, 0.3))
    noise = rng.standard_normal(sharp.shape, dtype=np.float32) * (read + shot * np.sqrt(sharp))
    return np.clip(sharp + noise + 0.5, 0, 255).astype(np.uint8)


def fractal(rng: np.random.Generator, height: int, width: int, octaves: int, first: int = 3) -> np.ndarray:
    """Noise of several scales, each half as strong as the one before: (H, W) float32, about -1..1."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        cells = first * 2**octave
        coarse = rng.random((cells, cells), dtype=np.float32) * 2 - 1
        fine = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(fine) * np.float32(0.55**octave)
    return total


def _texture(
    label: np.ndarray,
    is_ground: np.ndarray,
    x: np.ndarray,
    z: np.ndarray,
    grain: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Brightness factors (H, W): grain in perspective on the ground, joints between slabs, roughness elsewhere."""
    coarse = grain[_tiled(x * 9), _tiled(z * 9)]
    fine = grain[_tiled(x * 60), _tiled(z * 45)] * np.clip(12 / z, 0, 1)
    slab = float(rng.uniform(0.6, 1.4))
    joint = (np.mod(x, slab) < 0.06) | (np.mod(z, slab) < 0.08)
    joints = 1 - 0.28 * (joint & (label == PAVEMENT)) * np.clip(9 / z, 0, 1)
    ground = (1 + 0.10 * coarse + 0.12 * fine) * joints
    height, width = label.shape
    rough = np.tile(grain, (height // TILE + 1, width // TILE + 1))[:height, :width]
    return np.where(is_ground, ground, 1 + np.where(label == TREE, 0.22, 0.07) * rough).astype(np.float32)


def _array(colour: Colour) -> np.ndarray:
    return np.array(colour, dtype=np.float32)


def _tiled(metres: np.ndarray) -> np.ndarray:
    return np.mod(metres.astype(np.int32), TILE)


def _sky(camera: Camera, light: Light, rng: np.random.Generator) -> np.ndarray:
    """Gradient from zenith to horizon with clouds that flatten towards the horizon."""
    height, width = camera.height, camera.width
    up = np.clip(1 - np.arange(height, dtype=np.float32) / max(camera.horizon, 1), 0, 1)[:, None, None]
    low, high = _array(light.horizon), _array(light.zenith)
    sky = low + (high - low) * up**0.6
    cover = fractal(rng, height, width, octaves=5, first=2)
    amount = np.clip((cover + light.clouds - 0.6) * 1.6, 0, 1)[..., None] * np.clip(up * 3, 0, 1)
    bright = low * np.float32(1.06) + 12 - 40 * np.clip(cover, 0, 1)[..., None]
    return sky + (bright - sky) * amount * 0.85


def _blurred(values: np.ndarray, radius: float) -> np.ndarray:
    """Soften the edges of shadows."""
    image = Image.fromarray((values * 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(radius))
    return np.asarray(image, dtype=np.float32) / 255

"""What a scene is drawn on: a pinhole camera over a ground plane, and colour, class, depth and light kept in step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

ROAD, PAVEMENT, SKY, BUILDING, TREE, POLE, CAR, PERSON = range(8)

RGB = tuple[int, int, int]

NEAR = 0.6
"""Metres before the lens at which polygons are cut off."""

DEPTH_STEP = 0.5
"""Metres a step of the 8-bit depth layer."""


@dataclass(frozen=True)
class Camera:
    """A pinhole over the plane y = 0: x to the right, y up, z ahead, in metres; the street bends by ``curve`` z^2."""

    height: int
    width: int
    focal: float
    horizon: float
    """Row of the horizon in pixels, before roll."""
    eye: float
    """Height above the ground in metres."""
    roll: float
    """Radians."""
    curve: float

    def project(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) metres, all with z > 0, to (N, 2) pixels (x, y)."""
        x, y, z = points.T
        u = self.focal * (x / z + self.curve * z)
        v = self.horizon - self.height / 2 + self.focal * (self.eye - y) / z
        cos, sin = math.cos(self.roll), math.sin(self.roll)
        pixels = np.empty((len(points), 2))
        pixels[:, 0] = self.width / 2 + cos * u - sin * v
        pixels[:, 1] = self.height / 2 + sin * u + cos * v
        return pixels

    def ground(self) -> tuple[np.ndarray, np.ndarray]:
        """x and z in metres (H, W) where each pixel's ray meets the ground; z is 1000 at and above the horizon."""
        rows, columns = np.mgrid[: self.height, : self.width].astype(np.float32)
        u, v = columns - self.width / 2, rows - self.height / 2
        cos, sin = np.float32(np.cos(self.roll)), np.float32(np.sin(self.roll))
        u, v = cos * u + sin * v, cos * v - sin * u
        below = v + self.height / 2 - self.horizon
        z = np.minimum(self.focal * self.eye / np.maximum(below, 1e-3), 1000.0).astype(np.float32)
        return u * z / self.focal - self.curve * z * z, z

    def scale(self, z: float) -> float:
        """Pixels a metre at depth ``z``."""
        return self.focal / z


class Canvas:
    """Two pictures drawn by the same calls: colour, and (class, depth, light).

    Light is 255 in full sun and 0 where only the sky shines.
    """

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        size = (camera.width, camera.height)
        self._colour = Image.new("RGB", size)
        self._facts = Image.new("RGB", size, (SKY, 255, 255))
        self._shadows = Image.new("1", size)
        self._draws = (ImageDraw.Draw(self._colour), ImageDraw.Draw(self._facts))

    def colour(self) -> np.ndarray:
        """(H, W, 3) float32 in 0..255, unlit."""
        return np.asarray(self._colour, dtype=np.float32)

    def facts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Class, depth in metres and light in 0..1, each (H, W)."""
        facts = np.asarray(self._facts)
        return facts[..., 0], facts[..., 1].astype(np.float32) * DEPTH_STEP, facts[..., 2].astype(np.float32) / 255

    def polygon(self, points: Sequence[Sequence[float]] | np.ndarray, label: int, colour: RGB, light: int) -> None:
        """Paint a polygon given in metres (N, 3)."""
        corners = self._corners(points)
        if corners is not None:
            depth = float(np.asarray(points)[:, 2].mean())
            self._paint(corners, label, colour, depth, light)

    def decorate(self, points: Sequence[Sequence[float]] | np.ndarray, colour: RGB) -> None:
        """Change the colour alone: a window, a lane mark."""
        corners = self._corners(points)
        if corners is not None:
            self._draws[0].polygon(corners, fill=colour)

    def shadow(self, points: Sequence[Sequence[float]] | np.ndarray) -> None:
        """Mark a polygon to be darkened by `cast`."""
        corners = self._corners(points)
        if corners is not None:
            ImageDraw.Draw(self._shadows).polygon(corners, fill=1)

    def cast(self) -> None:
        """Take the light from all that lies under the shadows marked so far; classes stay."""
        label, depth, light = self._facts.split()
        light.paste(0, mask=self._shadows)
        self._facts.paste(Image.merge("RGB", (label, depth, light)))

    def flat(self, base: Sequence[float], outline: np.ndarray, label: int, colour: RGB, light: int) -> None:
        """Paint an (N, 2) outline in metres (right, up) standing upright at ``base`` and facing the camera."""
        self.polygon(_upright(base, outline), label, colour, light)

    def blob(
        self, centre: Sequence[float], radius: float, label: int, colour: RGB, light: int, squash: float = 1.0
    ) -> None:
        """Paint an ellipse ``radius`` metres wide and ``squash`` times as tall around a point."""
        if centre[2] < NEAR:
            return
        (u, v), r = self.camera.project(np.array([centre]))[0].tolist(), radius * self.camera.scale(centre[2])
        box = (u - r, v - r * squash, u + r, v + r * squash)
        self._draws[0].ellipse(box, fill=colour)
        self._draws[1].ellipse(box, fill=(label, _step(centre[2]), light))

    def _corners(self, points: Sequence[Sequence[float]] | np.ndarray) -> list[tuple[float, float]] | None:
        visible = cut_near(np.asarray(points, dtype=float))
        if len(visible) < 3:
            return None
        return [(u, v) for u, v in self.camera.project(visible).tolist()]

    def _paint(self, corners: list[tuple[float, float]], label: int, colour: RGB, depth: float, light: int) -> None:
        self._draws[0].polygon(corners, fill=colour)
        self._draws[1].polygon(corners, fill=(label, _step(depth), light))


def cut_near(points: np.ndarray) -> np.ndarray:
    """The part of a polygon (N, 3) in front of the plane z = NEAR (Sutherland and Hodgman, 1974)."""
    if (points[:, 2] >= NEAR).all():
        return points
    kept = []
    for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
        if a[2] >= NEAR:
            kept.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            kept.append(a + (NEAR - a[2]) / (b[2] - a[2]) * (b - a))
    return np.array(kept).reshape(-1, 3)


def shade(colour: Sequence[float], factor: float) -> RGB:
    """A colour made lighter or darker."""
    red, green, blue = (int(min(255, max(0, value * factor))) for value in colour)
    return red, green, blue


def vary(colour: Sequence[float], rng: np.random.Generator, spread: float) -> RGB:
    """A colour moved at random: mostly in brightness, a little in hue."""
    moved = np.asarray(colour) * (1 + rng.normal(0, spread)) + rng.normal(0, 60 * spread, 3)
    red, green, blue = (int(value) for value in np.clip(moved, 4, 250))
    return red, green, blue


def _upright(base: Sequence[float], outline: np.ndarray) -> np.ndarray:
    points = np.empty((len(outline), 3))
    points[:, :2] = outline + np.asarray(base)[:2]
    points[:, 2] = base[2]
    return points


def _step(depth: float) -> int:
    return int(min(255, max(0, depth / DEPTH_STEP)))

"""The street itself: ground, buildings along both sides, what closes the view, and where everything stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from .canvas import BUILDING, PAVEMENT, RGB, ROAD, TREE, Camera, Canvas, shade, vary
from .light import Light
from .objects import draw_car, draw_person, draw_pole, draw_tree

TARS: tuple[RGB, ...] = ((84, 84, 88), (104, 103, 102), (72, 74, 80), (122, 118, 112))
SLABS: tuple[RGB, ...] = ((158, 152, 144), (178, 168, 150), (140, 128, 114), (166, 142, 128), (122, 120, 118))
"""Lighter than tar as a rule; in the shade, in low sun or newly laid it is the other way round."""

WALLS: tuple[RGB, ...] = (
    (142, 74, 56), (168, 150, 122), (122, 122, 120), (196, 188, 172), (92, 84, 80), (104, 124, 140), (186, 152, 116),
    (150, 144, 138), (206, 206, 202), (112, 70, 60), (132, 142, 122), (164, 178, 190),
)  # fmt: skip

DRAWN_TO = 90.0
"""Metres ahead where the street ends."""

Job = tuple[float, Callable[[], None]]
"""Depth, and what to draw there."""


@dataclass(frozen=True)
class Street:
    """Cross-section, in metres."""

    half_road: float
    pavements: tuple[float, float]
    """Widths on the left and on the right."""

    def wall(self, side: int) -> float:
        """x of the buildings' fronts."""
        return side * (self.half_road + self.pavements[(side + 1) // 2])


def draw_camera(height: int, width: int, rng: np.random.Generator) -> Camera:
    """A camera at about eye height, looking roughly along the street."""
    base = (1.5 * height * width) ** 0.5
    return Camera(
        height=height,
        width=width,
        focal=base * float(rng.uniform(0.72, 1.0)),
        horizon=height * float(rng.uniform(0.4, 0.56)),
        eye=float(rng.uniform(1.45, 2.5)),
        roll=float(rng.normal(0, 0.018)),
        curve=float(rng.normal(0, 0.0016)),
    )


def draw_street(canvas: Canvas, light: Light, rng: np.random.Generator) -> None:
    """Everything but the sky, far to near."""
    street = Street(float(rng.uniform(2.7, 4.6)), (float(rng.uniform(2.2, 5.0)), float(rng.uniform(2.2, 5.0))))
    jobs = [job for side in (-1, 1) for job in _side(canvas, street, side, light, rng)]
    _draw_backdrop(canvas, rng)
    _draw_ground(canvas, street, rng)
    rows = [job for job in jobs if job[2] > 0]
    if light.slope:
        _cast_shadows(canvas, street, light, rows, rng)
    todo: list[Job] = [(depth, draw) for depth, draw, _ in jobs]
    todo += _traffic(canvas, street, light, rng) + _furniture(canvas, street, light, rng)
    canvas.cast()
    for _, draw in sorted(todo, key=lambda job: -job[0]):
        draw()


def _along(x: float, near: float, far: float, steps: int = 24) -> np.ndarray:
    """A line on the ground at ``x``, close points near the camera."""
    z = near * (far / near) ** np.linspace(0, 1, steps)
    return np.stack([np.full(steps, x), np.zeros(steps), z], axis=1)


def _strip(left: float, right: float, near: float, far: float, steps: int = 24) -> np.ndarray:
    return np.concatenate([_along(left, near, far, steps), _along(right, near, far, steps)[::-1]])


def _draw_ground(canvas: Canvas, street: Street, rng: np.random.Generator) -> None:
    tar, slabs = (vary(list_[rng.integers(len(list_))], rng, 0.09) for list_ in (TARS, SLABS))
    half = street.half_road
    canvas.polygon(_strip(-60, 60, 0.7, DRAWN_TO), PAVEMENT, slabs, 255)
    canvas.polygon(_strip(-half, half, 0.7, DRAWN_TO), ROAD, tar, 255)
    for _ in range(int(rng.integers(0, 4))):
        x, z, w, d = rng.uniform(-half, half - 1.5), rng.uniform(4, 25), rng.uniform(0.5, 1.4), rng.uniform(1, 6)
        canvas.decorate(_strip(x, x + w, z, z + d, 4), shade(tar, float(rng.uniform(0.75, 1.2))))
    kerb = vary((150, 148, 144), rng, 0.1)
    for side in (-1, 1):
        canvas.decorate(_strip(side * half, side * (half + 0.22), 0.7, DRAWN_TO), shade(kerb, 1.15))
        canvas.decorate(_strip(side * (half - 0.12), side * half, 0.7, DRAWN_TO), shade(tar, 0.72))
    _draw_marks(canvas, half, tar, rng)


def _draw_marks(canvas: Canvas, half: float, tar: RGB, rng: np.random.Generator) -> None:
    """Dashed middle line, at times edge lines and a zebra crossing."""
    paint = vary((214, 212, 202), rng, 0.08)
    phase = float(rng.uniform(0, 6))
    if rng.random() < 0.85:
        for k in range(-1, 12):
            near = max(0.7, phase + 6 * k)
            if phase + 6 * k + 3 > near:
                canvas.decorate(_strip(-0.09, 0.09, near, phase + 6 * k + 3, 4), paint)
    if rng.random() < 0.4:
        for side in (-1, 1):
            canvas.decorate(_strip(side * (half - 0.5), side * (half - 0.36), 0.7, 70), shade(paint, 0.95))
    if rng.random() < 0.3:
        near = float(rng.uniform(7, 16))
        canvas.decorate(_strip(-half + 0.2, half - 0.2, near - 0.8, near + 3.4, 4), tar)
        for x in np.arange(-half + 0.3, half - 0.5, 1.0):
            canvas.decorate(_strip(x, x + 0.5, near, near + 2.6, 3), paint)


def _draw_backdrop(canvas: Canvas, rng: np.random.Generator) -> None:
    """What closes the street: a jagged row of far houses or woods."""
    for layer in range(2):
        z = DRAWN_TO + 20 * (1 - layer)
        x = -110.0
        while x < 110:
            width, tall = float(rng.uniform(5, 16)), float(rng.uniform(3, 11))
            wood = rng.random() < 0.45
            colour = vary((72, 88, 56), rng, 0.12) if wood else vary(WALLS[rng.integers(len(WALLS))], rng, 0.08)
            if wood:
                steps = np.linspace(0, 1, 7)
                tops = tall * (0.7 + 0.3 * rng.random(7))
                outline = np.concatenate([[(0, 0)], np.column_stack([steps * width, tops]), [(width, 0)]])
                canvas.flat((x, 0, z), outline, TREE, colour, 120)
            else:
                canvas.flat((x, 0, z), np.array([(0, 0), (width, 0), (width, tall), (0, tall)]), BUILDING, colour, 120)
            x += width * 0.9


def _side(
    canvas: Canvas, street: Street, side: int, light: Light, rng: np.random.Generator
) -> list[tuple[float, Callable[[], None], float]]:
    """One side's buildings with gaps of trees: (depth, draw, height; 0 for a tree)."""
    jobs: list[tuple[float, Callable[[], None], float]] = []
    wall, z = street.wall(side), float(rng.uniform(-6, 1))
    typical = float(rng.uniform(5, 13))
    while z < DRAWN_TO - 15:
        length = float(rng.uniform(6, 15))
        if rng.random() < 0.18:
            for _ in range(3):
                tree = (side * (abs(wall) + float(rng.uniform(1.5, 6))), z + float(rng.uniform(0, length)))
                if tree[1] > 4:
                    child = np.random.default_rng(rng.integers(2**62))
                    jobs.append((tree[1], partial(draw_tree, canvas, *tree, light, child), 0.0))
        else:
            tall = max(3.5, typical * float(rng.uniform(0.6, 1.4)))
            setback = side * float(rng.choice([0, 0, 0.8, 2.0]))
            child = np.random.default_rng(rng.integers(2**62))
            place = (wall + setback, z, z + length, tall)
            jobs.append((z + length, partial(_draw_building, canvas, *place, light, child), tall))
        z += length + float(rng.choice([0, 0, 0, 1.5, 5]))
    return jobs


def _draw_building(
    canvas: Canvas, x: float, near: float, far: float, tall: float, light: Light, rng: np.random.Generator
) -> None:
    """A block with its front along the street and its end wall towards the camera."""
    side = 1 if x > 0 else -1
    paint = vary(WALLS[rng.integers(len(WALLS))], rng, 0.1)
    sunny = 235 if side * light.side < 0 else 40
    near = max(near, 0.7)
    depth = side * 12.0
    front = np.array([(x, 0, near), (x, 0, far), (x, tall, far), (x, tall, near)])
    end = np.array([(x, 0, near), (x + depth, 0, near), (x + depth, tall, near), (x, tall, near)])
    if rng.random() < 0.4:
        _draw_roof(canvas, x, near, far, tall, depth, rng)
    canvas.polygon(end, BUILDING, shade(paint, 0.86), 110)
    canvas.polygon(front, BUILDING, paint, sunny)
    _draw_windows(canvas, x, near, far, tall, paint, light, rng)


def _draw_roof(
    canvas: Canvas, x: float, near: float, far: float, tall: float, depth: float, rng: np.random.Generator
) -> None:
    tiles = vary(((120, 66, 52), (84, 84, 90), (98, 78, 66))[rng.integers(3)], rng, 0.1)
    ridge = tall + float(rng.uniform(1.2, 3.0))
    middle = x + depth / 3
    canvas.polygon([(x, tall, near), (x, tall, far), (middle, ridge, far), (middle, ridge, near)], BUILDING, tiles, 190)
    gable = [(x, tall, near), (middle, ridge, near), (x + depth * 2 / 3, tall, near)]
    canvas.polygon(gable, BUILDING, shade(tiles, 0.8), 110)


def _draw_windows(
    canvas: Canvas,
    x: float,
    near: float,
    far: float,
    tall: float,
    paint: RGB,
    light: Light,
    rng: np.random.Generator,
) -> None:
    """Rows of windows with frames above a ground floor of doors or shop fronts."""
    floor = float(rng.uniform(2.7, 3.4))
    pitch, wide = float(rng.uniform(1.9, 3.2)), float(rng.uniform(0.4, 0.68))
    frame = shade(paint, float(rng.choice([0.7, 1.25])))
    glass = vary(((58, 68, 80), (96, 112, 124), (44, 48, 56))[rng.integers(3)], rng, 0.12)
    count = max(1, int((far - near) / pitch))
    pitch = (far - near) / count
    starts = near + pitch * (np.arange(count) + (1 - wide) / 2)
    starts = starts[(starts > 2.5) & (starts < 60)]
    shop = rng.random() < 0.35
    for level in range(max(1, int(tall / floor))):
        low = level * floor + (0.35 if level == 0 and shop else 0.95)
        high = min(level * floor + floor - 0.55, tall - 0.25)
        for start in starts:
            pane = _pane(x, start, start + pitch * wide, low, high)
            if start < 22:
                canvas.decorate(_pane(x, start - 0.12, start + pitch * wide + 0.12, low - 0.12, high + 0.12), frame)
            lit = rng.random() < light.lamps
            canvas.decorate(
                pane, vary((255, 214, 130), rng, 0.1) if lit else shade(glass, float(rng.uniform(0.7, 1.4)))
            )
    if rng.random() < 0.5:
        band = _pane(x, near, far, floor - 0.3, floor - 0.12)
        canvas.decorate(band, shade(paint, 1.2))


def _pane(x: float, near: float, far: float, low: float, high: float) -> np.ndarray:
    return np.array([(x, low, near), (x, low, far), (x, high, far), (x, high, near)])


def _cast_shadows(
    canvas: Canvas,
    street: Street,
    light: Light,
    rows: list[tuple[float, Callable[[], None], float]],
    rng: np.random.Generator,
) -> None:
    """Long shadows of the buildings on the sun's side, with the skyline's steps, and dapples of trees unseen."""
    wall = street.wall(light.side)
    z = 0.7
    for far, _, tall in sorted(rows, key=lambda job: job[0])[::2]:
        reach = wall - light.side * min(tall * light.slope, abs(wall) + street.half_road + 3)
        if far > z:
            canvas.shadow(_strip(wall, reach, z, far, 6))
            z = far + float(rng.choice([0, 0, 1.5]))


def _traffic(canvas: Canvas, street: Street, light: Light, rng: np.random.Generator) -> list[Job]:
    """Cars in their lanes, parked at the kerbs, and now and then one crossing."""
    jobs: list[Job] = []
    for side in (-1, 1):
        lane, parked = side * street.half_road * 0.45, side * (street.half_road - 0.95)
        z = float(rng.uniform(6, 24))
        while z < 60 and len(jobs) < 9:
            if rng.random() < 0.75:
                x, heading = (parked, 0.0) if rng.random() < 0.5 else (lane, 0.0)
                heading = np.pi if side < 0 else heading
                heading += float(rng.normal(0, 0.05))
                jobs.append(_car(canvas, x + float(rng.normal(0, 0.12)), z, heading, light, rng))
            z += float(rng.uniform(6, 17))
    if rng.random() < 0.22:
        spot = (float(rng.uniform(-3, 3)), float(rng.uniform(8, 14)))
        heading = float(rng.choice([-1, 1])) * np.pi / 2 + float(rng.normal(0, 0.15))
        jobs.append(_car(canvas, *spot, heading, light, rng))
    return jobs


def _car(canvas: Canvas, x: float, z: float, heading: float, light: Light, rng: np.random.Generator) -> Job:
    _blot(canvas, x, z, 1.15, 2.4, light)
    child = np.random.default_rng(rng.integers(2**62))
    return z, partial(draw_car, canvas, x, z, heading, light, child)


def _furniture(canvas: Canvas, street: Street, light: Light, rng: np.random.Generator) -> list[Job]:
    """Trees and poles along the kerbs, people on the pavements and a few on the road."""
    jobs: list[Job] = []

    def spot(near: float, far: float, low: float, high: float) -> tuple[float, float, np.random.Generator]:
        side = int(rng.choice([-1, 1]))
        x = side * street.half_road + side * float(rng.uniform(low, high)) * street.pavements[(side + 1) // 2]
        return x, float(rng.uniform(near, far)), np.random.default_rng(rng.integers(2**62))

    for _ in range(int(rng.integers(1, 7))):
        x, z, child = spot(7, 40, 0.15, 0.45)
        _blot(canvas, x, z, 1.4, 1.2, light)
        jobs.append((z, partial(draw_tree, canvas, x, z, light, child)))
    for _ in range(int(rng.integers(2, 6))):
        x, z, child = spot(4.5, 15, 0.08, 0.3)
        jobs.append((z, partial(draw_pole, canvas, x, z, child)))
    for _ in range(int(rng.integers(3, 10))):
        x, z, child = spot(4, 12, 0.15, 0.95) if rng.random() < 0.8 else spot(5, 13, -1.2, 0.0)
        _blot(canvas, x, z, 0.35, 0.3, light)
        jobs.append((z, partial(draw_person, canvas, x, z, child)))
    return jobs


def _blot(canvas: Canvas, x: float, z: float, half_width: float, half_length: float, light: Light) -> None:
    """The shadow under a thing, drawn out away from the sun."""
    stretch = -light.side * min(light.slope, 1.2) * half_width
    angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    ring = np.stack([x + stretch + (half_width + abs(stretch)) * np.cos(angles), 0 * angles], axis=1)
    canvas.shadow(np.column_stack([ring, z + half_length * np.sin(angles)]))

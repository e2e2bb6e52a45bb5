"""What stands on the street: cars, trees, poles, people. Each function draws one at a place given in metres."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .canvas import CAR, PERSON, POLE, RGB, TREE, Canvas, shade, vary
from .light import Light

PAINTS: tuple[RGB, ...] = (
    (168, 34, 32), (36, 62, 124), (214, 214, 212), (52, 54, 58), (124, 128, 132), (186, 186, 180), (32, 88, 66),
    (206, 168, 60), (96, 60, 48), (112, 150, 178), (94, 96, 92),
)  # fmt: skip
LEAVES: tuple[RGB, ...] = (
    (62, 100, 44), (84, 118, 50), (44, 82, 46), (104, 116, 52), (140, 104, 46), (70, 98, 62), (58, 92, 52),
)  # fmt: skip
CLOTHES: tuple[RGB, ...] = (
    (44, 48, 82), (176, 42, 44), (52, 86, 160), (204, 190, 160), (122, 66, 42), (40, 120, 84), (222, 204, 60),
    (224, 116, 40), (156, 62, 132), (30, 30, 36),
)  # fmt: skip
SKINS: tuple[RGB, ...] = ((226, 184, 152), (190, 138, 104), (134, 92, 66), (88, 60, 46))
METALS: tuple[RGB, ...] = ((54, 58, 60), (108, 114, 116), (34, 60, 48), (64, 54, 48), (40, 42, 50))
GLASS: RGB = (52, 64, 76)

Place = Callable[[np.ndarray, np.ndarray, "np.ndarray | float"], np.ndarray]
"""From a car's own metres (along, up, across) to points (N, 3) on the street."""

# Outlines of cars seen from the left, (metres from the tail, metres up), from the tail's foot over the roof.
HATCHBACK = ((0.0, 0.32), (0.02, 0.86), (0.35, 1.42), (2.3, 1.46), (3.0, 0.95), (4.0, 0.78), (4.05, 0.32))
SALOON = ((0.0, 0.32), (0.0, 0.92), (0.75, 1.0), (1.35, 1.42), (2.7, 1.42), (3.35, 0.95), (4.4, 0.8), (4.45, 0.32))
VAN = ((0.0, 0.34), (0.0, 2.0), (3.6, 2.02), (4.25, 1.15), (4.8, 1.0), (4.85, 0.34))
SHAPES = ((HATCHBACK, (1, 3)), (SALOON, (2, 4)), (VAN, (2,)))
"""Each with the segments that are glass, counted from the tail's foot; a van's tail is closed."""


def draw_car(canvas: Canvas, x: float, z: float, heading: float, light: Light, rng: np.random.Generator) -> None:
    """A car with its middle at (x, 0, z), turned by ``heading`` radians (0: seen from behind)."""
    profile, glass = SHAPES[int(rng.choice(3, p=[0.48, 0.42, 0.1]))]
    paint = vary(PAINTS[rng.integers(len(PAINTS))], rng, 0.1)
    outline = np.array(profile)
    half = float(rng.uniform(0.84, 0.95))
    length = outline[-1, 0]
    turn = np.array([[math.cos(heading), math.sin(heading)], [-math.sin(heading), math.cos(heading)]])

    def place(along: np.ndarray, up: np.ndarray, across: np.ndarray | float) -> np.ndarray:
        local = np.stack([np.broadcast_to(across, along.shape), along - length / 2], axis=1)
        flat = local @ turn.T
        return np.stack([x + flat[:, 0], up, z + flat[:, 1]], axis=1)

    sides = sorted(((s, place(outline[:, 0], outline[:, 1], s * half)) for s in (-1, 1)), key=lambda p: -_far(p[1]))
    canvas.polygon(_under(place, length, half), CAR, (14, 14, 16), 0)
    canvas.polygon(sides[0][1], CAR, shade(paint, 0.7), 90)
    for k, face in _strips(outline, place, half):
        tone, lit = _facing(outline[k], outline[k + 1])
        canvas.polygon(face, CAR, GLASS if k in glass else shade(paint, tone), lit)
    _lamps(canvas, place, outline, half, facing_away=math.cos(heading) > 0)
    near, side = sides[1]
    canvas.polygon(side, CAR, shade(paint, 0.9), 200 if near * light.side < 0 else 130)
    _side_windows(canvas, place, outline, near * half, van=len(glass) == 1)
    for along in (0.18 * length, 0.81 * length):
        _wheel(canvas, place, along, near * half)


def _strips(outline: np.ndarray, place: Place, half: float) -> list[tuple[int, np.ndarray]]:
    """The faces between neighbouring points of the outline, farthest first."""
    faces = []
    for k in range(len(outline) - 1):
        (a, up_a), (b, up_b) = outline[k], outline[k + 1]
        along, up = np.array([a, b, b, a]), np.array([up_a, up_b, up_b, up_a])
        faces.append((k, place(along, up, np.array([-half, -half, half, half]))))
    return sorted(faces, key=lambda f: -_far(f[1]))


def _far(points: np.ndarray) -> float:
    """Mean distance from the camera; low faces come before high ones at the same distance."""
    return float(np.hypot(points[:, 0], points[:, 2]).mean() - 0.1 * points[:, 1].mean())


def _facing(a: np.ndarray, b: np.ndarray) -> tuple[float, int]:
    """Tone and light of a strip by its slope: roofs and bonnets see the sun, tails and grilles do not."""
    flat = abs(b[0] - a[0]) / (np.hypot(*(b - a)) + 1e-6)
    return 0.75 + 0.35 * float(flat), int(90 + 150 * flat)


def _under(place: Place, length: float, half: float) -> np.ndarray:
    along = np.array([0.25, length - 0.25, length - 0.25, 0.25])
    return place(along, np.full(4, 0.12), np.array([-half, -half, half, half]) * 0.95)


def _lamps(canvas: Canvas, place: Place, outline: np.ndarray, half: float, facing_away: bool) -> None:
    along, colour = (outline[0, 0] - 0.01, (196, 30, 24)) if facing_away else (outline[-1, 0] + 0.01, (240, 236, 206))
    for side in (-1, 1):
        across = side * half * np.array([0.62, 0.98, 0.98, 0.62])
        canvas.decorate(place(np.full(4, along), np.array([0.62, 0.62, 0.8, 0.8]), across), colour)
    plate = half * np.array([-0.28, 0.28, 0.28, -0.28])
    canvas.decorate(place(np.full(4, along), np.array([0.44, 0.44, 0.55, 0.55]), plate), (222, 214, 150))


def _side_windows(canvas: Canvas, place: Place, outline: np.ndarray, across: float, van: bool) -> None:
    roof = outline[outline[:, 1] > 0.9 * outline[:, 1].max()][:, 0]
    top, sill = outline[:, 1].max() - 0.1, 0.62 * outline[:, 1].max()
    left, right = (roof[-1] - 0.7, roof[-1]) if van else (roof[0], roof[-1])
    middle = (left + right) / 2
    for a, b, lean_a, lean_b in ((left, middle - 0.05, 0.0 if van else 0.22, 0), (middle + 0.05, right, 0, 0.4)):
        along = np.array([a - lean_a, b + lean_b, b, a])
        canvas.decorate(place(along, np.array([sill, sill, top, top]), across * 1.01), GLASS)


def _wheel(canvas: Canvas, place: Place, along: float, across: float) -> None:
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    for radius, colour in ((0.34, (20, 20, 22)), (0.19, (128, 130, 132))):
        rim = place(along + radius * np.cos(angles), 0.34 + radius * np.sin(angles), across * 1.02)
        if radius > 0.3:
            canvas.polygon(rim, CAR, colour, 120)
        else:
            canvas.decorate(rim, colour)


def draw_tree(canvas: Canvas, x: float, z: float, light: Light, rng: np.random.Generator) -> None:
    """A trunk and a crown of leafy blobs, round or pointed, now and then a bush."""
    leaf = vary(LEAVES[rng.integers(len(LEAVES))], rng, 0.08)
    kind = rng.choice(["round", "pointed", "bush"], p=[0.65, 0.2, 0.15])
    radius = float(rng.uniform(1.2, 2.1)) if kind != "bush" else float(rng.uniform(0.5, 0.9))
    stem = {"round": float(rng.uniform(1.9, 2.9)), "pointed": 0.6, "bush": 0.1}[str(kind)]
    width = radius * 0.1
    trunk = np.array([[-width, 0], [width, 0], [width * 0.7, stem + 0.6], [-width * 0.7, stem + 0.6]])
    canvas.flat((x, 0, z), trunk, TREE, vary((78, 62, 50), rng, 0.15), 140)
    tall = radius * (2.6 if kind == "pointed" else 1.7)
    # As many blobs as can be told apart: a far crown is a few pixels.
    count = int(np.clip(radius * canvas.camera.scale(z), 24, 70))
    heights = np.sort(rng.random(count)) if kind == "pointed" else rng.random(count)
    for up in heights:
        wide = (1 - up) if kind == "pointed" else math.sqrt(max(0.05, 1 - (2 * up - 1) ** 2))
        off = rng.uniform(-1, 1) * radius * wide
        lit = 0.5 + 0.3 * up + 0.25 * off * light.side / radius + rng.normal(0, 0.12)
        size = radius * float(rng.uniform(0.16, 0.32))
        centre = (x + off, stem + up * tall, z - 0.01 * radius)
        canvas.blob(centre, size, TREE, shade(leaf, 0.55 + 0.6 * lit), int(np.clip(255 * lit, 20, 255)), 0.85)


def draw_pole(canvas: Canvas, x: float, z: float, rng: np.random.Generator) -> None:
    """A lamp post, a sign or a traffic light."""
    metal = vary(METALS[rng.integers(len(METALS))], rng, 0.1)
    kind = rng.choice(["lamp", "sign", "signal"], p=[0.5, 0.3, 0.2])
    half = float(rng.uniform(0.11, 0.17))
    tall = float(rng.uniform(4.5, 6.5)) if kind == "lamp" else float(rng.uniform(2.4, 3.2))
    lit = int(rng.integers(110, 220))
    canvas.flat((x, 0, z), _box(-half, 0, half, tall), POLE, metal, lit)
    canvas.decorate(_lift((x, 0, z), _box(-half, 0, -half * 0.3, tall)), shade(metal, 1.25))
    if kind == "lamp":
        inward = -math.copysign(float(rng.uniform(0.8, 1.4)), x)
        canvas.flat((x, tall, z), _box(0, -half * 2, inward, 0), POLE, metal, lit)
        canvas.flat((x + inward, tall, z), _box(-0.3, -0.3, 0.3, -0.02), POLE, shade(metal, 0.8), lit)
    elif kind == "sign":
        face = ((188, 40, 40), (48, 84, 160), (206, 200, 196))[rng.integers(3)]
        canvas.blob((x, tall, z), 0.38, POLE, face, 200)
        canvas.decorate(_lift((x, tall, z), _box(-0.2, -0.08, 0.2, 0.08)), (224, 222, 216))
    else:
        canvas.flat((x, tall, z), _box(-0.2, -0.9, 0.2, 0.1), POLE, (34, 36, 36), 160)
        lamp = int(rng.integers(3))
        for k, colour in enumerate(((210, 48, 36), (214, 160, 40), (60, 190, 90))):
            on = colour if k == lamp else shade(colour, 0.25)
            canvas.blob((x, tall - 0.12 - 0.28 * k, z), 0.11, POLE, on, 255)


def draw_person(canvas: Canvas, x: float, z: float, rng: np.random.Generator) -> None:
    """Someone walking: legs in stride, coat, arms, head with hair, at times a bag."""
    size = float(rng.uniform(0.95, 1.15))
    top, legs = (vary(CLOTHES[rng.integers(len(CLOTHES))], rng, 0.12) for _ in range(2))
    skin, hair = SKINS[rng.integers(len(SKINS))], vary((58, 44, 36), rng, 0.4)
    stride, lean = float(rng.uniform(0.05, 0.3)), float(rng.uniform(-0.04, 0.04))
    base, lit = (x, 0.0, z), int(rng.integers(110, 240))

    def part(outline: list[tuple[float, float]], colour: RGB) -> None:
        canvas.flat(base, np.array(outline) * size, PERSON, colour, lit)

    for side in (-1, 1):
        foot = side * stride
        part([(0.02 * side, 0.9), (0.17 * side, 0.9), (foot + 0.07, 0.06), (foot - 0.07, 0.06)], shade(legs, 0.95))
        part([(foot - 0.08, 0), (foot + 0.1, 0), (foot + 0.08, 0.09), (foot - 0.08, 0.09)], (30, 28, 28))
        swing = -side * stride * 0.5
        arm = [(0.2 * side, 1.42), (0.28 * side, 1.36), (0.3 * side + swing, 0.84), (0.2 * side + swing, 0.84)]
        part(arm, shade(top, 0.82))
    hem = float(rng.uniform(0.62, 0.88))
    part(
        [(-0.2, hem), (0.2, hem), (0.24 + lean, 1.4), (0.14 + lean, 1.5), (-0.14 + lean, 1.5), (-0.24 + lean, 1.4)],
        top,
    )
    if rng.random() < 0.3:
        part([(0.18, 0.75), (0.42, 0.75), (0.4, 1.05), (0.2, 1.05)], vary((90, 60, 44), rng, 0.3))
    head = np.array([lean, 1.63]) * size
    canvas.blob((x + head[0], head[1] + 0.04, z), 0.14 * size, PERSON, hair, lit, 1.15)
    canvas.blob((x + head[0], head[1] - 0.03, z), 0.11 * size, PERSON, skin, lit, 1.1)


def _box(left: float, bottom: float, right: float, top: float) -> np.ndarray:
    return np.array([[left, bottom], [right, bottom], [right, top], [left, top]])


def _lift(base: tuple[float, float, float], outline: np.ndarray) -> np.ndarray:
    return np.column_stack([outline + np.array(base[:2]), np.full(len(outline), base[2])])

"""The classes of a data set: names in the order of the indices, one colour each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import CatchweightError, UsageError, shown

IGNORE = 255
"""The value of pixels without a label in every mask handed out, whatever value the files use."""

MAX_CLASSES = 254
"""Masks are uint8: 0..253 are classes, 254 stays free and 255 is :data:`IGNORE`."""

Color = tuple[int, int, int]


@dataclass(frozen=True)
class ClassSet:
    """Class names and colours; the position in ``names`` is the value in a mask.

    Args:
        names: at least one, unique, at most :data:`MAX_CLASSES`.
        colors: RGB in 0..255, one a class; left out, distinct colours are generated.

    Raises:
        UsageError: too many, repeated or empty names, or colours that do not fit.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...] = ()

    def __post_init__(self) -> None:
        names = tuple(str(name).strip() for name in self.names)
        colors = tuple(_color(color) for color in self.colors) or distinct_colors(len(names))
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "colors", colors)
        if not 1 <= len(names) <= MAX_CLASSES:
            raise UsageError(f"a data set has 1 to {MAX_CLASSES} classes, but {len(names)} were given")
        if "" in names:
            raise UsageError(f"class {names.index('')} has an empty name: give every class a name")
        if len(set(names)) < len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise UsageError(f"class names must be unique, but these appear twice: {', '.join(twice)}")
        if len(colors) != len(names):
            raise UsageError(f"{len(names)} classes need {len(names)} colours, but got {len(colors)}")

    def __len__(self) -> int:
        return len(self.names)

    def to_json(self) -> dict[str, Any]:
        """The keys of ``classes.json``; what :meth:`from_json` reads back."""
        return {
            "classes": list(self.names),
            "palette": [list(color) for color in self.colors],
            "ignore_index": IGNORE,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ClassSet:
        """Inverse of :meth:`to_json`."""
        try:
            return cls(tuple(value["classes"]), tuple(value["palette"]))
        except (KeyError, TypeError) as error:
            raise CatchweightError('a class set is {"classes": [names], "palette": [[r, g, b]]}') from error


def _color(value: Any) -> Color:
    """Three integers in 0..255, or a usage error that shows what was given."""
    try:
        red, green, blue = (int(part) for part in value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"a colour is three integers [r, g, b], but got {shown(value)}") from error
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        raise UsageError(f"a colour's parts lie in 0..255, but got {shown(value)}")
    return red, green, blue


def distinct_colors(count: int) -> tuple[Color, ...]:
    """``count`` colours far from each other to the eye; a longer list begins with the shorter one.

    Farthest-point sampling in CIE L*a*b* (CIE 15, 1976), away from black, white and grey, which are hard to
    tell from unlabelled pixels and from the picture itself.
    """
    return _distinct_colors(MAX_CLASSES)[: max(0, count)]


@lru_cache(maxsize=1)
def _distinct_colors(count: int) -> tuple[Color, ...]:
    steps = np.linspace(0, 255, 18).round()
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    lab = _to_lab(grid)
    vivid = (np.hypot(lab[:, 1], lab[:, 2]) > 25) & (lab[:, 0] > 30) & (lab[:, 0] < 90)
    grid, lab = grid[vivid], lab[vivid]
    chosen = [int(np.argmin(((grid - (230, 60, 60)) ** 2).sum(1)))]
    distance = np.full(len(grid), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, ((lab - lab[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(distance.argmax()))
    return tuple(_color(grid[index]) for index in chosen)


def _to_lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB ``(N, 3)`` in 0..255 to L*a*b* under D65."""
    value = rgb / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / (0.9505, 1.0, 1.089)
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = root[:, 0], root[:, 1], root[:, 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)

"""Demo scenes: drawn street scenes with exact masks, for trying everything out without any data.

A pinhole camera looks along a street of random cross-section, hour and weather; buildings, trees, poles, cars and
people are drawn far to near at twice the size, lit, hazed, and scaled down. Colours overlap between the classes on
purpose (a car may be grey as the road, a house as the sky), so that shape, texture and place must be learnt.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import UsageError
from ...files import read_json, write_json, written_aside
from .canvas import Canvas
from .light import develop, draw_light, expose
from .street import draw_camera, draw_street

CLASSES = ("road", "pavement", "sky", "building", "tree", "pole", "car", "person")
PALETTE = (
    (128, 64, 128), (244, 35, 232), (70, 130, 180), (110, 110, 110), (107, 142, 35), (220, 190, 60), (0, 0, 142),
    (220, 20, 60),
)  # fmt: skip
"""Cityscapes' colours, poles and buildings a little stronger."""

VERSION = 1
"""Raise when the same seed gives other pictures."""

FINER = 2
"""Scenes are drawn this many times larger than asked for."""


def render_scene(
    size: tuple[int, int], seed: int = 0, split: str = "train", index: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene; the same arguments give the same bits.

    Returns:
        Image (H, W, 3) uint8 RGB and mask (H, W) uint8 of indices into `CLASSES`.
    """
    height, width = size
    rng = np.random.default_rng((seed, zlib.crc32(split.encode()), index))
    camera = draw_camera(height * FINER, width * FINER, rng)
    light = draw_light(rng)
    canvas = Canvas(camera)
    draw_street(canvas, light, rng)
    picture = develop(canvas, light, rng)
    picture = picture.reshape(height, FINER, width, FINER, 3).mean(axis=(1, 3))
    mask = canvas.facts()[0][FINER // 2 :: FINER, FINER // 2 :: FINER]
    return expose(picture, rng), np.ascontiguousarray(mask)


def make_scenes(
    folder: Path | str,
    counts: Mapping[str, int] | None = None,
    size: tuple[int, int] = (128, 192),
    seed: int = 0,
) -> Path:
    """Write a data set of demo scenes in the folder layout: ``images/<split>``, ``masks/<split>``, ``classes.json``.

    Scene ``i`` of a split depends on (seed, split, i, size) alone. ``classes.json`` is written last; a folder that
    already holds these very scenes is left as it is.

    Args:
        counts: scenes a split; default 120 to train on and 40 to validate.
        size: (H, W), at least 32 x 32.

    Raises:
        UsageError: impossible counts or size, or a folder that holds something else.
    """
    folder, counts = Path(folder), dict(counts if counts is not None else {"train": 120, "val": 40})
    if min(size) < 32 or not counts or min(counts.values()) < 0:
        raise UsageError(f"demo scenes need sides of at least 32 pixels and counts >= 0, not {size} and {counts}")
    made = {"version": VERSION, "seed": seed, "size": list(size), "counts": counts}
    if (folder / "classes.json").exists():
        if read_json(folder / "classes.json").get("scenes") == made:
            return folder
        raise UsageError(f"{folder} already holds another data set: choose another folder or remove this one")
    for split, count in counts.items():
        for index in range(count):
            _write_scene(folder, split, index, size, seed)
    palette = [list(colour) for colour in PALETTE]
    said = {"classes": list(CLASSES), "num_classes": len(CLASSES), "palette": palette, "scenes": made}
    write_json(folder / "classes.json", said)
    return folder


def _write_scene(folder: Path, split: str, index: int, size: tuple[int, int], seed: int) -> None:
    image, mask = render_scene(size, seed, split, index)
    with written_aside(folder / "images" / split / f"{index:05d}.png") as path:
        Image.fromarray(image).save(path, format="PNG", compress_level=1)
    with written_aside(folder / "masks" / split / f"{index:05d}.png") as path:
        Image.fromarray(mask).save(path, format="PNG")

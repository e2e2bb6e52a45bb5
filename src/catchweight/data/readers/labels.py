"""Masks from files of pixels (index, palette, colour-coded) and from polygons and run lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from ..classes import IGNORE, Color
from .layout import BadFileError, Record
from .pixels import opened

UNKNOWN = 254
"""Stands for "no class" in the tables below; free because a data set has at most 254 classes (0..253)."""

_COLOR_CODE = np.array([65536, 256, 1], dtype=np.int32)

_LOSSY = "; JPEG changes the values of a mask: save masks as PNG"


@dataclass(frozen=True)
class PixelLabels:
    """Masks kept as pictures: one grey or palette index a pixel, or one colour a pixel.

    Args:
        values: mask value to class index or IGNORE; any other value is a problem.
        colors: colour to class index or IGNORE, for RGB masks, and for palette masks that have no other colours;
            empty: RGB masks whose channels are equal are read as indices.
        known: what the values may be, for messages ("0..10, 11 = ignored").
    """

    values: Mapping[int, int]
    colors: Mapping[Color, int] = field(default_factory=dict)
    known: str = ""
    upright: bool = False

    def mask(self, record: Record, size: tuple[int, int]) -> np.ndarray:
        assert record.mask is not None
        with opened(record.mask) as picture:
            pixels = _mask_pixels(picture)
            colored = self._from_palette(pixels, picture) if picture.mode == "P" and self.colors else None
        if colored is not None:
            return colored
        if pixels.ndim == 2:
            return self._from_indices(pixels, record.mask)
        if not self.colors and (pixels == pixels[..., :1]).all():
            return self._from_indices(pixels[..., 0], record.mask)
        return self._from_colors(pixels, record.mask)

    def signature(self) -> str:
        return repr((sorted(self.values.items()), sorted(self.colors.items())))

    @cached_property
    def _table(self) -> np.ndarray:
        table = np.full(256, UNKNOWN, dtype=np.uint8)
        table[list(self.values)] = list(self.values.values())
        return table

    def _from_indices(self, pixels: np.ndarray, file: Path) -> np.ndarray:
        if pixels.dtype != np.uint8:
            if pixels.min() < 0 or pixels.max() > 255:
                raise BadFileError(file, f"mask value {pixels.max()} stands for no class; known: {self.known}")
            pixels = pixels.astype(np.uint8)
        mask = self._table[pixels]
        wrong = mask == UNKNOWN
        if wrong.any():
            values = ", ".join(str(value) for value in np.unique(pixels[wrong])[:8])
            reason = f"mask value {values} in {_share(wrong)} of the pixels stands for no class; known: {self.known}"
            raise BadFileError(file, reason + _if_lossy(file))
        return mask

    def _from_palette(self, pixels: np.ndarray, picture: Image.Image) -> np.ndarray | None:
        """The mask by its colours, or None where these tell nothing: one in use is unknown, or two are the same.

        Tools that shrink PNGs turn RGB masks into palette masks whose indices mean nothing. Others write indices with
        any palette, often one that is black where it was not filled.
        """
        codes = np.array(picture.getpalette() or [], dtype=np.int32).reshape(-1, 3) @ _COLOR_CODE
        used = np.unique(pixels)
        if used[-1] >= len(codes) or len(np.unique(codes[used])) < len(used):
            return None
        indices, wrong = look_up(codes, self._codes)
        return None if wrong[used].any() else indices[pixels]

    @cached_property
    def _codes(self) -> dict[int, int]:
        return {red << 16 | green << 8 | blue: index for (red, green, blue), index in self.colors.items()}

    def _from_colors(self, pixels: np.ndarray, file: Path) -> np.ndarray:
        if not self.colors:
            reason = 'colour-coded mask, but the classes file gives no colours: add "palette" to it'
            raise BadFileError(file, reason)
        codes = pixels.astype(np.int32) @ _COLOR_CODE
        mask, wrong = look_up(codes, self._codes)
        if wrong.any():
            value = int(codes[wrong][0])
            color = (value >> 16, value >> 8 & 255, value & 255)
            reason = f"mask colour {color} stands for no class ({_share(wrong)} of the pixels have unknown colours)"
            raise BadFileError(file, f"{reason}; add it to the classes file's palette" + _if_lossy(file))
        return mask


def look_up(codes: np.ndarray, table: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Codes of any size, ``(H, W)``, to class indices uint8, and where a code is not in the table."""
    known = np.array(sorted(table))
    place = np.searchsorted(known, codes).clip(max=len(known) - 1)
    indices = np.array([table[code] for code in known.tolist()], dtype=np.uint8)
    return indices[place], known[place] != codes


def _share(wrong: np.ndarray) -> str:
    return f"{100 * wrong.mean():.3g} %"


def _if_lossy(file: Path) -> str:
    return _LOSSY if file.suffix.lower() in {".jpg", ".jpeg"} else ""


def _mask_pixels(picture: Image.Image) -> np.ndarray:
    """``(H, W)`` integers for index and palette masks, ``(H, W, 3)`` uint8 for coloured ones."""
    if picture.mode in {"L", "P"} or picture.mode.startswith("I"):
        return np.asarray(picture)
    if picture.mode == "1":
        return np.asarray(picture).astype(np.uint8)
    if picture.mode in {"LA", "PA"}:
        return np.asarray(picture)[..., 0]
    return np.asarray(picture.convert("RGB"))


@dataclass(frozen=True)
class Shape:
    """One annotated region: its class and its outline or run lengths, in pycocotools' terms."""

    index: int
    region: Any
    crowd: bool = False


def paint(shapes: Sequence[Shape], size: tuple[int, int], empty: int, file: Path | str) -> np.ndarray:
    """Regions onto one mask ``(H, W)`` uint8: crowds first, then large before small, so nothing is buried.

    Args:
        shapes: ``region`` is a list of flat [x0, y0, x1, y1, ...] polygons in pixels, or COCO RLE, compressed
            (counts is text) or not (counts is a list).
        size: (H, W).
        empty: the value where nothing is annotated.
        file: for the message.

    Raises:
        BadFileError: a region that is not a polygon or RLE, or an RLE of another size.
    """
    try:
        runs = [_to_rle(shape.region, size) for shape in shapes]
        areas = [float(coco_mask.area(run)) for run in runs]
        order = sorted(range(len(shapes)), key=lambda i: (not shapes[i].crowd, -areas[i]))
        mask = np.full(size, empty, dtype=np.uint8)
        for i in order:
            mask[coco_mask.decode(runs[i]).astype(bool)] = shapes[i].index
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise BadFileError(file, f"broken region ({error}): expected polygons or COCO RLE") from error
    return mask


def _to_rle(region: Any, size: tuple[int, int]) -> dict[str, Any]:
    if isinstance(region, Mapping):
        if tuple(region["size"]) != size:
            raise ValueError(f"run lengths for (H, W) = {tuple(region['size'])} on an image of {size}")
        if isinstance(region["counts"], list):
            if sum(region["counts"]) != size[0] * size[1] or min(region["counts"]) < 0:
                raise ValueError(f"run lengths do not add up to {size[0]}x{size[1]} pixels")
            return coco_mask.frPyObjects(dict(region), *size)
        return dict(region)
    polygons = [np.asarray(polygon, dtype=np.float64) for polygon in region]
    if not polygons or any(p.ndim != 1 or len(p) < 6 or len(p) % 2 for p in polygons):
        raise ValueError("a polygon needs at least three points of x and y")
    if not all(np.isfinite(polygon).all() for polygon in polygons):
        raise ValueError("a polygon's coordinates must be finite numbers")
    # pycocotools walks every pixel of an outline: a point at 1e9 would take all memory.
    reach = max(size)
    near = [polygon.clip(-reach, 2 * reach).tolist() for polygon in polygons]
    return coco_mask.merge(coco_mask.frPyObjects(near, *size))


def value_table(classes: int, ignored: Sequence[int] = (IGNORE,)) -> dict[int, int]:
    """Mask value to class index where the values are 0..classes-1, with ``ignored`` ones beside them."""
    return {**{index: index for index in range(classes)}, **dict.fromkeys(ignored, IGNORE)}

"""Masks made visible: colours over pictures, and a picture grid of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..files import written_aside
from .classes import IGNORE, ClassSet
from .dataset import Sample, SegmentationData
from .readers.layout import BadFileError, Record

_PAPER, _INK, _FAINT = (255, 255, 255), (28, 32, 38), (112, 120, 130)
_GAP, _MARGIN = 10, 28


def colorize(mask: np.ndarray, classes: ClassSet) -> np.ndarray:
    """``(H, W)`` class indices to ``(H, W, 3)`` uint8 colours; whatever is no class, IGNORE too, is black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(classes)] = classes.colors
    return table[mask]


def overlay(
    image: np.ndarray, mask: np.ndarray, classes: ClassSet, alpha: float = 0.5, outline: bool = False
) -> np.ndarray:
    """The mask's colours blended over the picture; ignored pixels show the picture alone.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        mask: ``(H, W)`` uint8.
        classes: for the colours.
        alpha: weight of the colours, 0 (picture only) to 1 (colours only).
        outline: draw the pixels where the class changes in full colour.

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        ValueError: sizes that differ, or alpha outside 0..1.
    """
    if image.shape[:2] != mask.shape:
        raise ValueError(f"image and mask must have one size, got (H, W) = {image.shape[:2]} and {mask.shape}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in 0..1, but got {alpha=}")
    weight = np.zeros(256, dtype=np.uint16)
    weight[: len(classes)] = round(256 * alpha)
    share = weight[mask]
    if outline:
        share[_edges(mask) & (share > 0)] = 256
    share = share[..., None]
    return ((image * (256 - share) + colorize(mask, classes) * share + 128) >> 8).astype(np.uint8)


def _edges(mask: np.ndarray) -> np.ndarray:
    """Where a pixel differs from the one to its right or below."""
    edges = np.zeros(mask.shape, dtype=bool)
    edges[:, :-1] |= mask[:, 1:] != mask[:, :-1]
    edges[:-1] |= mask[1:] != mask[:-1]
    return edges


@dataclass(frozen=True)
class _Shown:
    """A sample of the grid, already at the size of its cell."""

    caption: str
    image: Image.Image
    overlay: Image.Image
    present: frozenset[int]


def draw_grid(data: SegmentationData, path: Path | str, count: int = 12, cell: int = 264) -> Path:
    """Write a PNG: ``count`` pictures from all labelled splits, each beside its mask's overlay, with a legend.

    Samples that cannot be read are passed over; ``check_data`` names them.

    Args:
        data: an opened data set.
        path: of the PNG; its folder is made.
        count: pictures shown, spread evenly over each split.
        cell: width of one picture in pixels.

    Raises:
        BadFileError: no sample can be read.
        CatchweightError: the file cannot be written.
    """
    shown = [_show(sample, split, data.classes, cell) for split, sample in _samples(data, count)]
    if not shown:
        raise BadFileError(data.root, "no labelled image can be read, so there is nothing to draw")
    page = _page(shown, data, cell)
    with written_aside(Path(path)) as temporary:
        page.save(temporary, format="PNG", optimize=True)
    return Path(path)


def _samples(data: SegmentationData, count: int) -> Iterator[tuple[str, Sample]]:
    """Readable samples, the splits' parts by their size but each at least one, evenly spaced within a split."""
    labelled = {split: [record for record in records if record.mask] for split, records in data.splits.items()}
    labelled = {split: records for split, records in labelled.items() if records}
    total = sum(len(records) for records in labelled.values())
    left = min(count, total)
    for place, (split, records) in enumerate(labelled.items()):
        last = place == len(labelled) - 1
        part = left if last else max(1, min(left - 1, round(count * len(records) / total)))
        part = min(part, len(records), left)
        left -= part
        for sample in _readable(data, records, part):
            yield split, sample


def _readable(data: SegmentationData, records: Sequence[Record], count: int) -> Iterator[Sample]:
    """``count`` evenly spaced samples; where one is broken, the next good one after it."""
    starts = [index * len(records) // max(count, 1) for index in range(count)]
    for start, end in zip(starts, [*starts[1:], len(records)], strict=True):
        for record in records[start:end]:
            try:
                yield data.read(record)
                break
            except BadFileError:
                continue


def _show(sample: Sample, split: str, classes: ClassSet, width: int) -> _Shown:
    """Shrink the picture before blending, so that outlines stay one pixel wide."""
    scale = min(width / sample.image.shape[1], width / sample.image.shape[0])
    size = (max(1, round(sample.image.shape[1] * scale)), max(1, round(sample.image.shape[0] * scale)))
    image = Image.fromarray(sample.image).resize(size, Image.Resampling.LANCZOS)
    mask = np.asarray(Image.fromarray(sample.mask).resize(size, Image.Resampling.NEAREST))
    painted = Image.fromarray(overlay(np.asarray(image), mask, classes, alpha=0.6, outline=True))
    name = sample.id.split("/")[-1]
    present = frozenset(int(value) for value in np.unique(sample.mask) if value != IGNORE)
    return _Shown(f"{split} · {name}", image, painted, present)


def _page(shown: Sequence[_Shown], data: SegmentationData, cell: int) -> Image.Image:
    """Three pairs a row under a title, the classes that occur below."""
    columns = min(3, len(shown))
    rows = [shown[start : start + columns] for start in range(0, len(shown), columns)]
    pair = 2 * cell + 2
    width = 2 * _MARGIN + columns * pair + (columns - 1) * 2 * _GAP
    heights = [max(item.image.height for item in row) for row in rows]
    entries = _legend(sorted(set().union(*(item.present for item in shown))), data.classes, width - 2 * _MARGIN)
    top = _MARGIN + 64
    legend_top = top + sum(heights) + len(rows) * (24 + _GAP) + _GAP
    page = Image.new("RGB", (width, legend_top + 28 * (entries[-1][1] + 1 if entries else 0) + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(page)
    _title(pen, data)
    for row, height in zip(rows, heights, strict=True):
        for column, item in enumerate(row):
            left = _MARGIN + column * (pair + 2 * _GAP)
            _place(page, pen, item, left, top, cell)
        top += height + 24 + _GAP
    for left, line, index in entries:
        _swatch(pen, _MARGIN + left, legend_top + 28 * line, data.classes, index)
    return page


def _title(pen: ImageDraw.ImageDraw, data: SegmentationData) -> None:
    counts = ", ".join(f"{len(records)} {split}" for split, records in data.splits.items())
    pen.text((_MARGIN, _MARGIN - 6), data.root.name, font=_font(26), fill=_INK)
    pen.text(
        (_MARGIN, _MARGIN + 30),
        f"{data.format} · {len(data.classes)} classes · {counts}",
        font=_font(15),
        fill=_FAINT,
    )


def _place(page: Image.Image, pen: ImageDraw.ImageDraw, item: _Shown, left: int, top: int, cell: int) -> None:
    """A pair of pictures, side by side in the middle of two cells, and its caption."""
    across = left + (cell - item.image.width)
    page.paste(item.image, (across, top))
    page.paste(item.overlay, (left + cell + 2, top))
    caption = _fitted(item.caption, 2 * item.image.width, 13)
    pen.text((across, top + item.image.height + 4), caption, font=_font(13), fill=_FAINT)


def _legend(present: Iterable[int], classes: ClassSet, width: int) -> list[tuple[int, int, int]]:
    """(x, line, class) of every legend entry, broken into lines."""
    entries, left, line = [], 0, 0
    for index in present:
        need = 30 + round(_font(15).getlength(classes.names[index])) + 22
        if left and left + need > width:
            left, line = 0, line + 1
        entries.append((left, line, index))
        left += need
    return entries


def _swatch(pen: ImageDraw.ImageDraw, left: int, top: int, classes: ClassSet, index: int) -> None:
    pen.rounded_rectangle((left, top, left + 20, top + 18), radius=4, fill=classes.colors[index])
    pen.text((left + 28, top), classes.names[index], font=_font(15), fill=_INK)


def _fitted(text: str, width: int, size: int) -> str:
    """The text, its middle cut out when it is too long."""
    while _font(size).getlength(text) > width and len(text) > 8:
        middle = len(text) // 2
        text = text[: middle - 2] + "…" + text[middle + 2 :]
    return text


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)

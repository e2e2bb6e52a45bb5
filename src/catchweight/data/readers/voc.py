"""Pascal VOC: ``JPEGImages``, ``SegmentationClass`` and the lists in ``ImageSets/Segmentation``.

Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", 2010. 21 classes with the background;
255 is the void border.
"""

from __future__ import annotations

from pathlib import Path

from ..classes import ClassSet, Color
from .labels import PixelLabels, value_table
from .layout import Layout, Options, Problem, Reader, Record, inside, pictures, split_name


def _voc_color(index: int) -> Color:
    """VOC's colour of a class: the index's bits, three at a time, are the high bits of red, green and blue."""
    red = green = blue = 0
    for place in range(7, -1, -1):
        red |= (index & 1) << place
        green |= (index >> 1 & 1) << place
        blue |= (index >> 2 & 1) << place
        index >>= 3
    return red, green, blue


_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
CLASSES = ClassSet(_NAMES, tuple(_voc_color(index) for index in range(len(_NAMES))))
VOID: Color = (224, 224, 192)


def _recognises(root: Path) -> bool:
    return (root / "JPEGImages").is_dir() and (root / "SegmentationClass").is_dir()


def _read(root: Path, options: Options) -> Layout:
    """Splits are the lists; without lists every picture that has a mask is "train"."""
    colors = {color: index for index, color in enumerate(CLASSES.colors)} | {VOID: 255}
    labels = PixelLabels(value_table(len(CLASSES)), colors, "0..20; ignored: 255")
    layout = Layout(CLASSES, labels, {})
    images, masks = pictures(root / "JPEGImages"), pictures(root / "SegmentationClass")
    lists = {path.stem: path for path in sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))}
    if not lists:
        names = [name for name in images if name in masks]
        layout.splits["train"] = [Record(name, images[name], masks[name]) for name in names]
        layout.notes.append("no ImageSets/Segmentation lists: every picture with a mask is used")
    if "train" in lists:
        lists.pop("trainval", None)  # the union of the other two
    for name, path in lists.items():
        split = "train" if name == "trainval" else split_name(name)
        layout.splits[split] = _listed(path, root, images, masks, layout.problems)
    return layout


def _listed(
    path: Path, root: Path, images: dict[str, Path], masks: dict[str, Path], problems: list[Problem]
) -> list[Record]:
    records: dict[str, Record] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        name = line.split()[0] if line.strip() else ""
        if not name:
            continue
        if inside(root / "JPEGImages", name) is None:
            problems.append(
                Problem("warning", str(path), f'line {number}: "{name}" leads out of the data set; skipped')
            )
        elif name not in images:
            problems.append(Problem("warning", str(path), f"line {number}: no JPEGImages/{name}.jpg; skipped"))
        else:
            records[name] = Record(name, images[name], masks.get(name))
    return list(records.values())


READER = Reader(
    name="voc",
    looks_for="JPEGImages/ and SegmentationClass/ with ImageSets/Segmentation/*.txt (Pascal VOC)",
    recognises=_recognises,
    read=_read,
)

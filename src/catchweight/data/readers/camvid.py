"""CamVid as SegNet laid it out: ``train/`` beside ``trainannot/``, and so for val and test.

Brostow, Fauqueur, Cipolla, "Semantic object classes in video", 2009; the 11 classes of Badrinarayanan et al.,
"SegNet", 2015. Mask value 11 is unlabelled.
"""

from __future__ import annotations

from pathlib import Path

from ..classes import IGNORE, ClassSet
from .labels import PixelLabels, value_table
from .layout import Layout, Options, Reader, pair, pictures, split_name, subfolders

CLASSES = ClassSet(
    (
        *("sky", "building", "pole", "road", "pavement", "tree"),
        *("sign_symbol", "fence", "car", "pedestrian", "bicyclist"),
    ),
    (
        *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0)),
        *((192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
    ),
)
UNLABELLED = 11


def _recognises(root: Path) -> bool:
    return (root / "train").is_dir() and (root / "trainannot").is_dir()


def _read(root: Path, options: Options) -> Layout:
    """A folder without its ``annot`` twin is read without labels."""
    labels = PixelLabels(value_table(len(CLASSES), (UNLABELLED, IGNORE)), known="0..10; ignored: 11, 255")
    layout = Layout(CLASSES, labels, {})
    for folder in subfolders(root):
        images = pictures(folder)
        if folder.name.endswith("annot") or not images:
            continue
        masks = pictures(root / f"{folder.name}annot")
        records = pair(images, masks, f"{folder.name}/", layout.problems, f"{folder.name}/ file")
        layout.splits.setdefault(split_name(folder.name), []).extend(records)
    return layout


READER = Reader(
    name="camvid",
    looks_for="train/ and trainannot/ (SegNet's CamVid; also val/ valannot/ test/ testannot/)",
    recognises=_recognises,
    read=_read,
)

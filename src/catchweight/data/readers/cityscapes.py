"""Cityscapes: ``leftImg8bit/<split>/<city>`` and ``gtFine/<split>/<city>`` labelIds, as the 19 trained classes.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", 2016.
"""

from __future__ import annotations

from pathlib import Path

from ..classes import IGNORE, ClassSet
from .labels import PixelLabels
from .layout import Layout, Options, Reader, pair, pictures, split_name, subfolders

# labelId: (name, colour), in the order of the trainIds
_TRAINED = {
    7: ("road", (128, 64, 128)),
    8: ("sidewalk", (244, 35, 232)),
    11: ("building", (70, 70, 70)),
    12: ("wall", (102, 102, 156)),
    13: ("fence", (190, 153, 153)),
    17: ("pole", (153, 153, 153)),
    19: ("traffic light", (250, 170, 30)),
    20: ("traffic sign", (220, 220, 0)),
    21: ("vegetation", (107, 142, 35)),
    22: ("terrain", (152, 251, 152)),
    23: ("sky", (70, 130, 180)),
    24: ("person", (220, 20, 60)),
    25: ("rider", (255, 0, 0)),
    26: ("car", (0, 0, 142)),
    27: ("truck", (0, 0, 70)),
    28: ("bus", (0, 60, 100)),
    31: ("train", (0, 80, 100)),
    32: ("motorcycle", (0, 0, 230)),
    33: ("bicycle", (119, 11, 32)),
}
CLASSES = ClassSet(*(tuple(column) for column in zip(*_TRAINED.values(), strict=True)))
# Ids run from 0 to 33; the licence plate's -1 is 255 in an 8-bit file.
LABEL_IDS = dict.fromkeys((*range(34), 255), IGNORE) | {label: index for index, label in enumerate(_TRAINED)}

_IMAGE, _MASK = "_leftImg8bit", "_gtFine_labelIds"


def _recognises(root: Path) -> bool:
    return (root / "leftImg8bit").is_dir()


def _read(root: Path, options: Options) -> Layout:
    """A split without gtFine is read without labels."""
    layout = Layout(CLASSES, PixelLabels(LABEL_IDS, known="labelIds 0..33 and 255"), {})
    for folder in subfolders(root / "leftImg8bit"):
        images = pictures(folder, ending=_IMAGE)
        masks = pictures(root / "gtFine" / folder.name, ending=_MASK)
        expected = f"leftImg8bit/{folder.name}/<city>/*{_IMAGE} file"
        records = pair(images, masks, f"{folder.name}/", layout.problems, expected)
        layout.splits.setdefault(split_name(folder.name), []).extend(records)
    return layout


READER = Reader(
    name="cityscapes",
    looks_for="leftImg8bit/<split>/<city>/*_leftImg8bit.png and gtFine/<split>/<city>/*_gtFine_labelIds.png",
    recognises=_recognises,
    read=_read,
)

"""Small data sets of every layout, really written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from catchweight.data import Sample, SegmentationData

H, W = 12, 16
SIZE = (H, W)


def picture(path: Path, size: tuple[int, int] = SIZE, seed: int = 0) -> Path:
    """Write a random RGB picture of (H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def index_mask(classes: int, ignored: int | None = None) -> np.ndarray:
    """Columns of classes 0, 1, ... and, if asked, a last column of the ignored value."""
    mask = np.tile((np.arange(W) * classes // W).astype(np.uint8), (H, 1))
    if ignored is not None:
        mask[:, -1] = ignored
    return mask


def save_mask(path: Path, mask: np.ndarray, palette: list[int] | None = None) -> Path:
    """Write a mask: ``(H, W)`` as grey or, with a palette, as palette PNG; ``(H, W, 3)`` as RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if palette:
        image = image.convert("P")
        image.putpalette(palette + [0] * (768 - len(palette)))  # a short one makes Pillow write fewer bits
    image.save(path)
    return path


def folder(root: Path, mask: np.ndarray, splits: tuple[str, ...] = ("train", "val"), classes: object = None) -> Path:
    """The folder layout with two pictures a split, all with the same mask."""
    for split in splits:
        for name in "ab":
            picture(root / "images" / split / f"{name}.png", seed=len(split) + ord(name))
            save_mask(root / "masks" / split / f"{name}.png", mask)
    content = classes if classes is not None else {"classes": ["sky", "road", "car"]}
    (root / "classes.json").write_text(json.dumps(content))
    return root


def only(data: SegmentationData, split: str = "train") -> Sample:
    """Read the first record of a split."""
    return data.read(data.splits[split][0])


def many(root: Path, count: int = 20) -> Path:
    for index in range(count):
        picture(root / f"images/{index:02}.png", seed=index)
        save_mask(root / f"masks/{index:02}.png", index_mask(3))
    (root / "classes.txt").write_text("sky\nroad\ncar\n")
    return root


def coco(root: Path, annotations: list[dict], names: tuple[str, ...] = ("a.jpg",)) -> Path:
    """Two COCO files, train and val, with category ids 3 (cat) and 7 (dog)."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        images = [{"id": i, "file_name": name, "height": H, "width": W} for i, name in enumerate(names)]
        for name in names:
            picture(root / f"images/{split}/{Path(name).name}")
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        }
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))
    return root


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=np.uint8, order="F")
    mask[top:bottom, left:right] = 1
    return mask


def runs(mask: np.ndarray) -> list[int]:
    """Uncompressed COCO run lengths: column by column, zeros first."""
    flat = mask.flatten(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *changes, flat.size]).tolist()
    return [0, *lengths] if flat[0] else lengths


def region(kind: str) -> object:
    if kind == "polygon":
        return [[2, 3, 10, 3, 10, 9, 2, 9]]
    if kind == "uncompressed":
        return {"size": [H, W], "counts": runs(box(2, 3, 10, 9))}
    return {"size": [H, W], "counts": coco_mask.encode(box(2, 3, 10, 9))["counts"].decode()}


def yolo(root: Path, label: str, yaml: str = "train: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n") -> Path:
    for split in ("train", "val"):
        picture(root / f"images/{split}/a.png")
        (root / f"labels/{split}").mkdir(parents=True)
        (root / f"labels/{split}/a.txt").write_text(label)
    (root / "data.yaml").write_text(yaml)
    return root


SQUARE = "1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n"

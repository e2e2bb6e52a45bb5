"""Ultralytics YOLO segmentation: ``data.yaml`` and one text file of normalised polygons a picture.

A line is ``class x1 y1 x2 y2 ...`` with coordinates in 0..1 of the picture as its EXIF orientation turns it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UsageError, shown
from ..classes import IGNORE, ClassSet
from .classes_file import named_list, read_yaml
from .coco import BACKGROUND, add_background
from .labels import Shape, paint
from .layout import BadFileError, Layout, Options, Problem, Reader, Record, inside, pictures, present

_SPLITS = {"train": "train", "val": "val", "valid": "val", "test": "test"}


@dataclass(frozen=True)
class PolygonLabels:
    """Masks painted from text files of polygons.

    A record without a text file has nothing but background if others of its split have one; its ``mask`` is then the
    YAML file that names the classes.
    """

    classes: int
    first: int
    empty: int
    upright: bool = True

    def mask(self, record: Record, size: tuple[int, int]) -> np.ndarray:
        assert record.mask is not None
        return paint(self._shapes(record.mask, size), size, self.empty, record.mask)

    def signature(self) -> str:
        return repr(self)

    def _shapes(self, file: Path, size: tuple[int, int]) -> list[Shape]:
        if file.suffix != ".txt":
            return []
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            raise BadFileError(file, f"cannot be read ({error.strerror})") from error
        return [self._shape(line.split(), size, file, number) for number, line in enumerate(lines, 1) if line.strip()]

    def _shape(self, fields: list[str], size: tuple[int, int], file: Path, number: int) -> Shape:
        try:
            index = int(float(fields[0]))
            points = np.array([float(value) for value in fields[1:]])
        except (ValueError, OverflowError) as error:
            raise BadFileError(file, f"line {number} is not numbers: {error}") from error
        if not 0 <= index < self.classes:
            raise BadFileError(file, f"line {number}: class {index}, but data.yaml names 0..{self.classes - 1}")
        if len(points) == 4:
            raise BadFileError(file, f"line {number} is a detection box; segmentation needs polygons")
        if len(points) < 6 or len(points) % 2:
            raise BadFileError(file, f"line {number}: {len(points)} numbers are no polygon of x y pairs")
        if not np.isfinite(points).all() or np.abs(points - 0.5).max() > 0.5 + 0.01:
            raise BadFileError(file, f"line {number}: coordinates must be normalised to 0..1, got {points.max():g}")
        scale = np.tile([size[1], size[0]], len(points) // 2)
        return Shape(index + self.first, [points * scale])


def _yaml_file(root: Path) -> Path | None:
    """``data.yaml``, or the only other YAML file."""
    for path in (root / "data.yaml", root / "data.yml"):
        if path.is_file():
            return path
    others = [path for path in sorted(root.glob("*.y*ml")) if not path.name.startswith(("classes.", "."))]
    return others[0] if len(others) == 1 else None


def _recognises(root: Path) -> bool:
    labels = (root / "labels").is_dir() or any(root.glob("*/labels"))
    return labels and (_yaml_file(root) is not None or not (root / "masks").is_dir())


def _read(root: Path, options: Options) -> Layout:
    file = options.file or _yaml_file(root)
    if file is None:
        raise UsageError(f"{root} has labels/ but no data.yaml: write the class names there, e.g. names: [car, person]")
    content = read_yaml(file)
    if not isinstance(content, dict) or "names" not in content:
        raise UsageError(f'{file}: needs the key "names" with the class names')
    try:
        names = tuple(named_list(content["names"], "names"))
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error
    classes = add_background(names) if options.background == "class" else ClassSet(names)
    empty = classes.names.index(BACKGROUND) if options.background == "class" else IGNORE
    layout = Layout(classes, PolygonLabels(len(names), len(classes) - len(names), empty), {})
    bases = _bases(root, content.get("path"))
    for key, split in _SPLITS.items():
        if key not in content and split in layout.splits:
            continue
        images = _images(root, file, bases, key, content.get(key), layout)
        if images:
            layout.splits[split] = _records(root, images, file, layout.problems)
    return layout


def _images(root: Path, file: Path, bases: list[str], key: str, entries: Any, layout: Layout) -> list[Path]:
    """The pictures of one split: where data.yaml says, if that is in the folder, else where they usually lie."""
    found: dict[Path, None] = {}
    for entry in entries if isinstance(entries, list) else [entries] if entries else []:
        # Nothing but text: written out, nested aliases of a few bytes would fill the memory.
        paths = [inside(root, base, entry) for base in bases] if isinstance(entry, str) else []
        place = next((path for path in paths if path is not None and present(path)), None)
        if place is None:
            said = entry if isinstance(entry, str) else shown(entry)
            layout.notes.append(f"{file.name}: {key}: {said} is not in {root}; looked in the usual places instead")
        else:
            found |= dict.fromkeys(_listed(root, place, layout.problems) if place.is_file() else _all(place))
    if not found:
        places = (root / "images" / key, root / key / "images")
        found = dict.fromkeys(path for place in places for path in _all(place))
    return list(found)


def _bases(root: Path, path: Any) -> list[str]:
    """Folders, as text below ``root``, that entries of the YAML file may be relative to; ``path`` is its own key."""
    return [path, "."] if isinstance(path, str) and inside(root, path) else ["."]


def _all(folder: Path) -> list[Path]:
    return list(pictures(folder).values())


def _listed(root: Path, file: Path, problems: list[Problem]) -> list[Path]:
    """Pictures named by a text file, one a line, relative to the root."""
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        path = inside(root, line.strip())
        if path is None or not present(path):
            fault = f'line {number}: "{line.strip()}" is not in the data set; skipped'
            problems.append(Problem("warning", str(file), fault))
        else:
            found.append(path)
    return found


def _records(root: Path, images: list[Path], yaml_file: Path, problems: list[Problem]) -> list[Record]:
    """Records of one split; where no picture has a label file it is the labels that are missing, not the objects."""
    names = [image.relative_to(root).with_suffix("").as_posix() for image in images]
    labels = [_label_file(root, image) for image in images]
    there = [label.is_file() for label in labels]
    if not any(there):
        fault = f"no label file {labels[0]}, nor one for any of the split's {len(images)} images: taken as unlabelled"
        problems.append(Problem("warning", str(images[0]), fault))
        return [Record(name, image) for name, image in zip(names, images, strict=True)]
    problems += [
        Problem("warning", str(image), f"no label file {label.name}: taken as all background")
        for image, label, found in zip(images, labels, there, strict=True)
        if not found
    ]
    masks = [label if found else yaml_file for label, found in zip(labels, there, strict=True)]
    return [Record(*fields) for fields in zip(names, images, masks, strict=True)]


def _label_file(root: Path, image: Path) -> Path:
    """Where the picture lies, with the last ``images`` in the path turned into ``labels``."""
    parts = list(image.relative_to(root).parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return root.joinpath(*parts).with_suffix(".txt")


READER = Reader(
    name="yolo",
    looks_for="data.yaml with images/<split>/ and labels/<split>/*.txt (Ultralytics YOLO polygons)",
    recognises=_recognises,
    read=_read,
    has_background=True,
)

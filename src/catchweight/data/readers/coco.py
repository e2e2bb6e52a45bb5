"""COCO: instance files (polygons, run lengths) and panoptic files (JSON and PNG) as class masks.

Lin et al., "Microsoft COCO: Common Objects in Context", 2014; Kirillov et al., "Panoptic Segmentation", 2019.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CatchweightError, shown
from ...files import read_json
from ..classes import IGNORE, ClassSet, distinct_colors
from .labels import Shape, look_up, paint
from .layout import BadFileError, Layout, Options, Problem, Reader, Record, inside, present, split_name
from .pixels import opened, read_sizes

BACKGROUND = "background"


def add_background(names: tuple[str, ...]) -> ClassSet:
    """The classes with a black "background" ahead of them, unless one of them has that name."""
    if BACKGROUND in names:
        return ClassSet(names)
    return ClassSet((BACKGROUND, *names), ((0, 0, 0), *distinct_colors(len(names))))


def annotation_files(root: Path, kind: str) -> dict[str, Path]:
    """``annotations/<kind>_<tag>.json`` (or directly in ``root``) by tag: "train", "val2017", ..."""
    found = {}
    for folder in (root, root / "annotations"):
        for path in sorted(folder.glob(f"{kind}*.json")):
            found[path.stem.removeprefix(kind).strip("_") or "train"] = path
    return found


@dataclass(frozen=True)
class Categories:
    """COCO's category ids in the order of our classes, and whether a background is one of these."""

    ids: tuple[int, ...]
    names: tuple[str, ...]
    with_background: bool

    @property
    def index_of(self) -> dict[int, int]:
        """Category id to class index."""
        ahead = len(self.classes) - len(self.names)
        return {category: place + ahead for place, category in enumerate(self.ids)}

    @property
    def classes(self) -> ClassSet:
        """Our classes, the background first unless a category has that name."""
        return add_background(self.names) if self.with_background else ClassSet(self.names)

    @property
    def empty(self) -> int:
        """The mask's value where nothing is annotated."""
        return self.classes.names.index(BACKGROUND) if self.with_background else IGNORE


def _load(path: Path) -> dict[str, Any]:
    content = read_json(path)
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        raise CatchweightError(f"{path} is not a COCO file: it needs the lists {', '.join(keys)}")
    return content


@contextmanager
def _following(path: Path) -> Iterator[None]:
    """Entries of the wrong kind (a list where a number belongs, ...) become an error that names the file."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CatchweightError(f"{path} does not follow the COCO format: {error}") from error


def _categories(contents: dict[Path, dict[str, Any]], with_background: bool) -> Categories:
    """The categories, which every file must number alike."""
    first: dict[int, str] | None = None
    for path, content in contents.items():
        try:
            named = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
        except (KeyError, TypeError, ValueError) as error:
            raise CatchweightError(f"{path}: a category needs id and name; missing or wrong: {error}") from error
        if not named:
            raise CatchweightError(f"{path} lists no categories: it needs the id and name of each")
        if first is not None and named != first:
            raise CatchweightError(f"{path} numbers other categories than {next(iter(contents))}: make them equal")
        first = named
    ids = tuple(sorted(first or {}))
    return Categories(ids, tuple((first or {})[category] for category in ids), with_background)


def _image_file(root: Path, tag: str, name: str) -> Path | None:
    """Where COCO's ``file_name`` lies, or None when it leads out of the root or is nowhere."""
    folders = (f"images/{tag}", f"images/{split_name(tag)}", tag, split_name(tag), "images", ".")
    paths = (inside(root, folder, name) for folder in folders)
    # An entry like "../x.jpg" stays inside the root only to be found elsewhere than meant: refused by text.
    return None if ".." in Path(name).parts else next((path for path in paths if present(path)), None)


def _records(root: Path, tag: str, path: Path, content: dict[str, Any], problems: list[Problem]) -> dict[Any, Record]:
    """Records by COCO's image id."""
    found: dict[Path, tuple[Any, Path]] = {}
    keys: set[Any] = set()
    for entry in content["images"]:
        name = str(entry.get("file_name", "")) if isinstance(entry, dict) else ""
        image = _image_file(root, tag, name) if name else None
        if image is None:
            problems.append(Problem("warning", str(path), f'image "{name}" is not in the data set; skipped'))
        elif image in found or entry.get("id") in keys:
            fault = f'image "{name}" (id {shown(entry.get("id"))}): that file or id is listed before; skipped'
            problems.append(Problem("error", str(path), fault))
        else:
            found[image] = entry.get("id"), Path(name)
            keys.add(entry.get("id"))
    # An id keeps the suffix where it is needed to tell pictures apart: "a.png" may lie beside "a.jpg".
    taken = Counter(part for _, whole in found.values() for part in {whole, whole.with_suffix("")})
    records = {}
    for image, (key, whole) in found.items():
        plain = whole.with_suffix("")
        records[key] = Record(f"{tag}/{(plain if taken[plain] == 1 else whole).as_posix()}", image, path)
    return records


def _sizes(content: dict[str, Any], records: dict[Any, Record]) -> dict[str, tuple[float, float]]:
    """(H, W) that the annotations were drawn at, by record id; entries that do not say it are left out."""
    found: dict[str, tuple[float, float]] = {}
    for entry in content["images"]:
        record = records.get(entry.get("id")) if isinstance(entry, dict) else None
        if record is None:
            continue
        size = (entry.get("height"), entry.get("width"))
        if all(isinstance(side, int | float) and side > 0 for side in size):
            found.setdefault(record.id, size)
    return found


# --- instances -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InstanceLabels:
    """Masks painted from the instances of each picture, at the (H, W) they were drawn at; keyed by record id."""

    shapes: dict[str, list[Shape]]
    sizes: dict[str, tuple[float, float]]
    empty: int
    digest: str
    upright: bool = False

    def mask(self, record: Record, size: tuple[int, int]) -> np.ndarray:
        where = f"{record.mask} (image {record.image.name})"
        return paint(self.shapes.get(record.id, []), self._drawn_at(record, size), self.empty, where)

    def _drawn_at(self, record: Record, stored: tuple[int, int]) -> tuple[int, int]:
        """The picture's (H, W) the way up that the annotations are."""
        said = self.sizes.get(record.id, stored)
        if said == stored:
            return stored
        upright = read_sizes(record.image)[1]
        if said == upright:
            return upright
        sizes = f"{said[1]:g}x{said[0]:g} (W x H), the file is {stored[1]}x{stored[0]}"
        reason = f"annotated at {sizes}: use the picture that was annotated, or scale sizes and regions in the JSON"
        raise BadFileError(record.image, reason)

    def signature(self) -> str:
        return f"instances {self.empty} {self.digest}"


def _read_instances(root: Path, options: Options) -> Layout:
    files = annotation_files(root, "instances")
    contents = {path: _load(path) for path in files.values()}
    categories = _categories(contents, options.background == "class")
    digest = hashlib.sha256(repr((categories, sorted(files))).encode()).hexdigest()
    shapes: dict[str, list[Shape]] = {}
    sizes: dict[str, tuple[float, float]] = {}
    layout = Layout(categories.classes, InstanceLabels(shapes, sizes, categories.empty, digest), {})
    index_of = categories.index_of
    for tag, path in files.items():
        with _following(path):
            records = _records(root, tag, path, contents[path], layout.problems)
            layout.splits.setdefault(split_name(tag), []).extend(records.values())
            sizes |= _sizes(contents[path], records)
            for entry in contents.pop(path)["annotations"]:
                _add_instance(entry, records, index_of, shapes, path, layout.problems)
    if annotation_files(root, "panoptic"):
        layout.notes.append('panoptic labels are here too: format "coco-panoptic" reads those (every pixel labelled)')
    return layout


def _add_instance(
    entry: dict[str, Any],
    records: dict[Any, Record],
    index_of: dict[int, int],
    shapes: dict[str, list[Shape]],
    path: Path,
    problems: list[Problem],
) -> None:
    record = records.get(entry.get("image_id"))
    if record is None:
        return  # the picture's own absence is reported already
    index = index_of.get(entry.get("category_id", -1))
    region = entry.get("segmentation")
    if index is None or not region:
        fault = f"category {entry.get('category_id')} is not in its list" if index is None else "no segmentation"
        problems.append(Problem("error", str(path), f"annotation {entry.get('id')}: {fault}"))
        return
    if isinstance(region, list) and all(isinstance(part, list) for part in region):
        try:
            region = [np.asarray(part, dtype=np.float64) for part in region]  # an eighth of the lists' memory
        except (TypeError, ValueError):
            problems.append(Problem("error", str(path), f"annotation {entry.get('id')}: polygon is not numbers"))
            return
    shapes.setdefault(record.id, []).append(Shape(index, region, bool(entry.get("iscrowd"))))


INSTANCES = Reader(
    name="coco",
    looks_for="annotations/instances_<split>.json with images/<split>/ (COCO)",
    recognises=lambda root: bool(annotation_files(root, "instances")),
    read=_read_instances,
    has_background=True,
)


# --- panoptic --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PanopticLabels:
    """Masks from panoptic PNGs: segment id = R + 256 G + 65536 B; segments to classes by record id."""

    segments: dict[str, dict[int, int]]
    digest: str
    upright: bool = False

    def mask(self, record: Record, size: tuple[int, int]) -> np.ndarray:
        assert record.mask is not None
        with opened(record.mask) as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(np.int32)
        ids = pixels @ np.array([1, 256, 65536], dtype=np.int32)
        mask, wrong = look_up(ids, self.segments[record.id] | {0: IGNORE})
        if wrong.any():
            raise BadFileError(record.mask, f"segment {ids[wrong][0]} is not in the JSON's segments_info")
        return mask

    def signature(self) -> str:
        return f"panoptic {self.digest}"


def _read_panoptic(root: Path, options: Options) -> Layout:
    files = annotation_files(root, "panoptic")
    contents = {path: _load(path) for path in files.values()}
    categories = _categories(contents, with_background=False)
    segments: dict[str, dict[int, int]] = {}
    layout = Layout(categories.classes, PanopticLabels(segments, ""), {})
    for tag, path in files.items():
        with _following(path):
            records = _panoptic_records(root, tag, path, contents.pop(path), categories, layout)
            layout.splits.setdefault(split_name(tag), []).extend(records)
    # The JSON is no record's file, so what it says of the segments must tell one reading from another.
    said = (categories, sorted(files), sorted((name, sorted(table.items())) for name, table in segments.items()))
    layout.labels = PanopticLabels(segments, hashlib.sha256(repr(said).encode()).hexdigest())
    return layout


def _panoptic_records(
    root: Path, tag: str, path: Path, content: dict[str, Any], categories: Categories, layout: Layout
) -> list[Record]:
    """Records of one file, those without a PNG unlabelled; their segments go to the layout's labels."""
    assert isinstance(layout.labels, PanopticLabels)
    records = _records(root, tag, path, content, layout.problems)
    index_of = categories.index_of
    for entry in content["annotations"]:
        key = entry.get("image_id")
        if key not in records:
            continue
        mask = _panoptic_file(root, tag, str(entry.get("file_name", "")))
        records[key] = replace(records[key], mask=mask)
        layout.labels.segments[records[key].id] = _segments(entry, index_of, path, layout.problems)
    annotated = {entry.get("image_id") for entry in content["annotations"]}
    return [record if key in annotated else replace(record, mask=None) for key, record in records.items()]


def _panoptic_file(root: Path, tag: str, name: str) -> Path | None:
    folders = (f"panoptic/{tag}", f"panoptic/{split_name(tag)}", f"annotations/panoptic_{tag}", f"panoptic_{tag}")
    if not name or ".." in Path(name).parts:
        return None
    paths = (inside(root, folder, name) for folder in folders)
    return next((path for path in paths if present(path)), None)


def _segments(entry: dict[str, Any], index_of: dict[int, int], path: Path, problems: list[Problem]) -> dict[int, int]:
    found = {}
    for segment in entry.get("segments_info", []):
        index = index_of.get(segment.get("category_id", -1))
        if index is None:
            fault = f"segment {segment.get('id')}: category {segment.get('category_id')} is not in its list"
            problems.append(Problem("error", str(path), fault))
        found[int(segment.get("id", 0))] = IGNORE if index is None else index
    return found


PANOPTIC = Reader(
    name="coco-panoptic",
    looks_for="annotations/panoptic_<split>.json with panoptic/<split>/*.png and images/<split>/",
    recognises=lambda root: bool(annotation_files(root, "panoptic")),
    read=_read_panoptic,
    yields_to=("coco",),
)

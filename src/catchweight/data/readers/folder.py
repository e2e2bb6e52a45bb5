"""The plain folder layout: ``images/<split>``, ``masks/<split>``, and a classes file."""

from __future__ import annotations

from pathlib import Path

from ...errors import UsageError
from .classes_file import FILE_NAMES, find_classes_file, read_classes_file
from .layout import Layout, Options, Problem, Reader, Record, pair, pictures, split_name, subfolders

SPLITS = {"train", "val", "test"}
"""A folder of one of these names below images/ makes all folders there splits."""


def _recognises(root: Path) -> bool:
    return (root / "images").is_dir() and (root / "masks").is_dir()


def _read(root: Path, options: Options) -> Layout:
    """Pairs by the path below the split's folder; without split folders all pictures are "train"."""
    file = find_classes_file(root)
    if file is None:
        raise UsageError(
            f"{root} has images/ and masks/ but no {' | '.join(FILE_NAMES)}: write the class names there, in the "
            'order of the mask values, e.g. classes.txt with one name a line or {"classes": ["sky", "road"]}'
        )
    described = read_classes_file(file)
    layout = Layout(described.classes, described.labels, {})
    for split, folder in _splits(root, layout.problems):
        layout.splits.setdefault(split, []).extend(_records(root, folder, layout))
    return layout


def _splits(root: Path, problems: list[Problem]) -> list[tuple[str, str]]:
    """(split, folder below images/ and masks/); the folder is "" when pictures lie directly in images/."""
    loose = pictures(root / "images", recursive=False)
    found = [(split_name(folder.name), folder.name) for folder in subfolders(root / "images")]
    if loose and not SPLITS & {split for split, _ in found}:
        return [("train", "")]
    problems += [
        Problem("warning", str(path), "picture beside the folders of the splits: it is not used")
        for path in loose.values()
    ]
    return found


def _records(root: Path, folder: str, layout: Layout) -> list[Record]:
    images = pictures(root / "images" / folder)
    masks = pictures(root / "masks" / folder)
    expected = (Path("images") / folder).as_posix() + "/ file"
    return pair(images, masks, f"{folder}/" if folder else "", layout.problems, expected)


READER = Reader(
    name="folder",
    looks_for="images/<split>/ and masks/<split>/ with classes.json, .yaml or .txt",
    recognises=_recognises,
    read=_read,
)

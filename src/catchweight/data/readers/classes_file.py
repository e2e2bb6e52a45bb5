"""The classes file of the folder layout: JSON, YAML or text."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CatchweightError, UsageError, shown, unknown
from ...files import parse_yaml, read_json
from ..classes import IGNORE, ClassSet, Color
from .labels import PixelLabels

FILE_NAMES = ("classes.json", "classes.yaml", "classes.yml", "classes.txt")

LONGEST_LINE = 1000
"""Characters of a line in a text file; no name needs more, and matching takes their square."""

KEYS = {"classes", "names", "palette", "colors", "values", "ignore_index"}


@dataclass(frozen=True)
class ClassesFile:
    """What a classes file says: the classes, and how the masks write them.

    ``classes`` leaves out the ones that ``ignore_index`` names; ``labels`` maps what is in the mask files.
    """

    classes: ClassSet
    labels: PixelLabels


def find_classes_file(root: Path) -> Path | None:
    """The first of FILE_NAMES in ``root``."""
    return next((root / name for name in FILE_NAMES if (root / name).is_file()), None)


def read_classes_file(path: Path) -> ClassesFile:
    """Read a classes file.

    JSON and YAML keys: ``classes`` (or ``names``: a list, or a mapping from index to name), ``palette`` (or
    ``colors``: one [r, g, b] a class, and one more for ignored pixels), ``values`` (the mask value of each class
    when it is not its position), ``ignore_index`` (a value or a list; 255 is always ignored). A text file has one
    name a line, with three integers before or after it if it has a colour; ``#`` begins a remark.

    Raises:
        UsageError: no names, a key of the wrong shape, or colours and values that do not fit the names.
    """
    content = _text_content(path) if path.suffix == ".txt" else _mapping(path)
    try:
        return _understood(content)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _mapping(path: Path) -> dict[str, Any]:
    content = read_json(path) if path.suffix == ".json" else read_yaml(path)
    if isinstance(content, list):
        content = {"classes": content}
    if not isinstance(content, dict):
        raise UsageError(f'{path}: expected a mapping with the key "classes", got {type(content).__name__}')
    for key in content:  # other keys are remarks (num_classes, source, ...), but not if they look misspelt
        if key not in KEYS and difflib.get_close_matches(str(key), KEYS, cutoff=0.84):
            raise UsageError(f"{path}: {unknown('key', str(key), KEYS)}")
    return content


def read_yaml(path: Path) -> Any:
    """YAML by the safe loader; an unreadable or malformed file is an error that names it."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CatchweightError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise CatchweightError(f"{path} is not valid YAML: {error}") from error


def _text_content(path: Path) -> dict[str, Any]:
    names, colors = [], []
    for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        line = line.split("#")[0].strip()
        if not line:
            continue
        if len(line) > LONGEST_LINE:
            raise UsageError(f"{path}: a line of {len(line)} characters is no class: write one name a line")
        first = re.fullmatch(r"(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(.+)", line)
        last = re.fullmatch(r"(.+?)[\s,:]+(\d+)[\s,]+(\d+)[\s,]+(\d+)", line)
        color = first.groups()[:3] if first else last.groups()[1:] if last else None
        names.append(first[4] if first else last[1] if last else line)
        colors += [[int(part) for part in color]] if color else []
    if colors and len(colors) != len(names):
        raise UsageError(f"{path}: {len(colors)} of {len(names)} classes have a colour: give it to all or none")
    return {"classes": names, "palette": colors}


def named_list(value: Any, key: str) -> list[str]:
    """Names from a list, or from a mapping of index to name with no index missing.

    Raises:
        UsageError: neither, or a gap in the indices.
    """
    if isinstance(value, Mapping):
        try:
            indexed = {int(index): name for index, name in value.items()}
        except (TypeError, ValueError) as error:
            raise UsageError(f'"{key}" maps index to name, but has an index that is no integer') from error
        if sorted(indexed) != list(range(len(indexed))):
            raise UsageError(f'"{key}" must number the classes 0..{len(indexed) - 1}, got {sorted(indexed)[:20]}')
        value = [indexed[index] for index in sorted(indexed)]
    if not isinstance(value, list) or not all(isinstance(name, str | int | float) for name in value):
        raise UsageError(f'"{key}" must be a list of names or a mapping from index to name')
    return [str(name) for name in value]


def _understood(content: dict[str, Any]) -> ClassesFile:
    key = "classes" if "classes" in content else "names"
    names = named_list(content.get(key), key)
    palette = _palette(content.get("palette") or content.get("colors") or [], len(names))
    values = _integers(content.get("values"), "values") or list(range(len(names)))
    ignored = _integers(content.get("ignore_index"), "ignore_index")
    if len(values) != len(names) or len(set(values)) < len(values):
        raise UsageError(f'"values" must give each of the {len(names)} classes its own mask value, got {shown(values)}')
    kept = [i for i, value in enumerate(values) if value not in ignored]
    classes = ClassSet(tuple(names[i] for i in kept), tuple(palette[i] for i in kept) if palette else ())
    table = {values[i]: place for place, i in enumerate(kept)} | dict.fromkeys(ignored, IGNORE)
    table.setdefault(IGNORE, IGNORE)
    colors = dict.fromkeys(palette, IGNORE) | {palette[i]: place for place, i in enumerate(kept) if palette}
    return ClassesFile(classes, PixelLabels(table, colors, _known(values, ignored)))


def _palette(value: Any, names: int) -> list[Color]:
    if not isinstance(value, list) or len(value) not in (0, names, names + 1):
        count = len(value) if isinstance(value, list) else type(value).__name__
        raise UsageError(
            f'"palette" must list {names} colours (one a class) or {names + 1} (ignored pixels last), got {count}'
        )
    if not value:
        return []
    colors = list(ClassSet(tuple(str(i) for i in range(len(value))), tuple(value)).colors)
    if len(set(colors)) < len(colors):
        twice = sorted({color for color in colors if colors.count(color) > 1})
        raise UsageError(f'"palette" gives the same colour to several classes: {twice}')
    return colors


def _integers(value: Any, key: str) -> list[int]:
    values = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(item, int) and 0 <= item <= 255 for item in values):
        raise UsageError(f'"{key}" must be integers in 0..255, got {shown(value)}')
    return values


def _known(values: list[int], ignored: list[int]) -> str:
    kept = [value for value in values if value not in ignored]
    dense = kept == list(range(kept[0], kept[0] + len(kept))) if kept else False
    text = f"{kept[0]}..{kept[-1]}" if dense else ", ".join(str(value) for value in kept)
    return f"{text}; ignored: {', '.join(str(value) for value in sorted({*ignored, IGNORE}))}"

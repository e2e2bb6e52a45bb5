"""Files that are never half-written: write aside, flush, rename."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import platformdirs
import yaml

from .errors import StorageError


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it takes the name, on failure it is removed.

    Raises:
        StorageError: the folder is read-only or the disk is full; whatever stood at ``path`` stays.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # noqa: S103 - mkstemp makes 0600; results are meant to be read
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left aside below ``folder``; call it only while nobody else writes there."""
    for leftover in Path(folder).rglob(".*.part"):
        with suppress(OSError):
            leftover.unlink()


def write_text(path: Path, text: str) -> None:
    """Replace the file's text in one step."""
    with written_aside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace the file by ``value`` as indented JSON; ValueError for NaN and infinity, which JSON does not know."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def digest(value: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a JSON-able value: a name for it."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def cache_folder(name: str) -> Path:
    """Where figures of this device are kept: below ``$CATCHWEIGHT_CACHE`` when set, else the user's cache folder."""
    named = os.environ.get("CATCHWEIGHT_CACHE")
    return (Path(named) if named else Path(platformdirs.user_cache_dir("catchweight"))) / name


def copy_file(source: Path, path: Path) -> None:
    """Replace ``path`` by a copy of ``source`` in one step."""
    with written_aside(path) as temporary:
        shutil.copyfile(source, temporary)


def copy_folder(source: Path, path: Path) -> None:
    """Make ``path``, which is not there yet, a copy of the folder ``source`` in one step.

    Raises:
        StorageError: as of :func:`written_aside`.
    """
    aside = path.with_name(f"{path.name}.part")
    try:
        if aside.exists():
            shutil.rmtree(aside)
        shutil.copytree(source, aside)
        aside.rename(path)
    except OSError as error:
        raise _unwritten(path, error) from error


def _unwritten(path: Path, error: OSError) -> StorageError:
    reason = error.strerror or str(error)
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):  # one for each file that was not copied
        reason = str(error.args[0][0][-1])
    return StorageError(
        f"cannot write {path}: {reason}. What was there before is untouched; "
        "free some space or choose a writable folder, then run the same command again"
    )


def read_json(path: Path) -> Any:
    """Read JSON; a file that is not JSON is an error that names the file and the line."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also integers of thousands of digits, and endless nesting
        raise StorageError(f"{path} is not valid JSON: {error}") from error


def parse_yaml(text: str) -> Any:
    """Plain YAML values by the safe loader; tags that would make other objects are refused.

    Raises:
        ValueError: not YAML, or a value that its own tag does not fit; says why.
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error
    # The loader's own constructors trip over dates, numbers and tags that make no sense ("2024-13-45", "!!int x").
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"a value makes no sense ({error})") from error


def sqlite_url(path: Path) -> str:
    """The address of an SQLite file whatever its name is: ``?``, ``#`` and ``%`` would otherwise cut it off."""
    return f"sqlite:///file:{quote(str(Path(path).absolute()))}?uri=true"

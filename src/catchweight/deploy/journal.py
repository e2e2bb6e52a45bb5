"""What a folder of predictions already holds: the journal behind resuming, and the table made from it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import CatchweightError
from ..files import written_aside
from .media import Source


@dataclass(frozen=True)
class Entry:
    """One finished file: which (``source``, ``stamp``), by which network, and what came out."""

    source: str
    stamp: list[int]
    model: str
    name: str
    file: str
    shares: list[float]


class Journal:
    """The finished files of an output folder, one JSON line each in ``finished.jsonl``, appended as they end.

    Args:
        out: the output folder.
        model: the network's file; what another network predicted does not count as finished.
        classes: names of the columns of ``shares.csv``.
    """

    def __init__(self, out: Path, model: Path, classes: tuple[str, ...]) -> None:
        self.path, self.classes = out / "finished.jsonl", classes
        self.model = hashlib.sha256(model.read_bytes()).hexdigest()
        self._entries = {entry.source: entry for entry in _read(self.path)}
        self._taken = {entry.name.casefold(): entry.source for entry in self._entries.values()}

    def finished(self, source: Source) -> Entry | None:
        """The entry of ``source``, if this network made it and the file has not changed since."""
        entry = self._entries.get(_key(source))
        if entry is None or entry.model != self.model or entry.stamp != stamp(source):
            return None
        return entry

    def name(self, source: Source) -> str:
        """What the results are called: the relative path without suffix; with it, or numbered, where taken."""
        key = _key(source)
        if key in self._entries:
            return self._entries[key].name
        return next(name for name in _names(source) if self._taken.setdefault(name.casefold(), key) == key)

    def record(self, source: Source, seen: list[int], shares: list[float]) -> None:
        """Add a file whose results are all in place; ``seen`` is its stamp from before it was read."""
        name, file = self.name(source), source.relative.as_posix()
        entry = Entry(_key(source), seen, self.model, name, file, [round(share, 6) for share in shares])
        self._entries[entry.source] = entry
        with self._errors_named(), self.path.open("a", encoding="utf-8") as file_:
            file_.write(_line(entry))

    def drop(self, source: Source) -> None:
        """Forget a file that can no longer be predicted."""
        self._entries.pop(_key(source), None)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Start from whole lines only; when left, by an exception too, write ``shares.csv``."""
        self._rewrite()
        try:
            yield
        finally:
            self._rewrite()
            self._write_shares()

    def _rewrite(self) -> None:
        with written_aside(self.path) as temporary:
            temporary.write_text("".join(map(_line, self._entries.values())), encoding="utf-8")

    def _write_shares(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["file", "result", *self.classes])
        current = [entry for entry in self._entries.values() if entry.model == self.model]
        for entry in sorted(current, key=lambda entry: (entry.file, entry.source)):
            writer.writerow([entry.file, entry.name, *entry.shares])
        with written_aside(self.path.with_name("shares.csv")) as temporary:
            # File names may hold bytes that are no UTF-8; they come out as they went in.
            temporary.write_text(text.getvalue(), encoding="utf-8", errors="surrogateescape", newline="")

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CatchweightError(f"cannot write {self.path}: {error.strerror or error}") from error


def stamp(source: Source) -> list[int]:
    """Size and time of a file: when either differs, it is predicted again."""
    status = source.path.stat()
    return [status.st_size, status.st_mtime_ns]


def _key(source: Source) -> str:
    return str(source.path.resolve())


def _names(source: Source) -> Iterator[str]:
    yield source.relative.with_suffix("").as_posix()
    yield source.relative.as_posix()
    number = 2
    while True:
        yield f"{source.relative.as_posix()}-{number}"
        number += 1


def _line(entry: Entry) -> str:
    return json.dumps(asdict(entry)) + "\n"


def _read(path: Path) -> Iterator[Entry]:
    """Entries of earlier calls; a last line torn by a kill is passed over."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            yield Entry(**json.loads(line))
        except (ValueError, TypeError):
            continue

"""Decode once: an on-disk store of uint8 pixels, memory-mapped, shared by processes, bounded, safe to kill."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import sys
import threading
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import CatchweightError
from ..files import cache_folder, written_aside
from .dataset import Sample

if TYPE_CHECKING:
    from .dataset import Record, SegmentationData

DECODE_VERSION = 2
"""Raise when what `SegmentationData.read` returns changes for the same files."""

OPEN_MAPS = 4096
"""Memory maps a cache keeps open at most; the kernel allows a process about 65,000."""

SPACE = re.compile("[0-9a-f]{24}")
"""Names of a cache's own folders; whatever else lies beside them is somebody else's."""


def default_folder() -> Path:
    """``$CATCHWEIGHT_CACHE/pixels`` when set, else in the user's cache folder of this machine."""
    return cache_folder("pixels")


class PixelCache:
    """Decoded images and masks on disk, one file a record.

    A file is found by what the record's own files contain and by how they are read: a changed image is decoded anew,
    a moved or copied data set is not. Each process looks at the content once for every size and time of change of a
    file. Files are written aside and renamed: a process killed half-way leaves nothing that is read back, and
    processes may share the folder. Where the folder cannot be written, or the bound is reached, reading goes on by
    decoding, with one warning.

    Args:
        folder: where the files live; default `default_folder`.
        max_bytes: bound on the cache's files in ``folder``. When it is reached, data sets other than the ones in use
            are removed, least recently used first; if that is not enough, further records are decoded at every read
            (throwing out records of a data set that is walked through in epochs would gain nothing).
    """

    def __init__(self, folder: Path | str | None = None, max_bytes: int = 8 * 2**30) -> None:
        self.folder = Path(folder) if folder is not None else default_folder()
        self.max_bytes = max_bytes
        self._used = _bytes_under(self.folder)
        self._written = 0  # since `_used` was counted; other processes write too
        self._in_use: set[str] = set()
        self._closed = False  # to new files, after the bound or a failed write
        self._lock = threading.Lock()
        self._opened = lru_cache(maxsize=_open_maps())(_open)  # for all data sets: each map holds a file open

    def bind(self, data: SegmentationData) -> Callable[[Record], Sample]:
        """A replacement for ``data.read`` that goes through the cache.

        The arrays of the samples are copy-on-write maps of the file: writing to them changes nothing on disk.

        Raises (from the returned function):
            CatchweightError: a file of the record is gone or cannot be decoded, or too many files are open.
        """
        space = _space(data)
        folder = self.folder / space
        self._in_use.add(space)
        _touch(folder)
        content = lru_cache(maxsize=None)(_content)

        def read(record: Record) -> Sample:
            path = folder / f"{_key(record, content)}.npy"
            try:
                return _as_sample(self._opened(path), record.id)
            except OSError:  # not there yet, or the folder is out of reach
                pass
            except (ValueError, EOFError):  # shorter than its header says: a power cut, not a kill
                path.unlink(missing_ok=True)
            sample = data.read(record)
            self._store(path, sample)
            return sample

        return read

    def clear(self) -> None:
        """Remove every file of the cache."""
        for folder in _spaces(self.folder):
            shutil.rmtree(folder, ignore_errors=True)
        self._opened.cache_clear()
        self._used = self._written = 0
        self._closed = False

    def _store(self, path: Path, sample: Sample) -> None:
        packed = _pack(sample)
        with self._lock:
            if self._closed or not self._make_room(packed.nbytes):
                return
            self._written += packed.nbytes
        try:
            with written_aside(path) as temporary, temporary.open("wb") as file:
                np.save(file, packed, allow_pickle=False)
        except CatchweightError as error:
            self._close(f"the pixel cache is off: {error}")

    def _make_room(self, wanted: int) -> bool:
        if self._written > self.max_bytes // 32 or self._used + self._written + wanted > self.max_bytes:
            self._used, self._written = _bytes_under(self.folder), 0
        if self._used + self._written + wanted <= self.max_bytes:
            return True
        self._evict(wanted)
        if self._used + wanted <= self.max_bytes:
            return True
        self._close(
            f"the pixel cache {self.folder} has reached its bound of {self.max_bytes / 2**20:.0f} MiB: further "
            "images are decoded at every read. Raise the bound, or name a folder with more room in CATCHWEIGHT_CACHE"
        )
        return False

    def _evict(self, wanted: int) -> None:
        """Remove other data sets, least recently opened first, until ``wanted`` bytes fit."""
        others = [folder for folder in _spaces(self.folder) if folder.name not in self._in_use]
        for folder in sorted(others, key=_age):
            if self._used + wanted <= self.max_bytes:
                return
            # Another process that has these files mapped keeps them until it lets go.
            shutil.rmtree(folder, ignore_errors=True)
            self._used = _bytes_under(self.folder)

    def _close(self, why: str) -> None:
        if not self._closed:
            self._closed = True
            warnings.warn(why, stacklevel=2)


def _space(data: SegmentationData) -> str:
    """The folder of a data set's files: the same however it is split, and wherever it lies."""
    digest = hashlib.sha256(f"{DECODE_VERSION}|{data.reading()}".encode())
    for name in sorted(record.id for records in data.splits.values() for record in records):
        digest.update(f"|{name}".encode())
    return digest.hexdigest()[:24]


def _key(record: Record, content: Callable[[Path, int, int], str]) -> str:
    text = [record.id]
    for path in (record.image, record.mask):
        if path is None:
            continue
        try:
            found = os.stat(path)
            text.append(content(path, found.st_size, found.st_mtime_ns))
        except OSError as error:
            raise CatchweightError(f"{path} cannot be read: {error.strerror}. It was there before") from error
    return hashlib.sha256("|".join(text).encode()).hexdigest()[:32]


def _content(path: Path, size: int, changed_ns: int) -> str:
    """A hash of a file; size and time of change only tell a cache around this when to look again."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _pack(sample: Sample) -> np.ndarray:
    """Image rows, then mask rows, as one (4 H, W) array: both come back as contiguous views of one map."""
    height, width = sample.mask.shape
    if sample.image.shape != (height, width, 3):
        raise CatchweightError(
            f"{sample.id}: image {sample.image.shape[1]}x{sample.image.shape[0]} and mask {width}x{height} differ "
            "in size; run `catchweight data check` for all such files"
        )
    return np.concatenate([sample.image.reshape(3 * height, width), sample.mask])


def _as_sample(packed: np.ndarray, name: str) -> Sample:
    height, width = packed.shape[0] // 4, packed.shape[1]
    return Sample(packed[: 3 * height].reshape(height, width, 3), packed[3 * height :], name)


def _open(path: Path) -> np.ndarray:
    # "c": a private writable view, since torch refuses to wrap a read-only array without a warning.
    try:
        return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        # The file may well be there: decoding it again would only hide what is wrong.
        raise CatchweightError(f"cannot open {path}: {error.strerror}. Raise the limit (ulimit -n)") from error


def _open_maps() -> int:
    """OPEN_MAPS, or an eighth of the files that the process may have open: checkpoints and children need some."""
    if sys.platform == "win32":  # no such limit
        return OPEN_MAPS
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OPEN_MAPS if soft == resource.RLIM_INFINITY else min(OPEN_MAPS, soft // 8)


def _spaces(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if SPACE.fullmatch(path.name) and path.is_dir()]


def _age(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:  # another process has just removed it
        return 0.0


def _bytes_under(folder: Path) -> int:
    total = 0
    for space in _spaces(folder):
        try:
            total += sum(entry.stat().st_size for entry in os.scandir(space))
        except OSError:  # removed while being counted
            continue
    return total


def _touch(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
    except OSError:  # read-only: the first write says so
        pass

"""Small sets of labelled images in IDX files, the format of MNIST and Fashion-MNIST; for experiments."""

from __future__ import annotations

import gzip
import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import CatchweightError, UsageError

FILES = {"train": "train", "test": "t10k"}
"""First part of the file names of each split."""

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageSet:
    """Labelled grey images.

    Attributes:
        root: the folder they came from.
        images: by split "train" and "test", ``(N, H, W)`` uint8.
        labels: by split, ``(N,)`` uint8.
    """

    root: Path
    images: dict[str, Bytes]
    labels: dict[str, Bytes]

    def fingerprint(self) -> str:
        """A hash of all pixels and labels."""
        digest = hashlib.sha256()
        for split in FILES:
            digest.update(self.images[split].tobytes())
            digest.update(self.labels[split].tobytes())
        return digest.hexdigest()


def open_images(folder: Path) -> ImageSet:
    """Read a folder with ``train-images-idx3-ubyte.gz`` and so on, gzip-compressed or not.

    Raises:
        UsageError: a file is missing.
        CatchweightError: a file is damaged, or images and labels do not match.
    """
    images, labels = {}, {}
    for split, prefix in FILES.items():
        images[split] = read_idx(_found(folder, f"{prefix}-images-idx3-ubyte"))
        labels[split] = read_idx(_found(folder, f"{prefix}-labels-idx1-ubyte"))
        if images[split].ndim != 3 or labels[split].shape != images[split].shape[:1]:
            raise CatchweightError(
                f"{folder}: {split} has images {images[split].shape} and labels {labels[split].shape}; they must be "
                "(N, H, W) and (N,)"
            )
    return ImageSet(Path(folder), images, labels)


def read_idx(path: Path) -> Bytes:
    """One IDX file of bytes: four magic bytes, the sizes as big-endian 32-bit numbers, then the values.

    Raises:
        CatchweightError: unreadable, cut off, or not such a file.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zero, kind, dimensions = struct.unpack_from(">HBB", raw)
        shape = struct.unpack_from(f">{dimensions}I", raw, 4)
        if zero != 0 or kind != 8:
            raise ValueError("not an IDX file of bytes")
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise CatchweightError(f"cannot read {path}: {error}. Fetch the file again") from error


def write_idx(path: Path, values: Bytes) -> None:
    """The inverse of :func:`read_idx`, compressed where the name ends in .gz."""
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    raw = header + values.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw, mtime=0) if path.suffix == ".gz" else raw)


def draw_images(folder: Path, counts: dict[str, int], seed: int = 0) -> ImageSet:
    """Ten classes of noisy 28x28 patterns, written as IDX files: a stand-in at toy size where no real set is wanted.

    Args:
        folder: takes the files.
        counts: images by split "train" and "test".
        seed: of patterns and noise.
    """
    rng = np.random.default_rng(seed)
    patterns = np.kron(rng.integers(0, 2, (10, 7, 7)), np.ones((4, 4)))
    for split, prefix in FILES.items():
        labels = rng.integers(0, 10, counts[split]).astype(np.uint8)
        noisy = 160 * patterns[labels] + rng.normal(48, 40, (counts[split], 28, 28))
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", noisy.clip(0, 255).astype(np.uint8))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
    return open_images(folder)


def _found(folder: Path, name: str) -> Path:
    for path in (Path(folder) / f"{name}.gz", Path(folder) / name):
        if path.is_file():
            return path
    raise UsageError(f"{folder} has no {name}.gz: give the folder of Fashion-MNIST, or of another set in IDX files")

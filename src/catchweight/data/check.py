"""Looking at every file of a data set before anything is trained on it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import imagehash
import numpy as np
from PIL import Image

from .classes import IGNORE
from .dataset import LABELLED_SPLITS, SegmentationData
from .readers.layout import BadFileError, Problem, Record, listed
from .readers.pixels import oddities, opened

IGNORED = "ignored"
"""The key of unlabelled pixels in ``DataReport.shares``."""

NEAR_BITS = 8
"""Pictures whose 64-bit perceptual hashes differ in no more bits than this count as alike.

The nearest of 50 other COCO photos differs in 18 bits or more, a quarter of CamVid's next frames in 8 or fewer.
"""


@dataclass(frozen=True)
class DataReport:
    """What :func:`check_data` found.

    Attributes:
        counts: images and labelled images by split.
        sizes: how many pictures have each size, "WxH", most frequent first.
        shares: by split, each class's part of all pixels of the labelled pictures, and IGNORED's; sums to 1.
        problems: errors first.
        made_val: ids of the pictures that a "val" made from the seed took; empty where the data set has its own.
    """

    root: str
    format: str
    fingerprint: str
    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    sizes: dict[str, int]
    shares: dict[str, dict[str, float]]
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    made_val: list[str] = field(default_factory=list)

    @property
    def trainable(self) -> bool:
        """Whether training could run: no problem is an error."""
        return not any(problem.level == "error" for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        """Everything, as what ``json.dumps`` takes."""
        return {"trainable": self.trainable, **asdict(self), "classes": list(self.classes)}


@dataclass(frozen=True)
class _Look:
    """What one picture showed; ``pixels`` counts mask values ``(256,)``."""

    record: Record
    size: str | None
    pixels: np.ndarray | None
    digest: bytes = b""
    hash: int = 0
    faults: tuple[BadFileError, ...] = ()
    odd: tuple[str, ...] = ()


def check_data(
    data: SegmentationData, progress: Callable[[int, int], None] | None = None, workers: int | None = None
) -> DataReport:
    """Read every picture and mask once, and say what is there and what is wrong.

    Args:
        data: an opened data set.
        progress: called with (pictures done, pictures in all), from this thread.
        workers: threads; by default one a processor, at most 8.

    Faults in "train" and "val" are errors; the same faults in other splits are warnings, since training runs
    without them. Pictures of two splits that look alike (pHash, Zauner 2010) are one warning a pair of splits.
    """
    looks: dict[str, list[_Look]] = defaultdict(list)
    for split, look in _look_at_all(data, progress, workers or min(8, os.cpu_count() or 1)):
        looks[split].append(look)
    shares = {split: _shares(found, data.classes.names) for split, found in looks.items()}
    sizes = Counter(look.size for found in looks.values() for look in found if look.size)
    problems = [
        *data.problems,
        *(problem for split, found in looks.items() for problem in _file_problems(split, found)),
        *_split_problems(data),
        *_class_problems(data, shares),
        *_alike(looks),
    ]
    return DataReport(
        root=str(data.root),
        format=data.format,
        fingerprint=data.fingerprint(),
        classes=data.classes.names,
        counts={split: _count(records) for split, records in data.splits.items()},
        sizes=dict(sizes.most_common()),
        shares={split: share for split, share in shares.items() if share},
        problems=sorted(problems, key=lambda problem: problem.level),
        notes=list(data.notes),
        made_val=list(data.made_val),
    )


def _look_at_all(
    data: SegmentationData, progress: Callable[[int, int], None] | None, workers: int
) -> Iterator[tuple[str, _Look]]:
    jobs = [(split, record) for split, records in data.splits.items() for record in records]
    with ThreadPoolExecutor(workers) as pool:
        looks = pool.map(lambda job: _look(data, job[1]), jobs)
        for done, ((split, _), look) in enumerate(zip(jobs, looks, strict=True), 1):
            if progress is not None:
                progress(done, len(jobs))
            yield split, look


def _look(data: SegmentationData, record: Record) -> _Look:
    image, mask, faults = _read(data, record)
    odd: list[str] = []
    if image is not None:
        with opened(record.image) as picture:
            odd = oddities(picture, record.image)
    return _Look(
        record,
        size=None if image is None else f"{image.shape[1]}x{image.shape[0]}",
        pixels=None if mask is None else np.bincount(mask.ravel(), minlength=256),
        digest=b"" if image is None else hashlib.sha256(image.tobytes()).digest(),
        hash=0 if image is None else _perceptual_hash(image),
        faults=faults,
        odd=tuple(odd),
    )


def _read(
    data: SegmentationData, record: Record
) -> tuple[np.ndarray | None, np.ndarray | None, tuple[BadFileError, ...]]:
    """Picture, mask, and every fault: when one part is broken the other is still looked at."""
    faults: dict[str, BadFileError] = {}
    if record.mask is not None:
        try:
            sample = data.read(record)
            return sample.image, sample.mask, ()
        except BadFileError as error:
            faults[str(error)] = error
    parts: list[np.ndarray | None] = [None, None]
    for place, part in enumerate((data.image, data.mask)):
        try:
            if place == 0 or record.mask is not None:
                parts[place] = part(record)
        except BadFileError as error:
            faults[str(error)] = error
    return parts[0], parts[1], tuple(faults.values())


def _perceptual_hash(image: np.ndarray) -> int:
    bits = imagehash.phash(Image.fromarray(image)).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _count(records: Iterable[Record]) -> dict[str, int]:
    every = list(records)
    return {"images": len(every), "labelled": sum(record.mask is not None for record in every)}


def _shares(looks: list[_Look], names: tuple[str, ...]) -> dict[str, float]:
    total = sum((look.pixels for look in looks if look.pixels is not None), np.zeros(256, dtype=np.int64))
    if not total.sum():
        return {}
    part = total / total.sum()
    return {**{name: float(part[index]) for index, name in enumerate(names)}, IGNORED: float(part[IGNORE])}


def _file_problems(split: str, looks: list[_Look]) -> Iterator[Problem]:
    level = "error" if split in LABELLED_SPLITS else "warning"
    for look in looks:
        for fault in look.faults:
            yield Problem(level, fault.file, fault.reason)  # type: ignore[arg-type]
        for odd in look.odd:
            yield Problem("warning", str(look.record.image), odd)
    blank = [look.record.id for look in looks if look.pixels is not None and look.pixels[IGNORE] == look.pixels.sum()]
    if blank:
        message = f"{len(blank)} of {len(looks)} masks have no labelled pixel: {listed(blank, 5)}"
        yield Problem("warning", f"split {split}", message)


def _split_problems(data: SegmentationData) -> Iterator[Problem]:
    for split in LABELLED_SPLITS:
        if not data.splits.get(split):
            yield Problem("error", str(data.root), f'split "{split}" has no image with a mask: training needs some')


def _class_problems(data: SegmentationData, shares: dict[str, dict[str, float]]) -> Iterator[Problem]:
    train = shares.get("train")
    if not train:
        return
    absent = [name for name in data.classes.names if train[name] == 0]
    if not absent:
        return
    message = f"{len(absent)} of {len(data.classes)} classes are never seen in train: {listed(absent, 30)}"
    if len(absent) == len(data.classes):
        yield Problem("error", "split train", "no pixel of train has a label: every mask value is ignored")
        return
    if len(data.classes) == 2 and train[IGNORED] > 0:
        message += '. If the masks are 0 and 255, say so in classes.json: "values": [0, 255]'
    yield Problem("warning", "split train", message)


def _alike(looks: dict[str, list[_Look]]) -> Iterator[Problem]:
    """One warning for every two splits that share pictures, or pictures that look alike."""
    good = {split: [look for look in found if look.digest] for split, found in looks.items()}
    names = [split for split in good if good[split]]
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            yield from _alike_between(first, good[first], second, good[second])


def _alike_between(first: str, looks: list[_Look], second: str, others: list[_Look]) -> Iterator[Problem]:
    where = f"splits {first} and {second}"
    by_digest = {look.digest: look.record.id for look in looks}
    same = [f"{other.record.id} = {by_digest[other.digest]}" for other in others if other.digest in by_digest]
    if same:
        message = (
            f"{len(same)} of {len(others)} {second} images are also in {first}, pixel for pixel: {listed(same, 5)}"
        )
        yield Problem("warning", where, message)
    nearest = _nearest([look.hash for look in looks], [look.hash for look in others])
    near = [
        f"{other.record.id} ~ {looks[place].record.id}"
        for other, (place, bits) in zip(others, nearest, strict=True)
        if bits <= NEAR_BITS and other.digest not in by_digest
    ]
    if near:
        message = (
            f"{len(near)} of {len(others)} {second} images look like one of {first} (perceptual hashes differ in "
            f"at most {NEAR_BITS} of 64 bits), so the {second} score may flatter: {listed(near, 5)}"
        )
        yield Problem("warning", where, message)


def _nearest(hashes: list[int], queries: list[int]) -> Iterator[tuple[int, int]]:
    """For each query the place of the nearest hash and how many bits differ."""
    table = _bytes(hashes)
    ones = np.array([bin(value).count("1") for value in range(256)], dtype=np.uint8)
    for query in _bytes(queries):
        bits = ones[table ^ query].sum(axis=1)
        place = int(bits.argmin())
        yield place, int(bits[place])


def _bytes(hashes: list[int]) -> np.ndarray:
    return np.array(hashes, dtype=">u8").view(np.uint8).reshape(-1, 8)

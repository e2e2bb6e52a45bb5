"""Predict files, folders and videos with an exported network; kill it at any moment and run it again.

In the output folder: ``overlays/`` and ``masks/`` mirror the folders of the source, ``shares.csv`` has one line per
picture with each class's share of its pixels, and ``finished.jsonl`` is the journal that makes resuming exact.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from ..data.classes import ClassSet
from ..data.drawing import overlay
from ..errors import CatchweightError
from .journal import Journal, stamp
from .media import (
    MASKS,
    OVERLAYS,
    Source,
    UnreadableError,
    Video,
    find_sources,
    video_writer,
    write_image,
    write_mask,
)  # fmt: skip
from .segmenter import Segmenter, read_rgb

OnProgress = Callable[[int, int, str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class PredictSummary:
    """What ``predict`` did: numbers of files, the failed ones with their reasons, and how long it took."""

    done: int
    skipped: int
    failed: list[tuple[Path, str]]
    seconds: float

    @property
    def exit_code(self) -> int:
        """1 when a file could not be predicted, else 0."""
        return 1 if self.failed else 0


def predict(
    segmenter: Segmenter,
    source: str | Path,
    out: str | Path,
    *,
    batch: int = 8,
    overlays: bool = True,
    masks: bool = True,
    frame_masks: bool = False,
    resume: bool = True,
    on_progress: OnProgress | None = None,
) -> PredictSummary:
    """Write overlays, index masks and class shares for every picture and video behind ``source``.

    Args:
        segmenter: the network.
        source: a picture, a video, a folder, or a glob pattern.
        out: output folder; results of other sources in it are kept, names do not clash.
        batch: pictures or frames per run of the network.
        overlays: write ``overlays/NAME.jpg`` (``.png`` for PNG sources, ``.mp4`` for videos).
        masks: write ``masks/NAME.png`` for pictures: palette PNG, values are class indices.
        frame_masks: write a video's masks too, ``masks/NAME/000000.png`` and so on.
        resume: pass over files that are finished with this very network and unchanged since.
        on_progress: called with (files done, files in all, name), during a video with its frames done behind the name
            as well; left out, a bar with ETA is shown on stderr.

    Returns:
        The counts. A file that cannot be read is listed in ``failed`` and does not stop the others.

    Raises:
        UsageError: nothing to predict at ``source``.
        CatchweightError: the output cannot be written.
    """
    begun = time.monotonic()
    out = Path(out)
    journal = Journal(out, segmenter.path, segmenter.names)
    job = _Job(segmenter, journal, out, batch, overlays, masks, frame_masks)
    sources = find_sources(source, out)
    todo = [s for s in sources if not (resume and job.is_finished(s))]
    skipped = len(sources) - len(todo)
    with _progress(on_progress) as report, journal.kept():
        done = skipped
        report(done, len(sources), "")
        for name, is_finished in job.work(todo):
            done += is_finished
            report(done, len(sources), name)
    return PredictSummary(len(todo) - len(job.failed), skipped, job.failed, time.monotonic() - begun)


@dataclass
class _Job:
    """One call of ``predict``."""

    segmenter: Segmenter
    journal: Journal
    out: Path
    batch: int
    overlays: bool
    masks: bool
    frame_masks: bool
    failed: list[tuple[Path, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.classes = ClassSet(self.segmenter.names, self.segmenter.colors)

    def is_finished(self, source: Source) -> bool:
        """In the journal, and all that is wanted is there."""
        entry = self.journal.finished(source)
        return entry is not None and all(path.exists() for path in self._results(source, entry.name))

    def work(self, sources: Iterable[Source]) -> Iterator[tuple[str, bool]]:
        """Predict all, pictures in batches; yields the name of each file and whether it is dealt with now."""
        for part in _batches(sources, self.batch):
            for name in self._pictures([source for source in part if not source.is_video]):
                yield name, True
            for source in part:
                if source.is_video:
                    for frames in self._video(source):
                        yield f"{_shown(source.relative)}, {frames}", False
                    yield _shown(source.relative), True

    def _results(self, source: Source, name: str) -> list[Path]:
        """The files that ``source`` is to leave behind."""
        overlays = [self._overlay_path(source, name)] if self.overlays else []
        masks = self.frame_masks if source.is_video else self.masks
        return overlays + ([self._mask_path(source, name)] if masks else [])

    def _overlay_path(self, source: Source, name: str) -> Path:
        suffix = ".mp4" if source.is_video else ".png" if source.path.suffix.lower() == ".png" else ".jpg"
        return self.out / OVERLAYS / (name + suffix)

    def _mask_path(self, source: Source, name: str) -> Path:
        return self.out / MASKS / (name if source.is_video else name + ".png")

    def _pictures(self, sources: list[Source]) -> Iterator[str]:
        read = []
        for source in sources:
            try:
                read.append((source, stamp(source), read_rgb(source.path)))
            except (CatchweightError, OSError) as error:
                self._fail(source, error)
                yield _shown(source.relative)
        predicted = self.segmenter.predict_batch([image for _, _, image in read])
        for (source, seen, image), mask in zip(read, predicted, strict=True):
            self._finish_picture(source, seen, image, mask)
            yield _shown(source.relative)

    def _finish_picture(self, source: Source, seen: list[int], image: Image.Image, mask: np.ndarray) -> None:
        name = self.journal.name(source)
        if self.masks:
            write_mask(self._mask_path(source, name), mask, self.classes.colors)
        if self.overlays:
            write_image(self._overlay_path(source, name), overlay(np.asarray(image), mask, self.classes))
        self.journal.record(source, seen, (self._counts(mask) / mask.size).tolist())

    def _video(self, source: Source) -> Iterator[str]:
        """Predict a video; yields how far it is."""
        counts = np.zeros(len(self.classes), np.int64)
        try:
            seen = stamp(source)
            with Video(source.path) as video:
                of = f" of {video.count}" if video.count else ""
                for done in self._frames(video, source, counts):
                    yield f"frame {done}{of}"
        except (UnreadableError, FileNotFoundError) as error:
            self._fail(source, error)
            return
        self.journal.record(source, seen, (counts / counts.sum()).tolist())

    def _frames(self, video: Video, source: Source, counts: np.ndarray) -> Iterator[int]:
        """Predict a video batch by batch, adding each class's pixels to ``counts`` (K,); yields the frames done."""
        name, index = self.journal.name(source), 0
        with _overlay_video(self._overlay_path(source, name) if self.overlays else None, video) as write:
            for frames in _batches(video.frames(), self.batch):
                for frame, mask in zip(frames, self.segmenter.predict_batch(frames), strict=True):
                    counts += self._counts(mask)
                    if self.frame_masks:
                        path = self._mask_path(source, name) / f"{index:06d}.png"
                        write_mask(path, mask, self.classes.colors)
                    if write is not None:
                        write(overlay(frame, mask, self.classes))
                    index += 1
                yield index

    def _counts(self, mask: np.ndarray) -> np.ndarray:
        return np.bincount(mask.ravel(), minlength=len(self.classes))

    def _fail(self, source: Source, error: Exception) -> None:
        self.journal.drop(source)
        reason = str(error).removeprefix(f"{source.path}: ")
        self.failed.append((source.path, reason or type(error).__name__))


def _shown(path: Path) -> str:
    """A file name fit for one line of a terminal, whatever bytes it has."""
    text = str(path).encode("utf-8", "backslashreplace").decode()
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part


@contextmanager
def _overlay_video(path: Path | None, video: Video) -> Iterator[Callable[[np.ndarray], None] | None]:
    if path is None:
        yield None
        return
    with video_writer(path, video.rate) as write:
        yield write


@contextmanager
def _progress(wanted: OnProgress | None) -> Iterator[OnProgress]:
    """The caller's function, or a bar with ETA on stderr that shows only in a terminal."""
    if wanted is not None:
        yield wanted
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns: tuple[Any, ...] = (
        TextColumn("predict"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[name]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("predict", total=None, name="")
        yield lambda done, total, name: bar.update(task, completed=done, total=total, name=escape(name))

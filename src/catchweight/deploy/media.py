"""Finding pictures and videos, reading a video frame by frame, and writing what was predicted."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import CatchweightError, UsageError
from ..files import written_aside

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".jp2", ".avif")
)
VIDEO_SUFFIXES = frozenset((".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv"))

OVERLAYS, MASKS = "overlays", "masks"
"""Folders of the results; never searched for sources."""

WHOLE = 0.9
"""A video that ends before this share of the frames it announces is broken (edit lists may hide a few)."""


class UnreadableError(CatchweightError):
    """A source that cannot be read; the other sources can."""


@dataclass(frozen=True)
class Source:
    """One file to predict: where it lies, and its path relative to what was asked for (names the results)."""

    path: Path
    relative: Path

    @property
    def is_video(self) -> bool:
        """By the suffix."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_sources(asked: str | Path, out: Path) -> list[Source]:
    """Pictures and videos behind a file, a folder (searched to its depths) or a glob pattern, in order.

    Results of earlier calls in ``out`` are left out: they are not to be predicted again.

    Raises:
        UsageError: nothing is there, or nothing that could be predicted.
    """
    path = Path(asked)
    if path.is_file():
        return [Source(path, Path(path.name))]
    if path.is_dir():
        found = [Source(file, file.relative_to(path)) for file in path.rglob("*")]
    else:
        found = _matches(str(asked))
    known = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    results = {out.resolve() / OVERLAYS, out.resolve() / MASKS}
    kept = [
        source
        for source in sorted(found, key=lambda source: source.path)
        if source.path.suffix.lower() in known
        and source.path.is_file()
        and not results.intersection(source.path.resolve().parents)
    ]
    if not kept:
        what = (
            f"{asked}: no such file or folder" if not found and not path.is_dir() else f"{asked}: no picture or video"
        )
        raise UsageError(f"{what}; give a file, a folder or a quoted pattern. Read are {' '.join(sorted(known))}")
    return kept


def _matches(pattern: str) -> list[Source]:
    paths = [Path(name) for name in glob.glob(pattern, recursive=True)]
    fixed = Path(*_before_wildcards(Path(pattern).parts))
    return [Source(path, _downwards(path.relative_to(fixed))) for path in paths]


def _downwards(path: Path) -> Path:
    """Without "..", which would lead results out of the output folder."""
    return Path(*(part for part in path.parts if part != ".."))


def _before_wildcards(parts: tuple[str, ...]) -> Iterator[str]:
    for part in parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def write_mask(path: Path, mask: np.ndarray, colors: tuple[tuple[int, int, int], ...]) -> None:
    """A mask (H, W) uint8 as palette PNG: the values are class indices, viewers show the class colours."""
    image = Image.fromarray(mask)
    image.putpalette([channel for color in colors for channel in color])
    with written_aside(path) as temporary:
        image.save(temporary, format="PNG")


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Pixels (H, W, 3) uint8 as JPEG or PNG, by the suffix."""
    jpeg = path.suffix.lower() in {".jpg", ".jpeg"}
    with written_aside(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="JPEG" if jpeg else "PNG", quality=92)


class Video:
    """A video file read one frame at a time; never more than a frame is in memory here.

    Attributes:
        rate: frames per second.
        count: frames, as far as the file says; 0 when it does not.

    Raises:
        UnreadableError: not a video, or it has no picture stream.
    """

    def __init__(self, path: Path) -> None:
        # Imported late: pictures do not need it, and it loads the whole of FFmpeg.
        import av

        self.path = path
        try:
            self._container = av.open(str(path))
        except (av.FFmpegError, OSError) as error:
            raise UnreadableError(f"{path}: not a video that FFmpeg can read ({error})") from error
        if not self._container.streams.video:
            self._container.close()
            raise UnreadableError(f"{path}: has no video stream")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or 25)
        self.count = int(self._stream.frames)

    def frames(self) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB, turned upright as the file's display matrix asks.

        Raises:
            UnreadableError: damaged, cut short, or without a single frame.
        """
        import av

        number = 0
        try:
            for frame in self._container.decode(self._stream):
                yield _upright(frame)
                number += 1
        except (av.FFmpegError, OSError) as error:
            raise UnreadableError(f"{self.path}: broken after frame {number} ({error})") from error
        if number == 0 or number < WHOLE * self.count:
            raise UnreadableError(f"{self.path}: ends after {number} of {self.count or 'any'} frames")

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()


def _upright(frame: Any) -> np.ndarray:
    pixels: np.ndarray = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


@contextmanager
def video_writer(path: Path, rate: Fraction) -> Iterator[Callable[[np.ndarray], None]]:
    """Write an .mp4: yields a function that takes frames (H, W, 3) uint8; the file appears when all is done.

    H.264 where FFmpeg has an encoder for it, else MPEG-4. Chroma is halved, so an odd last row or column is cut.
    """
    import av

    encoder = next((name for name in ("libx264", "libopenh264") if name in av.codecs_available), "mpeg4")
    with written_aside(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream: Any = container.add_stream(encoder, rate=rate)
        stream.pix_fmt = "yuv420p"
        if encoder == "libx264":
            stream.options = {"crf": "20", "preset": "veryfast"}
        started = False

        def write(pixels: np.ndarray) -> None:
            nonlocal started
            even = pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2]
            if not started:
                stream.height, stream.width = even.shape[:2]
                started = True
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            container.mux(stream.encode(frame))

        yield write
        if started:
            container.mux(stream.encode())

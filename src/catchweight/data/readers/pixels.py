"""Picture files: opened under a size limit, turned into 8-bit RGB, with what is odd about them named.

EXIF policy: a picture is taken as it is stored. Where an EXIF orientation is set, it is applied only if the
mask's size fits the turned picture and not the stored one, or if the format's labels are defined on the turned
picture (YOLO). ``check_data`` reports every such picture.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from .layout import IMAGE_FORMATS, BadFileError

MAX_PIXELS = 80_000_000
"""Larger pictures are refused before decoding: a few kilobytes of file can ask for gigabytes of memory."""

_ORIENTATION = 0x0112


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The picture at ``path``, header read, pixels not yet decoded.

    Raises:
        BadFileError: absent, not a picture, truncated (also while the body decodes it), or over MAX_PIXELS.
    """
    try:
        # By content alone Pillow would hand an EPS that is named x.jpg to Ghostscript, a program.
        with Image.open(path, formats=IMAGE_FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{width}x{height}")
            yield picture
    except FileNotFoundError as error:
        raise BadFileError(path, "the file is not there") from error
    except Image.DecompressionBombError as error:
        reason = f"more than {MAX_PIXELS:,} pixels ({error}): cut it into tiles or shrink it"
        raise BadFileError(path, reason) from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        reason = f"cannot be read as an image ({error}): replace or remove it"
        raise BadFileError(path, reason) from error


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1 (as stored) when there is none or it makes no sense."""
    try:
        value = int(picture.getexif().get(_ORIENTATION, 1))
    except (TypeError, ValueError, SyntaxError, OSError, struct.error):
        return 1  # damaged EXIF in a good picture
    return value if 1 <= value <= 8 else 1


class Views(NamedTuple):
    """A picture both ways up, ``(H, W, 3)`` uint8 RGB; the same array where EXIF asks for no turn."""

    stored: np.ndarray
    upright: np.ndarray


def read_views(path: Path) -> Views:
    """Decode a picture: 16-bit scaled to 8, alpha dropped, grey repeated.

    Raises:
        BadFileError: as :func:`opened`, and for floating-point pixels.
    """
    with opened(path) as picture:
        stored = _to_rgb(picture)
        if orientation(picture) == 1:
            return Views(stored, stored)
        return Views(stored, _to_rgb(ImageOps.exif_transpose(picture)))


def read_sizes(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """(H, W) as stored and upright, from the header alone."""
    with opened(path) as picture:
        size = (picture.height, picture.width)
        return size, size[::-1] if orientation(picture) >= 5 else size


def _to_rgb(picture: Image.Image) -> np.ndarray:
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it as 8-bit PNG or JPEG")
    if picture.mode.startswith("I"):
        grey = (np.clip(np.asarray(picture, dtype=np.int64), 0, 65535) // 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))


def oddities(picture: Image.Image, path: Path) -> list[str]:
    """What is unusual about a picture and what is done about it; empty for 8-bit RGB or grey as stored."""
    found = []
    if _is_16_bit(picture, path):
        found.append("16-bit image: scaled to 8 bits (value // 257)")
    if picture.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in picture.info:
        found.append("image with an alpha channel: alpha is dropped, the colours below it are used")
    if orientation(picture) > 1:
        found.append(
            f"EXIF orientation {orientation(picture)}: turned only where the mask's size asks for it; "
            "store image and mask the same way up"
        )
    return found


def _is_16_bit(picture: Image.Image, path: Path) -> bool:
    if picture.mode.startswith("I"):
        return True
    if picture.format != "PNG":
        return False
    with path.open("rb") as file:  # Pillow hands out 16-bit RGB as 8-bit without a word
        return file.read(25)[24:] == b"\x10"

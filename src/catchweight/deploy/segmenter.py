"""Serve an exported network in three lines, with numpy, pillow and onnxruntime alone.

    from catchweight import Segmenter

    segment = Segmenter("model.onnx")
    mask = segment("street.jpg")        # (H, W) uint8 class indices at the image's own size

Nothing here imports torch: a device that serves the network should not need the library that trained it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import CatchweightError, UsageError

# Masks are made in bands of rows of this many logits: they stay in the processor's cache, and a picture of
# a hundred megapixels does not need a hundred megapixels times classes of memory.
_BAND_VALUES = 1 << 18

# Other formats are left alone: by content alone pillow would hand an EPS that is named x.jpg to Ghostscript.
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM", "GIF", "JPEG2000", "AVIF")

ImageLike = str | Path | Image.Image | np.ndarray


class Segmenter:
    """A segmentation network in an ONNX file written by ``catchweight export``.

    Args:
        path: the file; class names, colours, normalisation and input size are read from inside it.
        threads: intra-op threads of ONNX Runtime; None leaves the choice to the runtime.
        providers: ONNX Runtime execution providers, best first.

    Attributes:
        names: class names, in index order.
        colors: one (r, g, b) per class.
        size: the (height, width) in pixels that images are resized to before the network sees them.
        batch: images per run the file was exported for; None when any number will do.
        fixed_size: the only (height, width) the network takes; None when it takes any.
        metadata: everything the exporter wrote into the file.

    Raises:
        CatchweightError: the file is missing, is not ONNX, or carries no Catchweight metadata.
    """

    def __init__(
        self,
        path: str | Path,
        threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        self.path = Path(path)
        self.session = _open_session(self.path, threads, providers)
        self.metadata = _read_metadata(self.session, self.path)
        try:
            self.names = tuple(str(entry["name"]) for entry in self.metadata["classes"])
            self.colors = tuple(_color(entry["color"]) for entry in self.metadata["classes"])
            mean, std = (np.asarray(self.metadata[key], np.float32).reshape(3, 1, 1) for key in ("mean", "std"))
            height, width = self.metadata["size"]
        except (KeyError, TypeError, ValueError) as error:
            raise CatchweightError(
                f'{self.path}: its "catchweight" metadata is not understood ({error!r}); export it again'
            ) from error
        self.size = (int(height), int(width))
        self._scale, self._shift = 1 / (255 * std), -mean / std
        source = self.session.get_inputs()[0]
        self.input_name = source.name
        batch, _, height, width = source.shape
        self.batch = batch if isinstance(batch, int) else None
        self.fixed_size = (height, width) if isinstance(height, int) and isinstance(width, int) else None

    def __call__(self, image: ImageLike) -> np.ndarray:
        """The class of every pixel: (H, W) uint8 at the image's own size (after EXIF rotation)."""
        return self.predict_batch([image])[0]

    def probabilities(self, image: ImageLike) -> np.ndarray:
        """Softmax over the classes: (K, H, W) float32 at the image's own size."""
        picture = read_rgb(image)
        logits = upsample(self.run(self.prepare(picture))[0], (picture.height, picture.width))
        logits -= logits.max(axis=0)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=0)
        return logits

    def predict_batch(self, images: Sequence[ImageLike]) -> list[np.ndarray]:
        """Masks of several images, of any sizes; a file of fixed batch is run as often as needed."""
        pictures = [read_rgb(image) for image in images]
        masks: list[np.ndarray] = []
        step = self.batch or max(len(pictures), 1)
        for start in range(0, len(pictures), step):
            part = pictures[start : start + step]
            logits = self.run(np.concatenate([self.prepare(picture) for picture in part]))
            masks += [self.finish(one, (p.height, p.width)) for one, p in zip(logits, part, strict=True)]
        return masks

    def prepare(self, image: ImageLike) -> np.ndarray:
        """Resize to ``size`` (antialiased bilinear, as in evaluation) and normalise: (1, 3, h, w) float32."""
        height, width = self.size
        picture = read_rgb(image).resize((width, height), Image.Resampling.BILINEAR)
        return self.normalise(np.asarray(picture).transpose(2, 0, 1)[None])

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """(B, 3, h, w) uint8 -> float32, ``(pixels / 255 - mean) / std`` with the constants folded."""
        scaled = np.multiply(pixels, self._scale, dtype=np.float32, order="C")
        scaled += self._shift
        return scaled

    def run(self, array: np.ndarray) -> np.ndarray:
        """The network alone: (B, 3, h, w) float32 -> logits (B, K, h, w)."""
        count = len(array)
        if self.batch is not None and count < self.batch:
            array = np.concatenate([array, np.repeat(array[-1:], self.batch - count, axis=0)])
        logits: np.ndarray = self.session.run(None, {self.input_name: array})[0]
        return logits[:count]

    def finish(self, logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Logits (K, h, w) or (1, K, h, w) of one image -> mask (H, W) uint8 at ``size`` = (H, W)."""
        if logits.ndim == 4:
            logits = logits[0]
        height, width = size
        wide = _widen(logits, width)
        rows = max(_BAND_VALUES // (len(wide) * width), 1)
        mask = np.empty(size, np.uint8)
        for top in range(0, height, rows):
            band = slice(top, min(top + rows, height))
            mask[band] = _heighten(wide, height, band).argmax(axis=0)
        return mask


def upsample(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear interpolation with half-pixel centres, (K, h, w) -> (K, H, W) float32.

    The same numbers as ``torch.nn.functional.interpolate(..., mode="bilinear", align_corners=False)``.
    """
    return _heighten(_widen(logits, size[1]), size[0], slice(0, size[0]))


def _widen(logits: np.ndarray, width: int) -> np.ndarray:
    # Columns go first, while there are few rows: picking along the last axis is the slow half.
    logits = logits.astype(np.float32, copy=False)
    low, high, weight = _taps(logits.shape[2], width)
    return _lerp(logits.take(low, axis=2), logits.take(high, axis=2), weight)


def _heighten(wide: np.ndarray, height: int, band: slice) -> np.ndarray:
    low, high, weight = (taps[band] for taps in _taps(wide.shape[1], height))
    return _lerp(wide.take(low, axis=1), wide.take(high, axis=1), weight[:, None])


def _taps(source: int, wanted: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every wanted position: the two source positions around it and the weight of the second."""
    # In float32 as torch does it: at odd ratios the rounding of positions is what differs, not the sums.
    scale, half = np.float32(source / wanted), np.float32(0.5)
    position = np.maximum((np.arange(wanted, dtype=np.float32) + half) * scale - half, np.float32(0))
    low = np.minimum(position.astype(np.intp), source - 1)
    return low, np.minimum(low + 1, source - 1), position - low.astype(np.float32)


def _lerp(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    second -= first
    second *= weight
    first += second
    return first


def read_rgb(image: ImageLike) -> Image.Image:
    """Any picture as 8-bit RGB, upright: paths, PIL images and (H, W[, 1|3|4]) arrays.

    EXIF rotation is applied, alpha is dropped, grey is repeated, CMYK is converted, and 16-bit values are
    scaled down (pillow alone would clip them).

    Raises:
        CatchweightError: the file cannot be read as an image (names it).
        UsageError: the array has another shape or type.
    """
    if isinstance(image, np.ndarray):
        return _to_rgb(Image.fromarray(_checked(image)))
    if isinstance(image, Image.Image):
        return _to_rgb(image)
    Image.init()  # older pillows have no AVIF, and trip over the name
    formats = [name for name in _FORMATS if name in Image.OPEN]
    try:
        with Image.open(image, formats=formats) as opened:
            return _to_rgb(opened)
    except FileNotFoundError as error:
        raise CatchweightError(f"{image}: no such file") from error
    except UnidentifiedImageError as error:
        raise CatchweightError(f"{image}: not an image of a known format ({', '.join(formats)})") from error
    except Exception as error:  # decoders raise whatever a damaged file makes them trip over
        raise CatchweightError(f"{image}: broken image ({error})") from error


def _checked(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8 and array.size:
        if array.ndim == 3 and array.shape[2] == 1:
            return np.ascontiguousarray(array[..., 0])
        if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4)):
            return np.ascontiguousarray(array)
    raise UsageError(f"an image array must be (H, W, 3) uint8 in RGB order, but got {array.shape} {array.dtype}")


def _to_rgb(image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it as 8-bit PNG or JPEG")
    if upright.mode.startswith("I"):
        deep = np.clip(np.asarray(upright, np.int64), 0, 65535)  # the training reader scales the same way
        upright = Image.fromarray((deep // 257).astype(np.uint8))
    return upright.convert("RGB")


def _color(value: Sequence[int]) -> tuple[int, int, int]:
    red, green, blue = (int(channel) for channel in value)
    return red, green, blue


def _open_session(path: Path, threads: int | None, providers: Sequence[str]) -> onnxruntime.InferenceSession:
    if not path.is_file():
        raise CatchweightError(f"{path}: no such ONNX file")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # onnxruntime raises its own untyped family
        reason = str(error).splitlines()[0]
        raise CatchweightError(
            f"{path}: ONNX Runtime cannot load it ({reason}); give a file that `catchweight export` or `fit` wrote"
        ) from error


def _read_metadata(session: onnxruntime.InferenceSession, path: Path) -> dict[str, Any]:
    text = session.get_modelmeta().custom_metadata_map.get("catchweight")
    if text is None:
        raise CatchweightError(
            f"{path}: an ONNX file without Catchweight metadata (classes, normalisation, size); "
            "write it with `catchweight export`"
        )
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise CatchweightError(f'{path}: its "catchweight" metadata is not JSON ({error})') from error
    return dict(found)

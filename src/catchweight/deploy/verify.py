"""Does the exported file compute what was trained? Asked with real images, before anything is claimed of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.classes import ClassSet
from ..data.loading import EvalBatch
from ..errors import CatchweightError, UsageError
from ..nets.segmentation import SegmentationNet
from ..targets.tracing.graph import check_onnx
from ..train.evaluate import eager_predict, evaluate
from .bisect import Departure, first_departure
from .segmenter import Segmenter

# A file of free size is also tried where shape arithmetic goes wrong: at sizes that no stride divides, and at one at
# which levels that were a single pixel when it was exported have more.
_ODD_SIZES = ((1, 1, 3), (1, 7, -5), (2, 1, 3))  # times the size, and so many rows and columns more


@dataclass(frozen=True)
class Verification:
    """The file against the network.

    Attributes:
        max_rel_diff: largest |logit difference| over the largest |logit|.
        changed_share: share of pixels (at the network's own size) whose class differs.
        miou_eager, miou_onnx: on the loader's masks, 0..1.
        images: how many were compared.
        failures: one sentence for each limit that is broken; empty when the file is good.
        departure: the first layer that departs, when a limit is broken and one can be named.
    """

    max_rel_diff: float
    changed_share: float
    miou_eager: float
    miou_onnx: float
    images: int
    failures: tuple[str, ...] = ()
    departure: Departure | None = None

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def message(self) -> str:
        """The verdict for the user, in a sentence or two."""
        if self.passed:
            return (
                f"the file computes what was trained: logits within {self.max_rel_diff:.1e} (relative), "
                f"{self.changed_share:.3%} of pixels changed, mIoU {self.miou_onnx:.4f} against "
                f"{self.miou_eager:.4f} eager, on {self.images} images"
            )
        where = f": {self.departure}" if self.departure else "; every single layer agrees, only their sum departs"
        return f"the file does not compute what was trained ({'; '.join(self.failures)}){where}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed, "message": self.message}


def verify(
    path: Path,
    net: SegmentationNet,
    loader: Iterable[EvalBatch],
    classes: ClassSet,
    *,
    rel: float = 1e-3,
    pixels: float = 1e-3,
    miou: float = 5e-4,
) -> Verification:
    """Run the file in ONNX Runtime and the network in eager torch on the same images.

    Args:
        path: written by ``export`` from ``net``; nothing is deleted when it fails.
        loader: gives images at the file's size; iterated twice.
        rel: largest |logit difference| allowed, relative to the largest |logit|.
        pixels: largest share of changed pixels allowed.
        miou: largest difference of mIoU allowed (5e-4 is 0.05 points).

    Raises:
        CatchweightError: the file cannot be loaded, has no metadata, or predicts other classes than the data or the
            network.
        UsageError: the loader is empty, or its images are not of the file's size.
    """
    check_onnx(path)
    segmenter = Segmenter(path)
    require_classes(path, segmenter.names, classes)
    if net.spec.classes != len(classes):
        raise CatchweightError(
            f"{path} cannot have come from this {net.spec.name}: it predicts {len(classes)} classes, the network "
            f"{net.spec.classes}; name the checkpoint it was exported from"
        )
    eager, exported = eager_predict(net), onnx_predict(segmenter)
    tally = _Tally()

    def compared(images: Tensor) -> Tensor:
        found = exported(images)
        tally.add(images, found, eager(images).float().cpu())
        return found

    score_onnx = evaluate(compared, loader, classes)
    if tally.worst is None:
        raise UsageError(f"{path} cannot be verified: there is no image in the split")
    _try_odd_sizes(tally, segmenter, exported, eager)
    score_eager = evaluate(eager, loader, classes)
    result = Verification(
        max_rel_diff=tally.difference,
        changed_share=tally.changed / tally.pixels,
        miou_eager=score_eager.miou,
        miou_onnx=score_onnx.miou,
        images=tally.images,
    )
    failures = _failures(result, rel, pixels, miou)
    if not failures:
        return result
    image = tally.worst.repeat(segmenter.batch or 1, 1, 1, 1)
    departure = first_departure(path, net, net.normalise(image.to(net.mean.device)), rel)
    return Verification(**{**vars(result), "failures": failures, "departure": departure})


Run = Callable[[np.ndarray], np.ndarray]
"""Normalised images (B, 3, H, W) float32 to logits (B, K, H, W)."""


def require_classes(path: Path, names: tuple[str, ...], classes: ClassSet) -> None:
    """Raises CatchweightError where a file's class names are not those of the data set: its mIoU would mean nothing."""
    if names != classes.names:
        raise CatchweightError(
            f"{path} predicts {len(names)} classes ({', '.join(names[:4])}...), but the data set has "
            f"{len(classes)} ({', '.join(classes.names[:4])}...): score it on data with the classes it was trained on"
        )


def onnx_predict(segmenter: Segmenter, run: Run | None = None) -> Callable[[Tensor], Tensor]:
    """The file as ``predict``: uint8 (B, 3, H, W) to logits (B, K, H, W), in as many runs as its batch needs.

    Args:
        run: what computes instead of ONNX Runtime, on normalised batches, whole ones if the file's batch is fixed.
    """
    compute = run or segmenter.run

    def predict(images: Tensor) -> Tensor:
        _check_size(segmenter, images)
        arrays = segmenter.normalise(images.cpu().numpy())
        count, step = len(arrays), segmenter.batch or len(arrays)
        whole = np.concatenate([arrays, np.repeat(arrays[-1:], -count % step, axis=0)]) if count % step else arrays
        parts = [compute(whole[start : start + step]) for start in range(0, count, step)]
        return torch.from_numpy(np.concatenate(parts)[:count])

    return predict


@dataclass
class _Tally:
    """Running totals over batches; ``worst`` is the image (1, 3, H, W) with the largest difference."""

    gap: float = 0.0
    largest: float = 0.0
    changed: int = 0
    pixels: int = 0
    images: int = 0
    worst: Tensor | None = field(default=None, repr=False)

    @property
    def difference(self) -> float:
        return self.gap / max(self.largest, 1e-12)

    def add(self, images: Tensor, found: Tensor, expected: Tensor) -> None:
        gaps = (found - expected).abs().flatten(1).amax(1).nan_to_num(nan=float("inf"))
        if self.worst is None or float(gaps.max()) > self.gap:
            index = int(gaps.argmax())
            self.worst = images[index : index + 1]
        self.gap = max(self.gap, float(gaps.max()))
        self.largest = max(self.largest, float(expected.abs().nan_to_num(posinf=0.0).max()))
        changed = found.argmax(1) != expected.argmax(1)
        self.changed += int(changed.sum())
        self.pixels += changed.numel()
        self.images += len(images)


def _try_odd_sizes(
    tally: _Tally, segmenter: Segmenter, exported: Callable[[Tensor], Tensor], eager: Callable[[Tensor], Tensor]
) -> None:
    if segmenter.fixed_size is not None or tally.worst is None:
        return
    image = tally.worst
    for factor, down, right in _ODD_SIZES:
        size = (factor * image.shape[-2] + down, factor * image.shape[-1] + right)
        other = F.interpolate(image.float(), size=size, mode="bilinear").round().to(torch.uint8)
        tally.add(other, exported(other), eager(other).float().cpu())


def _check_size(segmenter: Segmenter, images: Tensor) -> None:
    fixed = segmenter.fixed_size
    if fixed is not None and fixed != tuple(images.shape[-2:]):
        raise UsageError(
            f"{segmenter.path} is for images of {fixed[0]}x{fixed[1]} (HxW), but got "
            f"{images.shape[-2]}x{images.shape[-1]}: load the images at the file's size"
        )


def _failures(result: Verification, rel: float, pixels: float, miou: float) -> tuple[str, ...]:
    drift = abs(result.miou_onnx - result.miou_eager)
    checks = (
        (result.max_rel_diff, rel, f"logits differ by {result.max_rel_diff:.2g} of the largest, limit {rel:g}"),
        (
            result.changed_share,
            pixels,
            f"{result.changed_share:.2%} of pixels change class, limit {pixels:.2%}",
        ),
        (drift, miou, f"mIoU {result.miou_onnx:.4f} against {result.miou_eager:.4f}, limit {miou:g}"),
    )
    return tuple(sentence for value, limit, sentence in checks if not value <= limit)

"""What a quantised graph answers, and how far that is from the float one's answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from ...errors import CatchweightError
from ...targets import Target
from ...targets.runtimes.onnxruntime_target import open_session
from ...targets.tracing.graph import fixed_input

Logits = Callable[[np.ndarray], np.ndarray]
"""Normalised images (B, 3, H, W) float32 to logits (B, K, h, w)."""

PIXELS = 1 << 16
"""Pixels of one image that are compared at most."""
UNBOUNDED = 1e9


@dataclass(frozen=True)
class Distance:
    """How far logits are from those they stand for, over all images.

    Attributes:
        error: root mean square difference over the standard deviation of the expected logits about each pixel's mean.
        changed: share of pixels whose best class differs.
        largest: largest |difference| over the largest |expected logit|.
    """

    error: float
    changed: float
    largest: float

    def to_json(self) -> dict[str, float]:
        return {"error": self.error, "changed": self.changed, "largest": self.largest}

    def __str__(self) -> str:
        return f"logit error {self.error:.2%}, {self.changed:.2%} of pixels changed"


def runner(model: onnx.ModelProto | Path, threads: int = 1) -> Logits:
    """The graph in ONNX Runtime as it is served: integer kernels, every optimisation.

    Raises:
        CatchweightError: ONNX Runtime cannot load it.
    """
    session = open_session(model if isinstance(model, Path) else model.SerializeToString(), threads)
    return _of(session)


def served(path: Path, target: Target) -> Logits:
    """A file as ``target`` serves it; of OpenVINO the batch is that of the file.

    Raises:
        CatchweightError: the runtime cannot load it.
    """
    if target.name != "openvino:cpu":
        return runner(path, target.threads)
    from ...targets.runtimes.openvino_target import OpenVinoSession

    session = OpenVinoSession(path, target.threads, fixed_input(path)[0] or 1, None)
    return session.logits


def simulation(model: onnx.ModelProto | Path, threads: int = 1) -> Logits:
    """The graph step by step as it is written, no optimisation: quantised values computed with in float32.

    Raises:
        CatchweightError: ONNX Runtime cannot load it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    try:
        return _of(onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"]))
    except Exception as error:  # onnxruntime raises its own untyped family
        raise CatchweightError(f"ONNX Runtime cannot load the graph ({str(error).splitlines()[0]})") from error


class Tally:
    """Sums over batches of logits and of those they stand for; a value that is not finite is off by ``UNBOUNDED``."""

    def __init__(self) -> None:
        self.squares = self.spread = self.gap = self.largest = 0.0
        self.changed = self.pixels = 0

    def add(self, found: np.ndarray, expected: np.ndarray) -> None:
        """One batch of each, (B, K, h, w)."""
        difference = np.nan_to_num(found - expected, nan=UNBOUNDED, posinf=UNBOUNDED, neginf=-UNBOUNDED)
        centred = expected - expected.mean(axis=1, keepdims=True)
        self.squares += float(np.square(difference, dtype=np.float64).sum())
        self.spread += float(np.square(centred, dtype=np.float64).sum())
        differs = found.argmax(axis=1) != expected.argmax(axis=1)
        self.changed, self.pixels = self.changed + int(differs.sum()), self.pixels + differs.size
        self.gap = max(self.gap, float(np.abs(difference).max()))
        self.largest = max(self.largest, float(np.abs(expected).max()))

    @property
    def distance(self) -> Distance:
        error = (self.squares / max(self.spread, 1e-30)) ** 0.5
        return Distance(error, self.changed / max(self.pixels, 1), self.gap / max(self.largest, 1e-30))


def answers(logits: Logits, images: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Logits of every batch (B, K, h, w) float32, thinned out to ``PIXELS`` an image so that they can be kept."""
    return [thinned(logits(image)) for image in images]


def thinned(logits: np.ndarray) -> np.ndarray:
    """Every n-th row and column, n such that at most ``PIXELS`` are left."""
    step = math.ceil(math.sqrt(logits.shape[2] * logits.shape[3] / PIXELS))
    return logits[:, :, ::step, ::step].copy() if step > 1 else logits


def distance(found: Iterable[np.ndarray], expected: Sequence[np.ndarray]) -> Distance:
    """Compare logits batch by batch."""
    tally = Tally()
    for one, other in zip(found, expected, strict=True):
        tally.add(one, other)
    return tally.distance


def _of(session: onnxruntime.InferenceSession) -> Logits:
    entry = session.get_inputs()[0].name

    def logits(images: np.ndarray) -> np.ndarray:
        found: np.ndarray = session.run(None, {entry: images})[0]
        return found

    return logits

"""Small files that a run may hold for its report; a section appears when its file is there.

======================  =============================================================================================
``baselines.json``      ``{NAME: {"candidates": [...]}}``: networks to compare with, in the form of ``front.json``
``blocks.json``         ``Roofline.to_json()``: time of the chosen network's blocks, and what the device allows
``predictions.json``    ``{"points": [{"name", "predicted_ms", "measured_ms"}]}``: networks the predictor had not seen
``chain.json``          ``{"rows": [{"step", "score", "latency_ms", "params", "file_bytes", "seconds", "accepted",
                        "note"}], "chosen", "why"}``: the steps of a compression, in order
``ablation.json``       ``{"rows": [{"stage", "score", "against", "latency_ms", "seconds", "note"}]}``: the result with
                        stages left out
``history.json``        ``{"evaluations": [{"score", "name", "phase", "epochs"}]}``: scores in the order they were found
                        (without it that of the run's Optuna studies)
======================  =============================================================================================

Keys may be left out where the models below have a default; unknown ones are ignored, so that a later version may say
more.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import CatchweightError
from ..files import read_json
from ..front import Candidate, Front


class Input(BaseModel):
    """Base of the forms below."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Block(Input):
    """A block of the chosen network: measured time, and what the device would need at best."""

    name: str
    kind: str = ""
    ms: float = Field(ge=0)
    share: float = Field(ge=0)
    macs: float = Field(0.0, ge=0)
    bytes: float = Field(0.0, ge=0)
    efficiency: float = Field(ge=0)
    """Share of the roofline: attainable time over measured time."""
    bound: str = ""
    """"compute" or "memory"."""


class Peak(Input):
    """What the device can do at best."""

    gflops: float
    gbs: float


class Blocks(Input):
    """``blocks.json``."""

    rows: tuple[Block, ...] = ()
    peak: Peak | None = None


class Prediction(Input):
    """A network whose latency was predicted before it was measured, both in ms."""

    name: str = ""
    predicted_ms: float = Field(gt=0)
    measured_ms: float = Field(gt=0)


class Predictions(Input):
    """``predictions.json``."""

    points: tuple[Prediction, ...] = ()


class ChainStep(Input):
    """A step of a compression: the network after it, how long it took, and whether its result was used.

    A step that was refused leaves the network before it as it was.
    """

    step: str
    score: float | None = None
    latency_ms: float | None = None
    params: float | None = None
    file_bytes: float | None = None
    seconds: float | None = None
    accepted: bool = True
    note: str = ""


class Chain(Input):
    """``chain.json``; ``chosen`` is "direct" or "compressed", ``why`` says it in a sentence."""

    rows: tuple[ChainStep, ...] = ()
    chosen: str = ""
    why: str = ""


class Ablated(Input):
    """The result without a stage, or with the stages up to one; the first row is what the others compare to."""

    stage: str
    score: float | None = None
    against: float | None = None
    """The score that this one compares to; by default that of the first row."""
    latency_ms: float | None = None
    seconds: float | None = None
    note: str = ""


class Ablation(Input):
    """``ablation.json``."""

    rows: tuple[Ablated, ...] = ()


class Evaluation(Input):
    """One score that the search found; ``phase`` groups what compares ("supernet", "race"...)."""

    score: float
    name: str = ""
    phase: str = "search"
    epochs: int | None = None


class History(Input):
    """``history.json``."""

    evaluations: tuple[Evaluation, ...] = ()


class Measured(Input):
    """What the page needs of a ``Measurement``."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    spread: float
    n: int
    threads: int
    runtime: str
    notes: tuple[str, ...] = ()


class Latency(Input):
    """``latency.json``: all measurements of the exported file, and the one that counts."""

    used: Measured
    all: tuple[Measured, ...] = ()


class Verified(Input):
    """``verification.json``: what the page needs of a ``Verification``."""

    passed: bool
    message: str
    images: int
    max_rel_diff: float
    changed_share: float
    miou_eager: float
    miou_onnx: float


class Score(Input):
    """``train/score.json``: what the page needs of a ``SegmentationScore``."""

    miou: float
    pixel_accuracy: float
    boundary_f: float | None = None
    per_class: dict[str, float] = Field(default_factory=dict)
    absent: tuple[str, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()


class Fault(Input):
    """A problem of the data set."""

    level: str
    file: str
    message: str


class Data(Input):
    """``data.json``: what the page needs of a ``DataReport``."""

    root: str = ""
    format: str = ""
    fingerprint: str = ""
    classes: tuple[str, ...] = ()
    counts: dict[str, dict[str, int]] = Field(default_factory=dict)
    sizes: dict[str, int] = Field(default_factory=dict)
    shares: dict[str, dict[str, float]] = Field(default_factory=dict)
    problems: tuple[Fault, ...] = ()


M = TypeVar("M", bound=Input)


def read_input(kind: type[M], path: Path) -> M | None:
    """The file as ``kind``; ``None`` where there is none.

    Raises:
        CatchweightError: not JSON, or of another form; names the file and the first wrong key.
    """
    if not path.exists():
        return None
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the whole"
        raise CatchweightError(f"{path}: {key} is wrong: {first['msg']}") from None


def read_baselines(path: Path) -> dict[str, tuple[Candidate, ...]]:
    """``baselines.json``; empty where there is none.

    Raises:
        CatchweightError: not JSON, or not fronts by name.
    """
    if not path.exists():
        return {}
    values = read_json(path)
    try:
        return {str(name): Front.from_json(front).candidates for name, front in values.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise CatchweightError(f'{path}: expected {{name: {{"candidates": [...]}}}}, as in front.json') from error


__all__ = [
    "Ablated",
    "Ablation",
    "Block",
    "Blocks",
    "Chain",
    "ChainStep",
    "Data",
    "Evaluation",
    "History",
    "Input",
    "Latency",
    "Peak",
    "Prediction",
    "Predictions",
    "Score",
    "Verified",
    "read_baselines",
    "read_input",
]

"""What can be set, and what comes out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from ...config import Config
from ...targets.clock.measure import Comparison, Measurement

TOLERANCE = 0.5
"""Default: points of mIoU that int8 may cost."""


class QuantizeSettings(Config):
    """How int8 is made; docs/compress.md tells what the steps do."""

    later: ClassVar[tuple[str, ...]] = ("tune_epochs", "tune_lr")

    methods: tuple[str, ...] = ("minmax", "percentile")
    """Ways of choosing ranges to try; the one with the smallest logit error is kept. ``entropy`` is known as well, and
    where that extra is installed ``nncf``, which makes the whole graph."""
    images: int = Field(64, ge=1)
    """Training images that ranges and means are calibrated on."""
    probe: int = Field(16, ge=1)
    """Other training images, on which logit errors are compared; the same where calibration takes all there are."""
    equalise: bool = True
    """Try cross-layer equalisation."""
    correct_bias: bool = True
    """Try bias correction."""
    search: bool = True
    """Let layers go back to float when all of them in int8 cost too much."""
    most_float: float = Field(0.5, ge=0, le=1)
    """Share of the layers that may go back to float before int8 is given up."""
    seconds: float = Field(5.0, gt=0)
    """Time limit of each latency measurement, per file."""
    tune_epochs: int = Field(0, ge=0)
    """Epochs of quantisation-aware fine-tuning, should int8 be faster but lose too much; 0: none."""
    tune_lr: float = Field(3e-4, gt=0)
    """Its peak learning rate."""


@dataclass(frozen=True)
class Latency:
    """The float and the int8 file, measured in turns.

    Attributes:
        float_ms, int8_ms: medians of one batch.
        speedup: float over int8, with its 95 % interval ``low`` to ``high``.
        faster: whether int8 is faster beyond doubt: the whole interval is above 1.
        notes: what disturbed the measurement.
    """

    float_ms: float
    int8_ms: float
    speedup: float
    low: float
    high: float
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, measured: tuple[Measurement, Measurement], compared: Comparison) -> Latency:
        """``compared`` says how much slower int8, the second of ``measured``, is."""
        plain, quantised = measured
        high = 1 / compared.low if compared.low > 0 else 1e9  # an unknown interval is infinite, which JSON has not
        notes = dict.fromkeys((*plain.notes, *quantised.notes))
        return cls(plain.median_ms, quantised.median_ms, 1 / compared.ratio, 1 / compared.high, high, tuple(notes))

    @property
    def faster(self) -> bool:
        return self.low > 1

    @property
    def undecided(self) -> bool:
        """Whether neither is faster beyond doubt; a longer measurement on a quieter machine may tell."""
        return self.low <= 1 <= self.high

    @property
    def verdict(self) -> str:
        """Which is faster, with the figures."""
        if self.faster:
            return f"int8 is faster here ({self})"
        if self.undecided:
            return f"int8 and float cannot be told apart here ({self}); the same command measures again"
        return f"int8 is not faster here ({self})"

    def __str__(self) -> str:
        return (
            f"{self.float_ms:.2f} ms float, {self.int8_ms:.2f} ms int8: {self.speedup:.2f}x "
            f"(95 % interval {self.low:.2f} to {min(self.high, 99):.2f})"
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "notes": list(self.notes)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Latency:
        return cls(**{**value, "notes": tuple(value["notes"])})


@dataclass(frozen=True)
class Recipe:
    """How an int8 graph is made from the float one.

    Attributes:
        graph: ``plain``, ``equalised``, or ``equalised without limits`` (ReLU6 made ReLU first).
        method: how ranges were chosen, a name in ``METHODS``, or ``nncf``.
        bias: whether biases are corrected.
    """

    graph: str
    method: str
    bias: bool = False

    def __str__(self) -> str:
        return ", ".join([f"{self.method} ranges", self.graph, *(["bias corrected"] if self.bias else [])])


@dataclass(frozen=True)
class QuantizeResult:
    """The verdict on int8 for one network on one target.

    Attributes:
        accepted: whether the int8 file is faster here and within the tolerance.
        file: the file to use: the int8 one when accepted, else the float one.
        float_file: the float file.
        reason: the verdict in a sentence or two, with the figures.
        latency: both files on the target, or None when it did not come to that.
        float_score, int8_score: validation mIoU, 0..1; None where not scored.
        tolerance: points of mIoU that were allowed.
        kept_float: layers computed in float in the int8 file.
        recipe: how it was made.
        check: the file against its own simulation, as JSON; None when it did not come to that.
        folder: what was tried, and the figures of each attempt (``attempts.json``).
        tuned: the network behind the file where that took quantisation-aware fine-tuning, a checkpoint.
        too_coarse: refused, though int8 is faster, because too much of the score is lost before too little time is won.
    """

    accepted: bool
    file: Path
    float_file: Path
    reason: str
    latency: Latency | None
    float_score: float
    int8_score: float | None
    tolerance: float
    kept_float: tuple[str, ...]
    recipe: Recipe | None
    check: dict[str, Any] | None
    folder: Path
    tuned: Path | None = None
    too_coarse: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "accepted": self.accepted,
            "file": self._inside(self.file),
            "reason": self.reason,
            "latency": self.latency.to_json() if self.latency else None,
            "float_miou": self.float_score,
            "int8_miou": self.int8_score,
            "tolerance_points": self.tolerance,
            "kept_float": list(self.kept_float),
            "recipe": asdict(self.recipe) if self.recipe else None,
            "check": self.check,
            **({"tuned": self._inside(self.tuned)} if self.tuned else {}),
        }

    def _inside(self, path: Path) -> str:
        """Relative to the folder where it lies in it, else its name."""
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else path.name

"""Does the int8 file compute what it says? Against its own simulation, and against the float file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...targets import Target
from .simulate import Logits, Tally, served, simulation

INDEPENDENT = 2**0.5
"""How far a file may be from its simulation, as a multiple of the simulation's distance from the float file.

The integer kernels round where the simulation does, but ties and fused sums may fall the other way, and a step of one
tensor spreads. Two ways of rounding that had nothing in common would differ by sqrt(2) times the error of each; what
differs by more does not round, it computes something else. Seen on our trained networks: 0.15 to 0.6.
"""
SLACK = 1e-3
"""Error and share of pixels that are allowed in any case: for files with next to nothing in int8."""


@dataclass(frozen=True)
class FileCheck:
    """An int8 file on real images.

    Attributes:
        error: root mean square difference to the simulation, as a share of the logits' spread.
        quantisation: the same between the simulation and the float file.
        largest: largest |difference| to the simulation over the largest |logit|.
        changed: share of pixels whose class differs from the simulation's.
        agreement: share of pixels whose class is that of the float file.
        images: how many batches were compared.
        failures: one sentence for each limit broken; empty when the file is good.
    """

    error: float
    quantisation: float
    largest: float
    changed: float
    agreement: float
    images: int
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def message(self) -> str:
        if not self.passed:
            return f"the int8 file does not compute what it says on this machine ({'; '.join(self.failures)})"
        return (
            f"the int8 file computes what it says: {self.changed:.2%} of pixels differ from its simulation "
            f"(logits by {self.error:.2%}), {self.agreement:.2%} agree with the float file, on {self.images} images"
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "failures": list(self.failures), "passed": self.passed, "message": self.message}


def check_file(path: Path, float_file: Path, images: Iterable[np.ndarray], target: Target) -> FileCheck:
    """Run the int8 file as it is served, its simulation and the float file on the same images.

    Args:
        path: the int8 file, QDQ format.
        float_file: what it was made from.
        images: normalised batches (B, 3, H, W) float32.
        target: what serves both.

    Raises:
        CatchweightError: a file cannot be loaded.
    """
    return compare(served(path, target), simulation(path, target.threads), served(float_file, target), images)


def compare(served: Logits, simulated: Logits, plain: Logits, images: Iterable[np.ndarray]) -> FileCheck:
    """:func:`check_file` for anything that answers images with logits."""
    to_simulation, to_float, rounding, count = Tally(), Tally(), Tally(), 0
    for image in images:
        found, expected, exact = served(image), simulated(image), plain(image)
        to_simulation.add(found, expected)
        to_float.add(found, exact)
        rounding.add(expected, exact)
        count += 1
    own, allowed = to_simulation.distance, rounding.distance
    failures = _failures(own.error, allowed.error, "logits differ from the simulation by {:.2%} of their spread")
    failures += _failures(own.changed, allowed.changed, "{:.2%} of pixels differ from the simulation")
    agreement = 1 - to_float.distance.changed
    return FileCheck(own.error, allowed.error, own.largest, own.changed, agreement, count, failures)


def _failures(value: float, rounding: float, says: str) -> tuple[str, ...]:
    limit = INDEPENDENT * rounding + SLACK
    return () if value <= limit else (f"{says.format(value)}, limit {limit:.2%}",)

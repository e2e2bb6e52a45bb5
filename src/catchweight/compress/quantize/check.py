"""Does the int8 file compute what it says? Against its own simulation, and against the float file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .simulate import Logits, Tally, runner, simulation

CHANGED = 0.02
"""Share of pixels that may change class between the file as it is served and its simulation."""
ERROR = 0.05
"""Root mean square difference allowed between the two, as a share of the logits' spread.

Integer kernels round each result once where the simulation computes in float32, so single values come out one step
apart; what that adds up to was measured on all our networks (docs/int8.md), and the limits are several times the worst
of it. Overflowing kernels and wrong scales exceed them by far (``tests/compress/test_quantize_check.py``).
"""


@dataclass(frozen=True)
class FileCheck:
    """An int8 file on real images.

    Attributes:
        error: root mean square difference to the simulation, as a share of the logits' spread.
        largest: largest |difference| to the simulation over the largest |logit|.
        changed: share of pixels whose class differs from the simulation's.
        agreement: share of pixels whose class is that of the float file.
        images: how many batches were compared.
        failures: one sentence for each limit broken; empty when the file is good.
    """

    error: float
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


def check_file(path: Path, float_file: Path, images: Iterable[np.ndarray], threads: int = 1) -> FileCheck:
    """Run the int8 file as it is served, its simulation and the float file on the same images.

    Args:
        path: the int8 file, QDQ format.
        float_file: what it was made from.
        images: normalised batches (B, 3, H, W) float32.

    Raises:
        CatchweightError: a file cannot be loaded.
    """
    return compare(runner(path, threads), simulation(path, threads), runner(float_file, threads), images)


def compare(served: Logits, simulated: Logits, plain: Logits, images: Iterable[np.ndarray]) -> FileCheck:
    """:func:`check_file` for anything that answers images with logits."""
    to_simulation, to_float, count = Tally(), Tally(), 0
    for image in images:
        found = served(image)
        to_simulation.add(found, simulated(image))
        to_float.add(found, plain(image))
        count += 1
    own, other = to_simulation.distance, to_float.distance
    checks = (
        (own.error, ERROR, f"logits differ from the simulation by {own.error:.2%} of their spread, limit {ERROR:.0%}"),
        (own.changed, CHANGED, f"{own.changed:.2%} of pixels differ from the simulation, limit {CHANGED:.0%}"),
    )
    failures = tuple(sentence for value, limit, sentence in checks if not value <= limit)
    return FileCheck(own.error, own.largest, own.changed, 1 - other.changed, count, failures)

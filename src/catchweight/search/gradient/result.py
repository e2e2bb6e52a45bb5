"""What a co-search found, and the record of each of its epochs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ...budget import Cost
from ...data.classes import ClassSet
from ...data.loading import EvalLoader
from ...errors import CatchweightError
from ...files import read_json
from ...front import Arch, Candidate, Front
from ...nets.fasterseg import FasterSegConfig, config_name
from ...quiet import give_way
from ...spaces.fasterseg import (
    PAIRS,
    ArchitectureLogits,
    Ends,
    FasterSegLatency,
    FasterSegSpace,
    Values,
    derive,
    plain,
)
from ...tasks.metrics import SegmentationScore, confusion_matrix
from ...train.evaluate import best_class


@dataclass(frozen=True)
class CoSearchResult:
    """A searched pair of networks; both are built by ``build_network(name, classes, width=width)``.

    Attributes:
        student, teacher: names of the networks.
        width: multiplier of all channel counts.
        student_ms: the student's latency by the table.
        latency_weight: lambda at the end.
        seconds: of search, over all calls.
        history: the record of every epoch, also in ``epochs/`` of the search's folder.
    """

    student: str
    teacher: str
    width: float
    student_ms: float
    latency_weight: float
    seconds: float
    history: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def load(cls, path: Path) -> CoSearchResult:
        """Raises CatchweightError when the file is not a co-search's result."""
        value = read_json(path)
        try:
            return cls(**{**value, "history": tuple(value["history"])})
        except (TypeError, KeyError) as error:
            raise CatchweightError(f"{path} is not the result of a co-search ({error}): delete it") from error

    def front(self, size: tuple[int, int]) -> Front:
        """Every student that was read off: latency by the table, and the supernet's score where it was validated.

        Of one that was read off several times the last; the chosen one comes first.

        Args:
            size: input (H, W) in pixels that they are for.
        """
        rows = [row for record in self.history for row in record["student"]["candidates"].values()]
        last = {row["name"]: row for row in rows}
        ordered = sorted(last.values(), key=lambda row: (row["name"] != self.student, -(row["miou"] or 0.0)))
        return Front(
            tuple(
                Candidate(
                    Arch(network=row["name"], width=self.width, size=list(size)),
                    Cost(latency_ms=row["ms"]),
                    row["miou"],
                )
                for row in ordered
            )
        )


def derived(space: FasterSegSpace, logits: ArchitectureLogits, role: str, ends: Ends) -> FasterSegConfig:
    """The network that a set of architecture parameters stands for by now; the teacher keeps all its cells."""
    width = space.supernet.roles[role]
    values = logits.probabilities()
    return derive(values, space.lattice, ends, stem=width, head=width, skips=role != "teacher")


def network_name(config: FasterSegConfig, role: str) -> str:
    """The name that builds it."""
    return config_name(config, base=f"fasterseg_{role}")


def pair_scores(
    space: FasterSegSpace, values: Values, role: str, loader: EvalLoader, classes: ClassSet
) -> dict[Ends, float]:
    """Validation mIoU (0..1) of the supernet's two pair predictions at these values, from one pass."""
    device, count = space.mean.device, len(classes)
    totals = {ends: torch.zeros(count, count, dtype=torch.int64) for ends in PAIRS}
    space.eval()
    with torch.inference_mode():
        for batch in loader:
            give_way()
            found = space.predictions(space.normalise(batch.images.to(device)), values, role)
            for ends, total in totals.items():
                for logits, mask in zip(found[ends], batch.masks, strict=True):
                    total += confusion_matrix(best_class(logits, mask.shape[-2:]).cpu(), mask, count)
    return {ends: SegmentationScore.of(total.numpy(), classes.names, None, []).miou for ends, total in totals.items()}


def trade(miou: float, ms: float, reference_ms: float, exponent: float) -> float:
    """mIoU x (latency / reference) ^ exponent: what the kept pair has more of."""
    return float(miou * (ms / reference_ms) ** exponent)


def epoch_record(
    space: FasterSegSpace,
    logits: Mapping[str, ArchitectureLogits],
    latency: FasterSegLatency,
    scores: Mapping[str, Mapping[Ends, float]],
) -> dict[str, Any]:
    """Both candidates of both roles with latency and, if validated, score; and all probabilities."""
    found: dict[str, Any] = {}
    for role, parameters in logits.items():
        candidates = {}
        for ends in PAIRS:
            config = derived(space, parameters, role, ends)
            candidates["+".join(map(str, ends))] = {
                "name": network_name(config, role),
                "ms": latency.network(config),
                "miou": scores.get(role, {}).get(ends),
            }
        found[role] = {"candidates": candidates, "probabilities": plain(parameters.probabilities())}
    return found


def chosen(record: Mapping[str, Any], reference_ms: float, exponent: float) -> dict[str, Any]:
    """Of a role's validated candidates the one with the larger trade of score and latency."""
    found: dict[str, Any] = max(
        record["candidates"].values(), key=lambda c: trade(c["miou"], c["ms"], reference_ms, exponent)
    )
    return found


__all__ = ["CoSearchResult", "chosen", "derived", "epoch_record", "network_name", "pair_scores", "trade"]

"""The steps of a compression: from one measured file to a faster one, or to the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ..budget import Budget, Cost, Limit
from ..compress import prune
from ..compress.quantize import QuantizeResult, quantize
from ..errors import CatchweightError, StorageError
from ..files import copy_file, read_json, write_json
from ..front import Arch, Candidate
from ..nets import load_network
from ..spaces.whole import size_of
from ..targets import count_macs, count_params
from ..train.distill import Distiller, DistillTerms
from ..train.step import Objective
from .job import COMPRESSED, Job, Point
from .race import exported, measured

PRUNE, INT8 = "prune", "int8"


@dataclass(frozen=True)
class Made:
    """A network as a step left it; JSON-able, so that it is a stage's result.

    Attributes:
        step: what was done last.
        folder: below the point's; holds ``model.onnx``, ``verification.json`` and ``latency.json``. Of a refused step
            that of its input.
        model: the trained network behind the file, below the point's folder as well.
        candidate: architecture, cost (latency measured on the target) and score.
        accepted: whether the step's result is used; otherwise everything above is that of its input.
        reason: the verdict in a sentence.
        faster: how many times as fast as its input the step made it, measured in turns; 1 where it was refused.
        again: whether a measurement was what it was refused for, so that measuring again may tell otherwise.
    """

    step: str
    folder: str
    model: str
    candidate: Candidate
    accepted: bool = True
    reason: str = ""
    faster: float = 1.0
    again: bool = False

    @property
    def latency_ms(self) -> float:
        return self.candidate.cost.latency_ms or 0.0

    @property
    def score(self) -> float:
        return self.candidate.score or 0.0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "candidate": self.candidate.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Made:
        return cls(**{**values, "candidate": Candidate.from_json(values["candidate"])})

    def refused(self, step: str, reason: str, again: bool = False) -> Made:
        """This network stays: ``step`` could not make it better."""
        return replace(self, step=step, accepted=False, reason=f"refused: {reason}", faster=1.0, again=again)

    def not_needed(self, step: str, reason: str) -> Made:
        return replace(self, step=step, accepted=False, reason=f"not needed: {reason}", faster=1.0, again=False)


@dataclass(frozen=True)
class Schedule:
    """How long pruning trains; until ``deadline`` at most, in seconds of ``time.monotonic``."""

    steps: int
    epochs: int
    deadline: float | None = None


def quantised(job: Job, point: Point, given: Made, name: str, deadline: float | None = None) -> Made:
    """``given`` in int8, if that is measured faster and within tolerance.

    Args:
        name: of the folder; the same one goes on.
        deadline: of a fine-tuning, in seconds of ``time.monotonic``.
    """
    settings = job.settings.compress
    folder = point.run.path(COMPRESSED, name)
    try:
        result = quantize(
            point.run.path(given.folder, "model.onnx"), job.data, target=job.target, tolerance=settings.tolerance,
            folder=folder, settings=settings.int8, checkpoint=point.run.path(given.model),
            recipe=job.recipe(size_of(given.candidate.arch), 1), deadline=deadline, say=point.say,
        )  # fmt: skip
    except StorageError:
        raise
    except CatchweightError as error:  # a network that int8 cannot be made of is a finding, not a failure
        return given.refused(INT8, str(error))
    if not result.accepted or result.latency is None or result.int8_score is None:
        undecided = result.latency is not None and result.latency.undecided
        return given.refused(INT8, result.reason.removeprefix("refused, "), undecided)
    _keep_as_model(result, point.run.path(given.folder), folder)
    cost = measured(job, point, folder / "model.onnx", given.candidate.cost)
    candidate = replace(after(given.candidate, INT8), cost=cost, score=result.int8_score)
    model = f"{COMPRESSED}/{name}/{result.tuned.relative_to(folder)}" if result.tuned else given.model
    return replace(
        given, step=INT8, folder=f"{COMPRESSED}/{name}", model=model, candidate=candidate, accepted=True,
        reason=result.reason, faster=result.latency.speedup, again=False,
    )  # fmt: skip


def pruned(job: Job, point: Point, given: Made, limit_ms: float, schedule: Schedule) -> Made:
    """``given`` pruned to a latency and fine-tuned, if that is measured faster and within tolerance."""
    settings = job.settings.compress
    folder = point.run.path(COMPRESSED, PRUNE)
    net, _ = load_network(point.run.path(given.model))
    size = size_of(given.candidate.arch)
    halp = settings.prune.model_copy(update={"steps": schedule.steps})
    try:
        result = prune(
            net, job.data, job.target, Budget((Limit("latency", limit_ms),)), job.recipe(size, schedule.epochs), folder,
            settings=halp, variants=settings.variants, objective=imitation(job, point, given), cache=job.cache,
            deadline=schedule.deadline, say=point.say,
        )  # fmt: skip
    except StorageError:
        raise
    except CatchweightError as error:  # out of reach, nothing to prune, a network that cannot be predicted
        return given.refused(PRUNE, str(error))
    lost = 100 * (given.score - result.score)
    if lost > settings.pruning_tolerance:
        return given.refused(
            PRUNE, f"{lost:.2f} points of val mIoU lost, {settings.pruning_tolerance:g} allowed; {result.message}"
        )
    if result.latency_ms >= result.latency_before_ms:
        return given.refused(PRUNE, f"it is not measured faster; {result.message}", again=True)
    check = exported(job, folder, size)
    if not check["passed"]:
        return given.refused(PRUNE, check["message"])
    smaller, _ = load_network(result.file)
    counted = Cost(macs=float(count_macs(smaller, size)), params=float(delivered_params(smaller)))
    cost = measured(job, point, folder / "model.onnx", counted)
    candidate = replace(after(given.candidate, PRUNE), cost=cost, score=result.score)
    return replace(
        given, step=PRUNE, folder=f"{COMPRESSED}/{PRUNE}", model=f"{COMPRESSED}/{PRUNE}/model.pt", candidate=candidate,
        accepted=True, reason=f"accepted: {result.message}", faster=result.latency_before_ms / result.latency_ms,
        again=False,
    )  # fmt: skip


def delivered_params(net: nn.Module) -> int:
    """Parameters of what is exported: auxiliary heads, which a checkpoint keeps for training on, are not."""
    return count_params(net) - sum(
        count_params(child) for name, child in net.named_children() if name.startswith("aux")
    )


def imitation(job: Job, point: Point, given: Made) -> Objective | None:
    """Distillation from the network as it was before pruning, if that is wanted."""
    weight = job.settings.compress.distill
    if not weight:
        return None
    net, _ = load_network(point.run.path(given.model))
    return Distiller(net, DistillTerms(kl=weight), size_of(given.candidate.arch))


def after(candidate: Candidate, step: str) -> Candidate:
    """The candidate whose network went through ``step`` as well."""
    known = dict(candidate.arch)
    return replace(candidate, arch=Arch(**{**known, "compressed": [*known.get("compressed", []), step]}), note="")


def _keep_as_model(result: QuantizeResult, given: Path, folder: Path) -> None:
    """The int8 file under the name that files have, and what is known of its truth: both its own and the float's."""
    copy_file(result.file, folder / "model.onnx")
    copy_file(result.file.with_suffix(".json"), folder / "model.json")
    home = result.tuned.parent if result.tuned else given
    before, check = read_json(home / "verification.json"), result.check or {}
    write_json(folder / "verification.json", {
        **before,
        "passed": bool(before["passed"] and check["passed"]),
        "message": f"{check['message']}; before that, {before['message']}",
        "max_rel_diff": check["largest"],
        "changed_share": check["changed"],
        "images": check["images"],
        "miou_onnx": result.int8_score,
        "against": "its own simulation",
    })  # fmt: skip


__all__ = ["INT8", "PRUNE", "Made", "Schedule", "after", "imitation", "pruned", "quantised"]

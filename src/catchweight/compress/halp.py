"""Pruning a segmentation network to a measured latency (HALP, Shen et al., NeurIPS 2022), resumable in a run folder.

measure -> profile prunings -> [train a little, prune a little] * steps -> land on the latency -> fine-tune -> measure
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ..budget import Budget
from ..config import Config
from ..data import SegmentationData
from ..data.cache import PixelCache
from ..data.loading import EvalLoader, TrainLoader
from ..errors import UsageError
from ..files import write_json
from ..nets import SegmentationNet, load_network, pruned_spec, save_network
from ..run import Run
from ..targets import Target
from ..tasks.segmentation import SegmentationTask, class_pixels
from ..train import Recipe, eager_predict, evaluate, finetune, train
from ..train.batches import endless
from ..train.epoch import step_seed
from ..train.step import Objective, Step
from .descent import descend
from .digest import weights_digest
from .landing import Landing, alone, verdict
from .quantize.settings import QuantizeSettings
from .schedule import HalpSettings, Say
from .tables import VARIANTS

TUNING_KEPT = 0.75
"""Of its share of the time until a deadline, what fine-tuning keeps if the steps before it are late."""


class CompressSettings(Config):
    """Everything that ``catchweight compress --set`` reaches; ``train.*`` is that of the fine-tuning after pruning."""

    prune: HalpSettings = HalpSettings()
    train: Recipe = finetune()
    int8: QuantizeSettings = QuantizeSettings()
    distill: float = Field(1.0, ge=0)
    """Weight of the distillation from the network as it was, in the fine-tuning after pruning; 0 leaves it out."""


@dataclass(frozen=True)
class PruneResult:
    """What a pruning ended with.

    Attributes:
        file: the pruned and fine-tuned network, for ``load_network``.
        limit_ms: what was asked for.
        latency_ms, latency_before_ms: measured in turns with each other on the target.
        score, score_before: validation mIoU, 0..1.
        kept: share of the importance that was kept, as the product over all steps.
        widths: group -> (units before, units left).
        met: whether the measured latency is within the limit.
        message: the verdict in a sentence or two.
    """

    file: Path
    limit_ms: float
    latency_ms: float
    latency_before_ms: float
    score: float
    score_before: float
    kept: float
    widths: dict[str, tuple[int, int]]
    met: bool
    message: str

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "file": self.file.name}


def prune(
    net: SegmentationNet,
    data: SegmentationData,
    target: Target,
    budget: Budget | str,
    recipe: Recipe,
    folder: Path,
    *,
    settings: HalpSettings | None = None,
    variants: int = VARIANTS,
    table: Path | None = None,
    objective: Objective | None = None,
    cache: PixelCache | None = None,
    deadline: float | None = None,
    whole_ms: float | None = None,
    say: Say = print,
    quiet: bool = False,
) -> PruneResult:
    """Prune a trained network until it runs within a latency on ``target``, and fine-tune it.

    Killed at any moment and called again with the same arguments it goes on: every pruning step, every profiled
    network and every epoch is kept in ``folder``.

    Args:
        net: trained; left as it is.
        data: has the splits "train" and "val".
        target: where latency counts, at the recipe's size.
        budget: an upper limit on latency and nothing else, e.g. ``"latency<=10ms"``.
        recipe: of the fine-tuning; the schedule's own iterations use its loss, optimiser and batches.
        folder: takes ``model.pt``, ``result.json``, the checkpoints and the latency table.
        settings: the schedule and how channels are chosen.
        variants, table: see :func:`.pruning_predictor`.
        objective: of the fine-tuning, e.g. distillation from the network as it was.
        deadline: in seconds of ``time.monotonic``; the epoch of fine-tuning during which it passes is the last one, and
            profiling and the steps leave that its share of the time.
        whole_ms: what ``net`` takes, where that is known: prunings that are compared with each other should be told
            the same, so that they are pruned by the same factor. By default it is measured.
        say: told every step in a line, with the time that is left.
        quiet: no progress bar of the fine-tuning.

    Returns:
        The result, also where the limit was missed: ``met`` and ``message`` say so. Calling again then measures again.

    Raises:
        UsageError: the budget limits something else, or the network is quick enough already.
        CatchweightError: the latency is out of reach of pruning (says what is possible), no channel can be pruned, or
            the folder belongs to other arguments.
    """
    settings = settings or HalpSettings()
    limit = latency_limit(budget)
    request = {
        "prune": net.spec.to_json(), "weights": weights_digest(net)[:16], "data": data.fingerprint(), "limit_ms": limit,
        "target": str(target), "threads": target.threads, "batch": target.batch,
        "recipe": recipe.model_dump(mode="json"), "settings": settings.model_dump(mode="json"), "variants": variants,
        "objective": objective.describe() if objective is not None else {},
        **({} if whole_ms is None else {"whole_ms": whole_ms}),
    }  # fmt: skip
    run = Run(folder, request)
    with run.locked():
        job = _Job(net, data, target, limit, recipe, settings, run, cache or PixelCache(), whole_ms, say, quiet)
        landing = job.pruned(variants, table, deadline)
        return job.finished(landing, objective, deadline)


def latency_limit(budget: Budget | str) -> float:
    """The limit in ms of a budget that limits latency alone.

    Raises:
        UsageError: it limits other things, or not latency.
    """
    parsed = Budget.parse(budget) if isinstance(budget, str) else budget
    if [limit.name for limit in parsed.limits] != ["latency"]:
        raise UsageError(f'pruning works towards a latency and nothing else: write "latency<=10ms", not "{parsed}"')
    return parsed.limits[0].value


@dataclass
class _Job:
    """One pruning: what all of its parts share."""

    net: SegmentationNet
    data: SegmentationData
    target: Target
    limit: float
    recipe: Recipe
    settings: HalpSettings
    run: Run
    cache: PixelCache
    whole_ms: float | None
    say: Say
    quiet: bool

    @property
    def size(self) -> tuple[int, int]:
        return self.recipe.size

    def score(self, net: SegmentationNet) -> float:
        """Validation mIoU, 0..1."""
        loader = EvalLoader(self.data, "val", self.size, self.recipe.eval_batch, self.cache)
        return evaluate(eager_predict(net), loader, self.data.classes).miou

    def pruned(self, variants: int, table: Path | None, deadline: float | None) -> Landing:
        """Everything up to the network that is to be fine-tuned, ``pruned.pt``."""
        stored = self.run.result("landing")
        if stored is not None:
            return Landing.from_json(stored)
        start = self.run.stage("start", self._start)
        if start["latency_ms"] <= self.limit:
            raise UsageError(
                f"the network takes {start['latency_ms']:.2f} ms on {self.target} as it is, which is within "
                f"{self.limit:g} ms: ask for less"
            )
        net, landing = descend(
            self.net, lambda net: SegmentationLosses(self.data, self.recipe, net, self.cache), self.size, self.target,
            self.limit, self.recipe, self.settings, self.run.folder, start["latency_ms"], variants=variants,
            table=table, deadline=self._before_tuning(deadline), say=self.say,
        )  # fmt: skip
        net.spec = pruned_spec(net)
        save_network(self.run.path("pruned.pt"), net, {"size": list(self.size), "classes": self.data.classes.to_json()})
        return Landing.from_json(self.run.stage("landing", landing.to_json))

    def _before_tuning(self, deadline: float | None) -> float | None:
        """When profiling and steps must end for fine-tuning to have most of its share, by iterations, of the time."""
        if deadline is None:
            return None
        steps = self.settings.steps * self.settings.interval
        tuning = self.recipe.epochs * max(1, len(self.data.splits["train"]) // self.recipe.batch)
        left = max(0.0, deadline - time.monotonic())
        return deadline - left * TUNING_KEPT * tuning / (steps + tuning)

    def _start(self) -> dict[str, Any]:
        known = self.whole_ms
        latency, notes = alone(self.net, self.target, self.size) if known is None else (known, [])
        score = self.score(self.net)
        self.say(f"start: {latency:.2f} ms on {self.target}, mIoU {score:.4f}")
        return {"latency_ms": latency, "score": score, "notes": notes}

    def finished(self, landing: Landing, objective: Objective | None, deadline: float | None) -> PruneResult:
        """Fine-tune, measure, tell."""
        start: dict[str, Any] = self.run.stage("start", self._start)
        net, _ = load_network(self.run.path("pruned.pt"))
        cut = self.run.stage("cut", lambda: self.score(net))
        self.say(f"fine-tune: {self.recipe.epochs} epochs, from mIoU {cut:.4f}")
        tuned = train(
            net, self.data, self.recipe, self.run.path("finetune"), cache=self.cache, deadline=deadline,
            objective=objective, quiet=self.quiet,
        )  # fmt: skip
        best, meta = load_network(tuned.best)
        measured = verdict(self.net, best, self.target, self.size, self.limit)
        message = measured.message(tuned.score, start["score"]) + landing.hurried(self.settings.steps)
        result = PruneResult(
            file=self.run.path("model.pt"), limit_ms=self.limit, latency_ms=measured.after_ms,
            latency_before_ms=measured.before_ms, score=tuned.score, score_before=start["score"], kept=landing.share,
            widths=landing.widths, met=measured.met, message=message,
        )  # fmt: skip
        save_network(result.file, best, {**meta, "pruned": result.to_json()})
        write_json(self.run.path("result.json"), result.to_json())
        self.say(f"verdict: {result.message}")
        return result


class SegmentationLosses:
    """The loss of each iteration: the recipe's batches and loss, always the same for the same iteration."""

    def __init__(self, data: SegmentationData, recipe: Recipe, net: SegmentationNet, cache: PixelCache | None) -> None:
        pixels = class_pixels(data, "train") if recipe.loss.class_balance else None
        self.step = Step(net, SegmentationTask(data.classes).loss(recipe.loss, pixels), recipe.channels_last)
        self.step.to(next(net.parameters()).device)
        self.seed = recipe.seed
        self.loader = TrainLoader(data, recipe.size, recipe.batch, recipe.augment, recipe.seed, cache, recipe.workers)
        self._batches = endless(self.loader, 0)
        self._next = 0

    def __call__(self, net: nn.Module, iteration: int) -> Tensor:
        """Loss of ``net``, which is the network given at the beginning, on the iteration's batch."""
        if iteration != self._next:
            self._batches.close()
            self._batches = endless(self.loader, iteration)
        self._next = iteration + 1
        batch = next(self._batches)
        torch.manual_seed(step_seed(self.seed, iteration, 0))
        device = next(net.parameters()).device
        return self.step(batch.images.to(device), batch.masks.to(device))

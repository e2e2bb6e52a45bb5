"""DPC: a context module found by random search over cached features of a fixed backbone.

Claim check: the best of N random cells, no dearer than ASPP, against ASPP at equal training; and whether a short
training ranks cells as a longer one does. The deliberately broken arm searches with permuted labels, every image with
another one's, and trains its choice as the others: if that gains too, it was not the search. Ranks by short trainings
with permuted labels must say nothing of the long ones. Local moves against uniform draws alone are told, not judged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import nn

from ..budget import Budget, Cost, Limit
from ..data.loading import EvalLoader
from ..errors import CatchweightError
from ..front import Front
from ..nets import build_network
from ..nets.dpc import CELLS, Cell, CellNetwork, DpcConfig, DpcNet, cell_macs, network_name
from ..search import BlackBox, LocalSearch, Problem, RandomSearch
from ..search.proxy import Features, Proxy, cached_features
from ..spaces.dpc import Cells, cell_of
from .result import Condition, Verdict
from .system import CheckContext, System
from .trials import PairedTrial, paired_trial

GAIN, WINS, RANKS = 1.0, 0.8, 0.4
"""mIoU points over ASPP; share of the seeds with a gain; Spearman correlation of the short training with the long."""

HOLD_OUT = 5
"""The last of so many parts of the training split, in order, is where the search takes its scores."""

NEARBY = 0.05
"""Probability of each choice to change in a local move: some twenty are in use, so that one or two do."""

RANKED_SEED = 77
"""Of the cells that are trained twice."""


@dataclass(frozen=True)
class Protocol:
    """Sizes of the experiment; the margins above do not depend on them."""

    backbone: str = "tf_efficientnet_lite0"
    size: tuple[int, int] = (240, 320)
    config: DpcConfig = DpcConfig(filters=64, rate=0.5)
    """Rates are halved: at this size a map has 15 x 20 cells, of which the published rates would mostly see padding."""
    label_stride: int = 4
    """Loss and score are taken at a quarter of the size."""
    steps: int = 300
    evaluations: int = 60
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    broken: int = 12
    """Evaluations of the arm with permuted labels: among scores that say nothing, few are as good as many."""
    ranked: int = 25
    short: int = 100
    long: int = 600
    local_seeds: tuple[int, ...] = tuple(range(10))
    local: int = 20
    """Evaluations of each arm of the comparison that is only reported, of ``short`` steps."""


FULL = Protocol()
QUICK = Protocol(
    backbone="resnet18",
    size=(96, 128),
    config=DpcConfig(filters=8, rate=0.5),
    steps=2,
    evaluations=3,
    seeds=(0,),
    broken=2,
    ranked=3,
    short=1,
    long=2,
    local_seeds=(0,),
    local=3,
)


@dataclass(frozen=True)
class Task:
    """Everything that trainings share."""

    context: CheckContext
    protocol: Protocol
    train: Features
    val: Features
    weights: str

    @property
    def proxy(self) -> Proxy:
        """What a search sees: the training split, its last part held out for the score."""
        cut = len(self.train) - len(self.train) // HOLD_OUT
        return self._proxy(self.train.part(range(cut)), self.train.part(range(cut, len(self.train))))

    @property
    def broken(self) -> Proxy:
        """The same with permuted labels."""
        return self._proxy(self.proxy.train.permuted(), self.proxy.val.permuted())

    @property
    def final(self) -> Proxy:
        """What is reported: all of the training split, scored on the validation split."""
        return self._proxy(self.train, self.val)

    @property
    def channels(self) -> int:
        return int(self.train.maps.shape[1])

    def macs(self, cell: Cell) -> int:
        height, width = self.train.maps.shape[-2:]
        return cell_macs(cell, self.channels, self.protocol.config.filters, (height, width), self.protocol.config.pool)

    def module(self, cell: Cell) -> nn.Module:
        """Cell and classifier, weights drawn."""
        config = self.protocol.config
        classes = len(self.context.need_data().classes)
        settings = DpcConfig(cell, config.stride, config.filters, config.rate, config.pool)
        return nn.Sequential(
            CellNetwork(self.channels, config.filters, settings), nn.Conv2d(config.filters, classes, 1)
        )

    def score(self, proxy: Proxy, cell: Cell, steps: int, seed: int) -> float:
        """mIoU in points."""
        return 100 * proxy.score(partial(self.module, cell), steps, seed)

    def _proxy(self, train: Features, val: Features) -> Proxy:
        return Proxy(train, val, len(self.context.need_data().classes))


def check(context: CheckContext) -> Verdict:
    """See the module."""
    protocol = QUICK if context.quick else FULL
    task = _task(context, protocol)
    found = {seed: _searched(task, "search", task.proxy, seed, protocol.evaluations) for seed in protocol.seeds}
    random = {seed: _searched(task, "broken", task.broken, seed, protocol.broken) for seed in protocol.seeds}
    trial, control = (paired_trial(_final(task, cells), _aspp(task), protocol.seeds) for cells in (found, random))
    ranks = _ranks(task)
    local = _local(task)
    dearest = max(task.macs(cell) for cell in found.values()) / task.macs(CELLS["aspp"])
    figures = {
        "cells": {seed: str(cell) for seed, cell in found.items()},
        "miou": {"found": trial.to_json(), "permuted_labels": control.to_json()},
        "ranks": ranks,
        "local_and_uniform": local,
        "weights": task.weights,
        **_said(protocol),
    }
    return _verdict(protocol, trial, control, dearest, ranks, figures)


def _verdict(
    protocol: Protocol,
    trial: PairedTrial,
    control: PairedTrial,
    dearest: float,
    ranks: dict[str, Any],
    figures: dict[str, Any],
) -> Verdict:
    claim = (
        Condition("mean mIoU gain of the best cell found over ASPP (points)", trial.mean, GAIN),
        Condition("seeds in which the cell found is not worse", trial.wins, WINS * len(protocol.seeds)),
        Condition("MACs of the cell found over ASPP's, most of all seeds", dearest, 1.0, "<="),
        Condition(f"Spearman correlation, {protocol.short} with {protocol.long} steps", ranks["spearman"], RANKS),
    )
    misled = ranks["permuted_labels"]["spearman"]
    broken = (
        Condition("searched with permuted labels: mean mIoU gain over ASPP (points)", control.mean, GAIN),
        Condition(f"Spearman correlation, {protocol.short} steps with permuted labels", misled, RANKS),
    )
    return Verdict(claim, broken, figures, protocol.seeds)


def _said(protocol: Protocol) -> dict[str, Any]:
    name = network_name(protocol.backbone, protocol.config)
    return {"network": name, "size": list(protocol.size), "steps": protocol.steps, "evaluations": protocol.evaluations}


def _task(context: CheckContext, protocol: Protocol) -> Task:
    net, weights = _network(context, protocol)
    key = {
        "data": context.need_data().fingerprint(),
        "network": network_name(protocol.backbone, DpcConfig(stride=protocol.config.stride)),
        "weights": weights,
        "size": list(protocol.size),
        "label_stride": protocol.label_stride,
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train, val = (_features(context, protocol, net, split, key).to(device) for split in ("train", "val"))
    return Task(context, protocol, train, val, weights)


def _network(context: CheckContext, protocol: Protocol) -> tuple[DpcNet, str]:
    """The frozen backbone, with ImageNet weights except in quick runs.

    Raises:
        CatchweightError: the weights are not installed.
    """
    weights = "none" if context.quick else "offline"
    name = network_name(protocol.backbone, DpcConfig(stride=protocol.config.stride))
    torch.manual_seed(0)  # of a quick run's random weights: one backbone for both splits, whenever each is encoded
    net = build_network(name, len(context.need_data().classes), weights=weights)
    assert isinstance(net, DpcNet)
    return net.eval(), weights


def _features(context: CheckContext, protocol: Protocol, net: DpcNet, split: str, key: dict[str, Any]) -> Features:
    size = protocol.size
    labels = (size[0] // protocol.label_stride, size[1] // protocol.label_stride)
    found = cached_features(
        context.folder / f"features-{split}.safetensors",
        lambda images: net.backbone(net.normalise(images))[-1],
        EvalLoader(context.need_data(), split, size, 8, context.cache),
        labels,
        key,
    )
    if split == "train" and len(found) < HOLD_OUT:
        raise CatchweightError(f"the train split has {len(found)} images: a search needs {HOLD_OUT} or more")
    return found


def _front(
    task: Task, name: str, proxy: Proxy, strategy: BlackBox, draws: int, evaluations: int, steps: int, seed: int
) -> Front:
    """A search in a journal of its own, so that a killed check goes on within it.

    Args:
        draws: seed of the cells that come up.
        seed: of every training.
    """
    problem = Problem(
        Cells(),
        evaluate=lambda arch: task.score(proxy, cell_of(arch), steps, seed) / 100,
        cost=lambda arch: Cost(macs=task.macs(cell_of(arch))),
        budgets=(Budget((Limit("macs", task.macs(CELLS["aspp"])),)),),
        storage=task.context.folder / f"{name}.journal",
        seed=draws,
    )
    return strategy.search(problem, evaluations)


def _searched(task: Task, name: str, proxy: Proxy, seed: int, evaluations: int) -> Cell:
    """The best cell of a random search."""
    stage = f"{name}-seed{seed}"

    def work() -> str:
        front = _front(task, stage, proxy, RandomSearch(), seed, evaluations, task.protocol.steps, seed)
        best = front.best()
        if best is None:
            raise CatchweightError(f"no cell of the {name} could be trained: are all labels void?")
        return str(cell_of(best.arch))

    return Cell.parse(task.context.stage(stage, work))


def _final(task: Task, cells: dict[int, Cell]) -> Callable[[int], float]:
    return lambda seed: _trained(task, cells[seed], seed)


def _aspp(task: Task) -> Callable[[int], float]:
    return lambda seed: _trained(task, CELLS["aspp"], seed)


def _trained(task: Task, cell: Cell, seed: int) -> float:
    """Validation mIoU in points; not the seed with which the cell was found."""
    name = f"final-{str(cell).replace('.', '_')}-seed{seed}"
    steps = task.protocol.steps
    return float(task.context.stage(name, lambda: task.score(task.final, cell, steps, 1000 + seed)))


def _ranks(task: Task) -> dict[str, Any]:
    """Scores of random cells after a short and a long training, and after a short one with permuted labels."""
    protocol = task.protocol

    def scores(name: str, proxy: Proxy, steps: int, seed: int) -> list[float]:
        front = _front(task, name, proxy, RandomSearch(), RANKED_SEED, protocol.ranked, steps, seed)
        return [100 * (candidate.score or 0.0) for candidate in front.candidates]

    def work() -> dict[str, Any]:
        short = scores("short", task.proxy, protocol.short, 500)
        long = scores("long", task.proxy, protocol.long, 501)
        return {"short": short, "long": long, "spearman": float(spearmanr(short, long).statistic)}

    def broken(known: dict[str, Any]) -> dict[str, Any]:
        short = scores("short-broken", task.broken, protocol.short, 500)
        return {"short": short, "spearman": float(spearmanr(short, known["long"]).statistic)}

    found: dict[str, Any] = task.context.stage("ranks", work)
    return found | {"permuted_labels": task.context.stage("ranks-broken", lambda: broken(found))}


def _local(task: Task) -> dict[str, Any]:
    """Area under the best score so far, local moves and uniform draws against uniform draws alone."""
    protocol = task.protocol

    def area(name: str, strategy: BlackBox) -> Callable[[int], float]:
        def work(seed: int) -> float:
            steps = protocol.short
            front = _front(task, f"{name}-seed{seed}", task.proxy, strategy, seed, protocol.local, steps, seed)
            scores = [c.score or 0.0 for c in front.candidates]
            return 100 * fmean(max(scores[: count + 1]) for count in range(len(scores)))

        return lambda seed: float(task.context.stage(f"{name}-seed{seed}", lambda: work(seed)))

    trial = paired_trial(area("local", LocalSearch(rate=NEARBY)), area("uniform", RandomSearch()), protocol.local_seeds)
    return trial.to_json()


SYSTEM = System(
    name="dpc",
    title="DPC",
    paper="Chen et al., Searching for Efficient Multi-Scale Architectures for Dense Image Prediction, NeurIPS",
    year=2018,
    where=("catchweight.nets.dpc", "catchweight.spaces.dpc:DensePredictionCells", "catchweight.search.proxy:Proxy"),
    claim="The best of 60 random cells, no dearer than ASPP, gains 1 mIoU point or more; short trainings rank them.",
    check=check,
    needs_data=True,
    protocols=(FULL, QUICK),
)

"""HALP: which channels to prune is a knapsack, with importance for value and the device's latency for weight.

Claim check in four parts. (1) The knapsack's solutions are the optimum. (2) On synthetic layers with stairs in their
latency it keeps more importance at half the latency than the same share everywhere, filled up to the budget, and than
importance alone; with latencies shuffled between layers it must not. (3) The same on a trained residual network with
its measured block latencies. (4) Pruned to 35 % of its latency in small steps and trained equally long, the network
scores higher than a uniformly pruned one. Parts 3 and 4 use the data set that is given instead of the paper's ImageNet.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np

from ..compress import METHODS, HalpSettings, prune, solve
from ..compress.allocate import Problem
from ..compress.groups import find_groups
from ..compress.halp import SegmentationLosses
from ..compress.importance import TaylorImportance, Values
from ..compress.latency import ChannelCosts, Floats, Widths, predicted_costs
from ..compress.stairs import bundles, options
from ..compress.tables import pruning_predictor
from ..nets import SegmentationNet, build_network
from ..quiet import give_way
from ..targets import Target
from ..train import Recipe, scratch
from .result import Condition, Verdict
from .system import CheckContext, System
from .training import THREADS, trained_network, trained_score
from .trials import LATENCY_TOLERANCE, PairedTrial, paired_trial

INSTANCES = 50
"""Part 1: so many random knapsacks, all of which must be solved to the optimum."""
SHARE_OVER_UNIFORM, SHARE_OVER_IMPORTANCE = 0.05, 0.0
"""Part 2: importance kept beyond that of the baselines, in every seed."""
SYNTHETIC_SEEDS = tuple(range(100, 110))
"""Seeds 0 to 9 were spent on settling how the importances are drawn."""
WINS, LATENCY_RATIO = 0.9, 0.02
"""Part 3: share of the seeds in which more is kept than uniformly; how far the two latencies may be apart."""
GAIN, GAIN_WINS = 0.5, 0.8
"""Part 4: mIoU points over uniform pruning, mean of all seeds; share of the seeds that win."""

STAIR = 16
WIDTHS = (64, 64, 128, 128, 256, 256, 512)
SIDES = (56, 56, 28, 28, 14, 14, 7)
"""Part 2: channels of seven 3x3 convolutions, and the side of each one's map in pixels."""


@dataclass(frozen=True)
class Protocol:
    """Sizes of parts 3 and 4; the margins above do not depend on them."""

    size: tuple[int, int] = (96, 128)
    network: str = "ffnet_34_abb"
    width: float = 0.5
    """32, 64, 128 and 256 channels at strides 4 to 32."""
    seeds: tuple[int, ...] = tuple(range(10))
    accuracy_seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    base: Recipe = scratch().model_copy(update={"epochs": 8, "eval_every": 8, "size": (96, 128), "tensorboard": False})
    converged: Recipe = scratch().model_copy(
        update={"epochs": 40, "eval_every": 40, "size": (96, 128), "tensorboard": False}
    )
    """Part 4's networks before pruning: after eight epochs pruned ones gain twenty points by being trained on."""
    tune: Recipe = scratch().model_copy(update={"epochs": 8, "eval_every": 8, "size": (96, 128), "tensorboard": False})
    variants: int = 24
    iterations: int = 40
    """Over which importance is taken in part 3."""
    latency: float = 0.5
    """Part 3: share of the latency that is left."""
    accuracy_latency: float = 0.35
    steps: int = 8
    interval: int = 100


FULL = Protocol()
QUICK = replace(
    FULL,
    network="ffnet_22s_bcc_mobile",
    seeds=(0,),
    accuracy_seeds=(0,),
    base=FULL.base.model_copy(update={"epochs": 1, "eval_every": 1, "batch": 4}),
    converged=FULL.converged.model_copy(update={"epochs": 1, "eval_every": 1, "batch": 4}),
    tune=FULL.tune.model_copy(update={"epochs": 1, "eval_every": 1, "batch": 4}),
    variants=10,
    iterations=2,
    latency=0.8,
    accuracy_latency=0.7,
    steps=2,
    interval=2,
)


def check(context: CheckContext) -> Verdict:
    """See the module."""
    protocol = QUICK if context.quick else FULL
    solved: int = context.stage("optimality", lambda: {"solved": optimal_instances(INSTANCES)})["solved"]
    synthetic = context.stage("synthetic", lambda: synthetic_shares(SYNTHETIC_SEEDS))
    chained = context.stage("chained", lambda: synthetic_shares(SYNTHETIC_SEEDS, chained=True))
    trained = [_trained_shares(context, protocol, seed) for seed in protocol.seeds]
    accuracy = _accuracy(context, protocol)
    claim = (*_synthetic_claim(solved, synthetic), *_trained_claim(protocol, trained), *_accuracy_claim(accuracy))
    control = (_over("uniform, latencies shuffled", synthetic["shuffled"], synthetic["uniform"], SHARE_OVER_UNIFORM),)
    figures = {
        "optimal_instances": solved,
        "synthetic_shares": synthetic,
        "chained_shares": chained,  # told, not judged: layers whose costs depend on each other
        "trained": trained,
        "accuracy": accuracy,
        "recipes": {
            name: recipe.model_dump(mode="json")
            for name, recipe in (("base", protocol.base), ("converged", protocol.converged), ("tune", protocol.tune))
        },
    }
    return Verdict(claim, control, figures, protocol.seeds)


def _synthetic_claim(solved: int, shares: Mapping[str, list[float]]) -> tuple[Condition, ...]:
    return (
        Condition(f"random knapsacks solved to the optimum, of {INSTANCES}", solved, INSTANCES),
        _over("uniform", shares["halp"], shares["uniform"], SHARE_OVER_UNIFORM),
        _over("importance alone", shares["halp"], shares["importance"], SHARE_OVER_IMPORTANCE),
    )


def _over(name: str, ours: Sequence[float], theirs: Sequence[float], bound: float) -> Condition:
    least = min(a - b for a, b in zip(ours, theirs, strict=True))
    return Condition(f"importance kept, synthetic, over {name}, the worst of {len(ours)} seeds", least, bound)


def _trained_claim(protocol: Protocol, trained: Sequence[Mapping[str, float]]) -> tuple[Condition, ...]:
    wins = sum(row["halp"] > row["uniform"] for row in trained)
    apart = max(abs(row["halp_ms"] / row["uniform_ms"] - 1) for row in trained)
    return (
        Condition("seeds in which more is kept of a trained network than uniformly", wins, WINS * len(protocol.seeds)),
        Condition("latencies of the two apart by", apart, LATENCY_RATIO, "<="),
    )


def _accuracy_claim(accuracy: Mapping[str, Any]) -> tuple[Condition, ...]:
    trial, worst = accuracy["trial"], accuracy["worst_latency"]
    return (
        Condition("mean mIoU gain over uniform pruning (points)", trial["mean"], GAIN),
        Condition("seeds in which it is not worse", trial["wins"], GAIN_WINS * len(trial["a"])),
        Condition("measured latencies off the one asked for by", worst, LATENCY_TOLERANCE, "<="),
    )


def optimal_instances(count: int) -> int:
    """Part 1: how many of ``count`` random knapsacks are solved to the value that trying every choice finds."""
    return sum(_optimal(np.random.default_rng(seed)) for seed in range(count))


def _optimal(rng: np.random.Generator) -> bool:
    values = [rng.normal(size=int(rng.integers(2, 7))) for _ in range(5)]
    costs = [rng.integers(-5, 60, len(group)) for group in values]
    capacity = sum(int(cost.min()) for cost in costs) + int(rng.integers(0, 150))
    best = max(
        sum(group[option] for group, option in zip(values, taken, strict=True))
        for taken in itertools.product(*(range(len(group)) for group in values))
        if sum(group[option] for group, option in zip(costs, taken, strict=True)) <= capacity
    )
    found = solve(values, costs, capacity)
    return bool(found.cost <= capacity and abs(found.value - best) <= 1e-9)


class StairCosts:
    """Part 2's device: seven convolutions whose time goes by multiply-adds, channels rounded up to stairs.

    Args:
        sides: of the maps in pixels; in another order, latencies are those of other layers.
        stair: channels of a step.
        chained: whether a layer reads what is left of the one before; else all that this one once had.
    """

    unit = "1e6 rounded-up MACs"

    def __init__(self, sides: Sequence[int] = SIDES, stair: int = STAIR, chained: bool = False) -> None:
        self.sides, self.stair, self.chained = sides, stair, chained

    def total(self, widths: Widths) -> float:
        counts = _counts(widths)
        return sum(self._layer(place, counts) for place in range(len(counts)))

    def curves(self, counts: Mapping[str, Sequence[int]], widths: Widths, own: bool = False) -> dict[str, Floats]:
        found = {}
        for name, wanted in counts.items():
            places = [int(name)] if own else [place for place in (int(name), int(name) + 1) if place < len(WIDTHS)]
            rows = [_counts({**widths, name: n}) for n in wanted]
            found[name] = np.array([sum(self._layer(place, row) for place in places) for row in rows])
        return found

    def in_macs(self) -> StairCosts:
        return StairCosts(self.sides, 1, self.chained)

    def _layer(self, place: int, counts: Sequence[int]) -> float:
        before = (counts if self.chained else WIDTHS)[place - 1] if place else 3
        return 9e-6 * self.sides[place] ** 2 * self._up(before) * self._up(counts[place])

    def _up(self, count: int) -> int:
        return -(-count // self.stair) * self.stair


def _counts(widths: Widths) -> list[int]:
    return [widths.get(str(place), width) for place, width in enumerate(WIDTHS)]


def synthetic_shares(seeds: Sequence[int], chained: bool = False) -> dict[str, list[float]]:
    """Part 2: importance kept at half the latency by HALP, the baselines, and HALP with shuffled latencies."""
    rows = [_synthetic(seed, chained) for seed in seeds]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _synthetic(seed: int, chained: bool) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    # Heavy tails, and layers that differ in scale, as Taylor importances have them.
    values: Values = {
        str(place): rng.lognormal(0, 1, width) * rng.lognormal(0, 1) for place, width in enumerate(WIDTHS)
    }
    costs, whole = StairCosts(chained=chained), {str(place): width for place, width in enumerate(WIDTHS)}
    allowed = options(whole, bundles(costs, whole))
    problem = Problem(values, costs, allowed, 0.5 * costs.total(whole))
    shuffled = StairCosts([SIDES[place] for place in _derangement(rng)], chained=chained)
    return {
        "halp": problem.share(METHODS["halp-refined"](problem)),
        "halp_published": problem.share(METHODS["halp"](problem)),
        "uniform": problem.share(METHODS["uniform"](problem)),
        "importance": problem.share(METHODS["magnitude"](problem)),
        "macs": problem.share(METHODS["macs"](problem)),
        "shuffled": problem.share(_misled(problem, shuffled)),
    }


def _derangement(rng: np.random.Generator) -> list[int]:
    """An order in which nearly every layer has another one's map: the chain reversed, or turned by two to five."""
    places = list(range(len(WIDTHS)))
    turn = int(rng.integers(1, 5))
    return places[::-1] if turn == 1 else places[turn:] + places[:turn]


def _misled(problem: Problem, believed: StairCosts) -> dict[str, int]:
    """HALP on wrong latencies, at the largest wrong limit whose solution really fits."""
    low, high = believed.total(problem.least), believed.total(problem.all)
    best = problem.least
    for _ in range(10):
        limit = (low + high) / 2
        found = METHODS["halp-refined"](replace(problem, costs=believed, limit=limit))
        low, high = (limit, high) if problem.fits(found) else (low, limit)
        best = found if problem.fits(found) else best
    return best


def _network(context: CheckContext, protocol: Protocol) -> SegmentationNet:
    return build_network(protocol.network, len(context.need_data().classes), width=protocol.width)


def _target() -> Target:
    return Target.parse("onnxruntime:cpu", threads=THREADS)


def _base(context: CheckContext, protocol: Protocol, name: str, recipe: Recipe, seed: int) -> SegmentationNet:
    """The trained network of a seed."""
    trained_score(context, name, seed, lambda: _network(context, protocol), recipe)
    return trained_network(context, name, seed)


def _trained_shares(context: CheckContext, protocol: Protocol, seed: int) -> dict[str, float]:
    """Part 3: importance kept by HALP and uniformly, and the latencies of both."""

    def work() -> dict[str, float]:
        net = _base(context, protocol, "base", protocol.base, seed).requires_grad_(True)
        groups = find_groups(net)
        predictor = pruning_predictor(
            net, groups, protocol.size, _target(), context.folder / "table", variants=protocol.variants,
            table=context.folder / "table", say=lambda line: None,
        )  # fmt: skip
        costs = ChannelCosts(net, groups.groups, protocol.size, predicted_costs(predictor))
        taylor = TaylorImportance(net, groups.groups)
        losses = SegmentationLosses(context.need_data(), protocol.base, net, context.cache)
        net.train()
        for number in range(protocol.iterations):
            give_way()
            net.zero_grad()
            losses(net, number).backward()
            taylor.add()
        allowed = options(groups.widths, bundles(costs, groups.widths))
        problem = Problem(taylor.values(), costs, allowed, protocol.latency * costs.total({}))
        ours, theirs = METHODS["halp-refined"](problem), METHODS["uniform"](problem)
        return {
            "halp": problem.share(ours), "uniform": problem.share(theirs), "halp_ms": costs.total(ours),
            "uniform_ms": costs.total(theirs), "median_error": predictor.error.median,
        }  # fmt: skip

    return dict(context.stage(f"shares-seed{seed}", work))


def _accuracy(context: CheckContext, protocol: Protocol) -> dict[str, Any]:
    """Part 4: both arms from the same trained network, by the same number of training steps.

    Latency counts as a share of the whole network's, measured in turns with it: the machine's pace is not that of the
    minute in which the limit was set.
    """
    rows: dict[tuple[str, int], dict[str, float]] = {}

    def arm(method: str, seed: int) -> float:
        rows[method, seed] = _pruned(context, protocol, method, seed)
        return rows[method, seed]["miou"]

    trial: PairedTrial = paired_trial(
        lambda seed: arm("halp-refined", seed), lambda seed: arm("uniform", seed), protocol.accuracy_seeds
    )
    asked = protocol.accuracy_latency
    worst = max(abs(row["latency_ms"] / row["before_ms"] / asked - 1) for row in rows.values())
    figures = {f"{method}-seed{seed}": row for (method, seed), row in rows.items()}
    return {"trial": trial.to_json(), "worst_latency": worst, "arms": figures, "mean": fmean(trial.a)}


def _pruned(context: CheckContext, protocol: Protocol, method: str, seed: int) -> dict[str, float]:
    def work() -> dict[str, float]:
        net = _base(context, protocol, "converged", protocol.converged, seed)
        whole = context.stage("whole", lambda: {"ms": _target().measure(net, protocol.size).median_ms})["ms"]
        result = prune(
            net, context.need_data(), _target(), f"latency<={protocol.accuracy_latency * whole:.4f}ms",
            protocol.tune.model_copy(update={"seed": seed}), context.folder / f"{method}-seed{seed}",
            settings=HalpSettings.model_validate(
                {"method": method, "steps": protocol.steps, "interval": protocol.interval}
            ),
            variants=0, table=context.folder / "table", cache=context.cache, whole_ms=whole, say=lambda line: None,
            quiet=True,
        )  # fmt: skip
        return {
            "miou": 100 * result.score, "latency_ms": result.latency_ms, "before_ms": result.latency_before_ms,
            "kept": result.kept, "before": 100 * result.score_before,
        }  # fmt: skip

    return dict(context.stage(f"{method}-seed{seed}-pruned", work))


SYSTEM = System(
    name="halp",
    title="HALP",
    paper="Shen et al., Structural Pruning via Latency-Saliency Knapsack, NeurIPS",
    year=2022,
    where=("catchweight.compress:prune", "catchweight.compress.knapsack:solve", "catchweight.compress.latency"),
    claim="At equal latency, a knapsack over the device's latencies keeps more importance and mIoU than uniform.",
    check=check,
    needs_data=True,
    protocols=(FULL, QUICK),
)

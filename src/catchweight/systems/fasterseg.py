"""FasterSeg: zoomed convolutions, a decoupled latency against collapse, and a teacher found beside the student.

Three claim checks in one. (a) A zoomed convolution against the plain one, in time and multiply-adds. (b) The same
search with its latency decoupled into operators, paths and widths, and coupled: the coupled one slides to skips and
narrow maps. (c) The co-searched student trained with and without its teacher. The deliberately broken arms: a zoomed
convolution that does not zoom; a coupled search without its latency, which must not collapse; an untrained teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ..nets import build_network
from ..nets.fasterseg.ops import Zoomed, plain
from ..nets.ffnet.blocks import conv_bn
from ..nets.segmentation import SegmentationNet
from ..search.gradient import CoSearchResult, CoSearchSettings, PhaseSettings, aimed, co_search, pretrain
from ..spaces.fasterseg import ROLES, FasterSegLatency, Lattice, MeasuredTimes, OpTimes, even
from ..spaces.fasterseg.derive import likeliest_halvings, nodes_along
from ..spaces.fasterseg.parts import part_parameters
from ..targets.clock.measure import interleaved
from ..targets.counts import count_macs
from ..targets.target import Target
from ..targets.tracing.graph import to_onnx
from ..tasks.losses import LossConfig
from ..train import Distiller, Recipe, scratch
from .result import Condition, Verdict
from .system import CheckContext, System
from .training import THREADS, latency_ratio, trained_network, trained_score
from .trials import LATENCY_TOLERANCE, PairedTrial, match_cost, paired_trial

ZOOMED_TIME, ZOOMED_MACS = 0.65, 0.26
"""Most that a zoomed convolution may take of the plain one's latency and multiply-adds."""
COLLAPSE, RETRAINED = 0.2, 1.0
"""How much more the coupled search collapses, and the mIoU points that it costs at equal latency."""
TAUGHT = 0.5
"""mIoU points gained by the teacher on the mean."""


def wins_needed(seeds: int) -> int:
    """Seeds of so many that must agree: four of five."""
    return -(-4 * seeds // 5)


@dataclass(frozen=True)
class Protocol:
    """Sizes of the experiment; the margins above do not depend on them."""

    maps: tuple[tuple[int, tuple[int, int]], ...] = ((96, (45, 60)), (192, (23, 30)))
    """Channels and size (H, W) at which the zoomed convolution is timed."""
    repeats: int = 4
    """Convolutions in a row, so that they are what is timed."""
    seconds: float = 4.0
    settings: CoSearchSettings = CoSearchSettings(
        layers=8,
        width=2 / 3,  # F = 8 where F is 12, and channels in multiples of 8 as the authors' supernet has them
        widths=(4, 8, 12),
        pretrain=PhaseSettings(epochs=3, batch=4, size=(90, 120), lr=0.02),
        search=PhaseSettings(epochs=6, batch=4, size=(84, 112), lr=0.01),
        image_size=(180, 240),
        eval_every=6,
        latency_size=(180, 240),
    )
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    recipe: Recipe = scratch().model_copy(
        update={
            "epochs": 12, "eval_every": 12, "ema": 0.98, "tensorboard": False, "loss": LossConfig(ce=1.0, aux=0.2),
        }
    )  # fmt: skip
    teacher_seed: int = 100
    widths_searched: tuple[int, int] = (8, 96)
    """Thirty-seconds of the coupled network's channels among which those are sought that make it equally slow."""
    times: Callable[[Target, Path], OpTimes] = MeasuredTimes
    """The latency table of operators, kept in a file."""


def counted_times(target: Target, file: Path) -> OpTimes:
    """For quick runs: a nanosecond for ten multiply-adds."""
    return lambda parts: [1e-3 + 1e-7 * part_parameters(p) * p.height * p.width / p.stride**2 for p in parts]


FULL = Protocol()
QUICK = Protocol(
    maps=((16, (12, 16)),),
    seconds=0.1,
    settings=FULL.settings.model_copy(
        update={
            "layers": 5, "base": 2, "width": 1.0, "widths": (8, 12), "eval_every": 1, "image_size": (64, 96),
            "latency_size": (64, 96),
            "pretrain": PhaseSettings(epochs=1, batch=2, size=(64, 96), lr=0.02),
            "search": PhaseSettings(epochs=1, batch=2, size=(64, 96), lr=0.01),
        }
    ),
    seeds=(0,),
    recipe=FULL.recipe.model_copy(update={"epochs": 1, "eval_every": 1, "batch": 4, "size": (64, 96)}),
    widths_searched=(32, 32),
    times=counted_times,
)  # fmt: skip


def check(context: CheckContext) -> Verdict:
    """See the module."""
    protocol = QUICK if context.quick else FULL
    found = [part(context, protocol) for part in (zoomed_check, collapse_check, teacher_check)]
    claim = tuple(condition for part in found for condition in part.claim)
    control = tuple(condition for part in found for condition in part.control)
    figures = {name: part.figures for name, part in zip(("zoomed", "collapse", "teacher"), found, strict=True)}
    return Verdict(claim, control, figures, protocol.seeds)


# --- (a) Zoomed convolution


class Unzoomed(Zoomed):
    """The broken arm: everything a zoomed convolution does except that the map keeps its size."""

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x).relu()


class Row(nn.Module):
    """Operators between two 1x1 convolutions: ``(B, 3, h, w) -> (B, 1, h, w)``."""

    def __init__(self, channels: int, make: Callable[[], nn.Module] | None, repeats: int) -> None:
        super().__init__()
        middle = [make() for _ in range(repeats)] if make else []
        self.body = nn.Sequential(*conv_bn(3, channels, 1), nn.ReLU(), *middle, nn.Conv2d(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y


def zoomed_check(context: CheckContext, protocol: Protocol) -> Verdict:
    """Latency and multiply-adds of the zoomed convolution as a share of the plain one's, at each size of map."""
    rows = [
        context.stage(f"zoomed-{channels}-{size[0]}x{size[1]}", lambda c=channels, s=size: _timed(protocol, c, s))  # type: ignore[misc]
        for channels, size in protocol.maps
    ]
    worst = {arm: max(row["ratio"][arm] for row in rows) for arm in ("zoomed", "unzoomed")}
    macs = {arm: sum(row["macs"][arm] for row in rows) for arm in ("plain", "zoomed", "unzoomed")}
    claim = (
        Condition("zoomed over plain convolution, latency, worst map", worst["zoomed"], ZOOMED_TIME, "<="),
        Condition("multiply-adds, all maps together", macs["zoomed"] / macs["plain"], ZOOMED_MACS, "<="),
    )
    control = (
        Condition("without zooming: latency, worst map", worst["unzoomed"], ZOOMED_TIME, "<="),
        Condition("without zooming: multiply-adds", macs["unzoomed"] / macs["plain"], ZOOMED_MACS, "<="),
    )
    return Verdict(claim, control, {"maps": rows})


def _timed(protocol: Protocol, channels: int, size: tuple[int, int]) -> dict[str, Any]:
    arms: dict[str, Callable[[], nn.Module] | None] = {
        "nothing": None,
        "plain": lambda: plain(channels, channels, 1),
        "zoomed": lambda: Zoomed(channels, channels, 1),
        "unzoomed": lambda: Unzoomed(channels, channels, 1),
    }
    target = Target.parse("onnxruntime:cpu", threads=THREADS)
    nets = {name: Row(channels, make, protocol.repeats).eval() for name, make in arms.items()}
    measured = interleaved([target.prepare(net, size) for net in nets.values()], protocol.seconds)
    ms = {name: m.median_ms for name, m in zip(nets, measured, strict=True)}
    macs = {name: count_macs(net, size) - count_macs(nets["nothing"], size) for name, net in nets.items()}
    turns = {name: m.turns for name, m in zip(nets, measured, strict=True)}
    ratio = {name: paired_share(turns[name], turns["plain"], turns["nothing"]) for name in ("zoomed", "unzoomed")}
    return {"channels": channels, "size": list(size), "ms": ms, "ratio": ratio, "macs": macs,
            "noisy": [name for name, m in zip(nets, measured, strict=True) if m.noisy]}  # fmt: skip


def paired_share(part: Sequence[float], whole: Sequence[float], around: Sequence[float]) -> float:
    """Median over turns taken together of part over whole, less what is around both: a machine's drift cancels out."""
    return median((p - a) / (w - a) for p, w, a in zip(part, whole, around, strict=True))


# --- (b) Collapse


def collapse_check(context: CheckContext, protocol: Protocol) -> Verdict:
    """How far each search slides to skips and narrow maps, and what its network is worth at equal latency."""
    scores = paired_trial(
        lambda seed: _collapse(context, protocol, "coupled", seed),
        lambda seed: _collapse(context, protocol, "decoupled", seed),
        protocol.seeds,
    )
    gaps = sum(gap >= COLLAPSE for gap in scores.differences)
    needed = wins_needed(len(protocol.seeds))
    broken = _broken_gaps(context, protocol, scores, needed)
    retrained = paired_trial(
        lambda seed: _retrained(context, protocol, "decoupled", seed),
        lambda seed: _retrained(context, protocol, "coupled", seed),
        protocol.seeds,
    )
    off = max(abs(_matched(context, protocol, seed)["ratio"] - 1) for seed in protocol.seeds)
    claim = (
        Condition(f"seeds in which the coupled search collapses by {COLLAPSE} more", gaps, needed),
        Condition("latency of the networks compared, off 1 by at most", off, LATENCY_TOLERANCE, "<="),
        Condition("decoupled over coupled at equal latency, mean mIoU gain (points)", retrained.mean, RETRAINED),
    )
    control = (
        Condition(f"coupled without latency: seeds that could collapse by {COLLAPSE} more", broken["seeds"], needed),
    )
    figures = {"collapse": scores.to_json(), "miou": retrained.to_json(), "broken": broken, "latency_off": off}
    return Verdict(claim, control, figures, protocol.seeds)


def collapse_score(record: Mapping[str, Any], lattice: Lattice) -> float:
    """Share of layers whose likeliest operator is skip, and of those with the narrowest width, averaged; 0..1.

    Over the paths of all three ends, before any skip is removed.

    Args:
        record: an epoch's of a co-search.
    """
    probabilities = record["student"]["probabilities"]
    values = {name: torch.tensor(vector) for name, vector in probabilities.items()}
    nodes = [node for end in (8, 16, 32) for node in nodes_along(lattice, likeliest_halvings(values, lattice, end))]
    skips = [float(values[node.op].argmax() == 0) for node in nodes]
    narrow = [float(values[node.width].argmax() == 0) for node in nodes if node.layer]
    return (sum(skips) / len(skips) + sum(narrow) / len(narrow)) / 2


def settings_of(protocol: Protocol, arm: str, seed: int) -> CoSearchSettings:
    """One arm's search: ``decoupled``, ``coupled``, or ``unweighted``, coupled with a latency that counts nothing."""
    changes: dict[str, Any] = {"seed": seed, "regularisation": "decoupled" if arm == "decoupled" else "coupled"}
    if arm == "unweighted":
        changes["latency_weight"] = 1e-12
    return protocol.settings.model_copy(update=changes)


def target_ms(protocol: Protocol, classes: int, times: OpTimes) -> float:
    """Half of what the evenly mixed supernet is expected to take at full width; the same for all arms."""
    lattice, head = _lattice(protocol), ROLES["student"]
    latency = FasterSegLatency(lattice, protocol.settings.latency_size, classes, times, stem=head, head=head)
    return float(latency(even(lattice))) / 2


def _lattice(protocol: Protocol) -> Lattice:
    settings = protocol.settings
    return Lattice(settings.layers, settings.base, settings.widths, settings.width)


def _searched(context: CheckContext, protocol: Protocol, arm: str, seed: int) -> CoSearchResult:
    """The arms of one seed start from the same pre-trained supernet."""
    folder = context.folder / "searches"

    def work() -> dict[str, Any]:
        times = protocol.times(Target.parse("onnxruntime:cpu", threads=THREADS), context.folder / "op_times.json")
        aim = target_ms(protocol, len(context.need_data().classes), times)
        settings = aimed(settings_of(protocol, arm, seed), aim)
        said: dict[str, Any] = {"cache": context.cache, "say": lambda line: print(f"{arm} {seed}: {line}", flush=True)}
        weights = pretrain(context.need_data(), settings, folder / f"pretrain-seed{seed}", **said)
        return co_search(
            context.need_data(), settings, folder / f"{arm}-seed{seed}", times, pretrained=weights, **said
        ).to_json()

    found = context.stage(f"search-{arm}-seed{seed}", work)
    return CoSearchResult(**{**found, "history": tuple(found["history"])})


def _collapse(context: CheckContext, protocol: Protocol, arm: str, seed: int) -> float:
    return collapse_score(_searched(context, protocol, arm, seed).history[-1], _lattice(protocol))


def _broken_gaps(context: CheckContext, protocol: Protocol, scores: PairedTrial, needed: int) -> dict[str, Any]:
    """Seeds in which the search without latency collapses as much; as many are run as the answer needs."""
    gaps: list[float] = []
    for seed, decoupled in zip(protocol.seeds, scores.b, strict=True):
        failed = sum(gap < COLLAPSE for gap in gaps)
        if len(protocol.seeds) - failed < needed:
            break
        gaps.append(_collapse(context, protocol, "unweighted", seed) - decoupled)
    failed = sum(gap < COLLAPSE for gap in gaps)
    return {"gaps": gaps, "seeds": len(protocol.seeds) - failed}


def _network(context: CheckContext, protocol: Protocol, name: str, factor: float = 1.0) -> SegmentationNet:
    """A searched network, its channels multiplied once more."""
    return build_network(name, len(context.need_data().classes), width=factor * protocol.settings.width, aux=True)


def _matched(context: CheckContext, protocol: Protocol, seed: int) -> dict[str, Any]:
    """The multiplier of the coupled network's channels that makes it as slow as the decoupled one."""
    names = {arm: _searched(context, protocol, arm, seed).student for arm in ("decoupled", "coupled")}
    size, low, high = protocol.recipe.size, *protocol.widths_searched

    def written(arm: str, factor: float) -> Path:
        return to_onnx(_network(context, protocol, names[arm], factor), context.folder / f"{arm}.onnx", size)

    def work() -> dict[str, Any]:
        reference = written("decoupled", 1.0)

        def ratio(step: int) -> float:
            return latency_ratio(written("coupled", step / 32), reference, protocol.seconds)

        # A quick run looks at one width only: its networks need not be equally slow.
        match = match_cost(ratio, low, high, 1, LATENCY_TOLERANCE / 2)
        return {"factor": match.size / 32, "ratio": match.ratio, **names}

    found: dict[str, Any] = context.stage(f"match-seed{seed}", work)
    return found


def _retrained(context: CheckContext, protocol: Protocol, arm: str, seed: int) -> float:
    match = _matched(context, protocol, seed)
    factor = match["factor"] if arm == "coupled" else 1.0
    return trained_score(
        context, f"retrained-{arm}", seed, lambda: _network(context, protocol, match[arm], factor), protocol.recipe
    )


# --- (c) Teacher


def teacher_check(context: CheckContext, protocol: Protocol) -> Verdict:
    """The first seed's student with the co-searched teacher, alone, and with a teacher that knows nothing."""
    pair = _searched(context, protocol, "decoupled", protocol.seeds[0])

    def teacher() -> SegmentationNet:
        return _network(context, protocol, pair.teacher)

    def untrained() -> SegmentationNet:
        torch.manual_seed(protocol.teacher_seed)
        return teacher()

    def arm(name: str, taught_by: Callable[[], SegmentationNet] | None) -> Callable[[int], float]:
        return lambda seed: trained_score(
            context, name, seed, lambda: _network(context, protocol, pair.student), protocol.recipe,
            objective=(lambda: Distiller(taught_by())) if taught_by else None,
        )  # fmt: skip

    taught = trained_score(context, "teacher", protocol.teacher_seed, teacher, protocol.recipe)
    alone = arm("student-alone", None)
    knows = arm("student-taught", lambda: trained_network(context, "teacher", protocol.teacher_seed))
    trial = paired_trial(knows, alone, protocol.seeds)
    broken = paired_trial(arm("student-mistaught", untrained), alone, protocol.seeds)
    claim = (
        Condition("gain of the student by its teacher, mean mIoU (points)", trial.mean, TAUGHT),
        Condition("seeds in which it is not worse", trial.wins, wins_needed(len(protocol.seeds))),
    )
    control = (Condition("untrained teacher: mean mIoU gain (points)", broken.mean, TAUGHT),)
    figures = {"teacher_miou": taught, "miou": trial.to_json(), "untrained": broken.to_json(),
               "student": pair.student, "teacher": pair.teacher}  # fmt: skip
    return Verdict(claim, control, figures, protocol.seeds)


SYSTEM = System(
    name="fasterseg",
    title="FasterSeg",
    paper="Chen et al., FasterSeg: Searching for Faster Real-time Semantic Segmentation, ICLR",
    year=2020,
    where=("catchweight.spaces.fasterseg", "catchweight.search.gradient:co_search", "catchweight.nets.fasterseg"),
    claim=(
        "A zoomed convolution takes 0.65 of the plain one's time; coupled latency makes a search collapse to skips and "
        "narrow maps, decoupled it does not and gains 1 mIoU point; the co-searched teacher gives its student 0.5."
    ),
    check=check,
    needs_data=True,
    protocols=(FULL, QUICK),
)

"""From a whole network to one at a latency: groups, block latencies, HALP's schedule and the landing."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from torch import nn

from ..errors import CatchweightError
from ..files import read_json, write_json
from ..targets import Target
from ..train import Recipe
from ..train.optim import build_optimizer
from ..train.setup import build_fabric
from .channels import Groups
from .groups import PROBE, find_groups
from .landing import Landing, Line, Scales, calibrated, land
from .latency import ChannelCosts, predicted_costs
from .schedule import HalpSettings, Loss, Pruner, Say, restore, save, schedule
from .tables import VARIANTS, blocks_target, pruning_predictor

PROFILE_SHARE = 0.3
"""Of the time until the deadline, what profiling may take."""

N = TypeVar("N", bound=nn.Module)


def descend(
    net: N,
    loss_of: Callable[[N], Loss],
    size: tuple[int, int],
    target: Target,
    limit: float,
    recipe: Recipe,
    settings: HalpSettings,
    folder: Path,
    latency_ms: float,
    *,
    variants: int = VARIANTS,
    table: Path | None = None,
    deadline: float | None = None,
    say: Say = print,
) -> tuple[N, Landing]:
    """A pruned copy of ``net`` whose measured latency is within ``limit`` ms if that can be, and how it came there.

    Args:
        net: trained; left as it is. What it holds frozen is pruned, but not trained.
        loss_of: the loss of each iteration, for the copy.
        size: (H, W) in pixels at which latency counts.
        recipe: its optimiser and device are used.
        folder: takes ``line.json``, ``step.pt``, ``steps.json`` and ``table/``; called again with it, the job goes on.
        latency_ms: of ``net``, measured.
        variants, table: see :func:`.pruning_predictor`.
        deadline: in seconds of ``time.monotonic``, when the steps shall end; profiling may take some of the time.

    Raises:
        CatchweightError: no channel can be pruned, the latency is out of reach, or the network cannot be traced.
    """
    device = build_fabric(recipe).device
    subject = copy.deepcopy(net).cpu()
    trained = {name for name, p in subject.named_parameters() if p.requires_grad}
    if not trained:  # as networks for inference are
        subject.requires_grad_(True)
    groups = _groups(subject, size, settings.first)
    aimed = folder / "line.json"
    predictor = pruning_predictor(
        subject, groups, size, target, folder / "table", table=table, say=say, deadline=_profiled_by(deadline),
        variants=0 if aimed.exists() else variants,  # steps are taken by what was known when they began
    )  # fmt: skip
    say(f"predict: {predictor.error}")
    place = blocks_target(target)
    costs = ChannelCosts(
        subject, groups.groups, size, predicted_costs(predictor), batch=place.batch, precision=place.precision
    )
    subject.to(device)
    optimizer = build_optimizer(subject, recipe.model_copy(update={"lr": recipe.lr * settings.lr}))
    subject.requires_grad_(True)  # frozen weights are not trained, but their importance is taken by gradients
    pruner = Pruner(
        subject, groups, costs, loss_of(subject), optimizer, settings, recipe.clip, channels_last=recipe.channels_last
    )
    checkpoint = folder / "step.pt"
    restore(pruner, checkpoint)
    scales = Scales(net, target, size, latency_ms)
    line = _line(aimed, pruner, scales, limit)
    schedule(pruner, line.predicted(limit), say, lambda: save(pruner, checkpoint), deadline)
    landing = replace(
        land(pruner, scales, line, limit, say), bundles=pruner.bundles, median_error=predictor.error.median
    )
    write_json(folder / "steps.json", pruner.state.history)
    for name, parameter in subject.named_parameters():
        parameter.requires_grad_(not trained or name in trained)
    return subject.cpu().eval(), landing


def _profiled_by(deadline: float | None) -> float | None:
    now = time.monotonic()
    return None if deadline is None else now + PROFILE_SHARE * max(0.0, deadline - now)


def _line(file: Path, pruner: Pruner, scales: Scales, limit: float) -> Line:
    """Kept in ``file``: a job that goes on aims at what it aimed at before."""
    if not file.exists():
        write_json(file, calibrated(pruner, scales, limit).points)
    return Line(read_json(file))


def _groups(net: nn.Module, size: tuple[int, int], first: bool) -> Groups:
    """Found at a small size, which is quick; a network that takes its own size alone is tried at that."""
    try:
        return find_groups(net, PROBE, first=first)
    except CatchweightError:
        return find_groups(net, size, first=first)

"""What a compression takes in time, and how much of it fits into the time that is left."""

from __future__ import annotations

from typing import Any

from ..nets import load_network
from ..spaces.whole import size_of
from ..train.timing import step_seconds
from .job import Job, Point, latency_limit
from .race import images
from .space_route import PROFILED_S
from .steps import Made, imitation

DIRECT_SHARE, RELAXED_SHARE = 0.3, 0.55
"""Of the time that ``--time`` leaves for a budget as each of the two races begins; the steps have the rest."""
LEAST_STEPS = 3
"""Pruning in fewer steps than that is given up when the time is short."""
INT8_S = 45.0
"""Rough seconds of int8 besides running the network: graphs, ranges, timing; only used to estimate."""
SCORED = 6
"""Rough number of times that int8 scores the validation images; only used to estimate."""


def int8_seconds(job: Job, latency_ms: float, step: float = 0.0) -> float:
    """Estimated seconds of one attempt at int8 on a network of this latency, its fine-tuning included.

    Args:
        step: seconds of a training step; 0 leaves the fine-tuning out.
    """
    settings = job.settings.compress.int8
    runs = len(settings.methods) * (settings.images + settings.probe) + SCORED * len(job.data.splits["val"])
    tuning = settings.tune_epochs * step * images(job) / job.settings.train.batch
    return INT8_S + 2 * runs * latency_ms / 1000 + tuning


def planned(job: Job, point: Point, given: Made, limit_ms: float) -> dict[str, Any]:
    """The latency to prune to, and how many steps and epochs fit into the time; none if too few would."""
    settings, recipe = job.settings.compress, job.recipe(size_of(given.candidate.arch), 1)
    net, _ = load_network(point.run.path(given.model))
    step = step_seconds(net, recipe, job.data.classes, objective=imitation(job, point, given))
    share, left = 1.0, job.left()
    if left is not None:
        int8 = int8_seconds(job, given.latency_ms, step) if settings.quantises else 0.0
        share = min(1.0, (left / point.to_come - int8 - settings.variants * PROFILED_S) / _training(job, step))
    steps, epochs = int(settings.prune.steps * share), int(settings.epochs * share)
    if steps < min(LEAST_STEPS, settings.prune.steps) or epochs < 1:
        steps = epochs = 0
    point.say(
        f"prune-plan: to {limit_ms:.2f} ms in {steps} steps, then {epochs} epochs, "
        f"about {(settings.variants * PROFILED_S + share * _training(job, step)) / 60:.0f} min"
        if epochs
        else "prune-plan: there is no time left for it"
    )
    return {"limit_ms": limit_ms, "steps": steps, "epochs": epochs, "step_seconds": round(step, 4)}


def with_compression(job: Job, plan: dict[str, Any], epoch_seconds: float) -> dict[str, Any]:
    """The plan of a dry run and the stages that compression adds to it, with estimated minutes.

    Args:
        epoch_seconds: of training a large candidate.
    """
    settings, budgets = job.settings.compress, len(job.budgets)
    known = plan["minutes"]
    step = epoch_seconds * job.settings.train.batch / images(job)
    minutes = {"second race": known["training"] if isinstance(known, dict) else known}
    if settings.prunes:
        minutes["profile prunings"] = budgets * settings.variants * PROFILED_S / 60
        minutes["prune"] = budgets * settings.prune.steps * settings.prune.interval * step / 60
        minutes["fine-tune"] = budgets * settings.epochs * epoch_seconds / 60
    if settings.quantises:
        attempts = 2 if settings.prunes else 1
        minutes["int8"] = attempts * sum(int8_seconds(job, latency_limit(b) or 0.0, step) for b in job.searched) / 60
    if settings.prunes and settings.ablation == "full" and settings.distill:
        minutes["fine-tune without distillation"] = minutes["fine-tune"]
    before = plan.get("minutes in all", known)
    return plan | {
        "compression": f"{settings.steps}, after a second race under {'; '.join(map(str, job.searched))}",
        "minutes of compression": {name: round(value, 1) for name, value in minutes.items()},
        "minutes in all": round(before + sum(minutes.values()), 1),
    }


def bounded(plan: dict[str, Any], minutes: float | None) -> dict[str, Any]:
    """What a bound on the whole job makes of a plan, as one more line of it; none without a bound."""
    if minutes is None:
        return {}
    full = plan.get("minutes in all", plan["minutes"])
    if full <= minutes:
        return {"time": f"at most {minutes:g} minutes: enough for this plan"}
    return {"time": f"at most {minutes:g} minutes: every stage is shortened, to about {minutes / full:.0%}"}


def _training(job: Job, step: float) -> float:
    """Seconds of the whole schedule and the whole fine-tuning."""
    settings = job.settings.compress
    epoch = step * images(job) / job.settings.train.batch
    return settings.prune.steps * settings.prune.interval * step + settings.epochs * epoch


__all__ = ["DIRECT_SHARE", "RELAXED_SHARE", "bounded", "int8_seconds", "planned", "with_compression"]

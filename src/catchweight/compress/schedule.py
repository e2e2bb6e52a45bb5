"""HALP's schedule: train a little, prune a little, until the latency is reached; every step can be gone on from."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from ..config import Config
from ..errors import CatchweightError, StorageError
from ..quiet import give_way
from ..train.checkpoints import load_state, save_state
from .allocate import METHODS, Problem
from .channels import Groups, Ints, removal
from .importance import TaylorImportance, Values, magnitude_importance
from .latency import NetworkCosts
from .stairs import bundles, options

Loss = Callable[[nn.Module, int], Tensor]
"""Network in training mode and number of the iteration, from 0 -> scalar loss of that iteration's batch."""

Say = Callable[[str], None]


class HalpSettings(Config):
    """How a network is pruned. The defaults are the paper's, but for ``method``, ``lr`` and ``least``."""

    method: Literal["halp", "halp-refined", "uniform", "magnitude", "macs"] = "halp-refined"
    """How much each group loses: "halp" as published; "halp-refined" with consumers' savings counted and a local
    search; the others are baselines: the same share everywhere, global filter magnitude, the knapsack over MACs."""
    steps: int = Field(default=30, ge=1)
    """Pruning steps; the latency falls by the same factor in each."""
    interval: int = Field(default=40, ge=1)
    """Training iterations before each step; importances are their mean."""
    lr: float = Field(default=0.1, gt=0)
    """Learning rate of these iterations as a share of the recipe's. The paper prunes while its rate still warms up."""
    least: float = Field(default=0.0, ge=0, lt=1)
    """Share of its units that every group keeps; one bundle in any case (the paper may remove whole layers)."""
    first: bool = False
    """Whether the first layer may be pruned as well."""
    attempts: int = Field(default=6, ge=1)
    """The last step is solved and measured so often until the measured latency is right."""
    close: float = Field(default=0.03, gt=0, lt=1)
    """The measured latency is right within this share below the limit."""


@dataclass
class State:
    """How far a pruning is: everything that a checkpoint needs beside weights and optimiser."""

    step: int = 0
    """Pruning steps done."""
    kept: dict[str, list[int]] = field(default_factory=dict)
    """Units left of every group, in the numbering of the network as it came."""
    share: float = 1.0
    """Importance kept, as the product of all steps' shares."""
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Interval:
    """What an interval of training tells of every unit.

    Attributes:
        importance: Taylor importance, by which all methods are judged.
        ranking: by which units are chosen; the same, except for magnitude pruning.
    """

    importance: Values
    ranking: Values


class Pruner:
    """One network on its way to a latency.

    Args:
        net: pruned in place.
        groups: of ``net``.
        costs: of ``net``, predicted; how far they are from measured ones is found on the way.
        loss: what is trained in between, and what importance is measured on.
        optimizer: over the parameters of ``net``; its state is pruned along.
        settings: the schedule.
        clip: largest norm of the gradient; 0 for no limit.
        channels_last: memory layout that the weights are kept in, also after pruning: sums depend on it in their last
            bits, and a job that goes on shall end with the same weights.
    """

    def __init__(
        self,
        net: nn.Module,
        groups: Groups,
        costs: NetworkCosts,
        loss: Loss,
        optimizer: Optimizer,
        settings: HalpSettings,
        clip: float = 0.0,
        *,
        channels_last: bool = False,
    ) -> None:
        if not groups.groups:
            raise CatchweightError(f"no channel of {type(net).__name__} can be pruned: {_reasons(groups)}")
        self.net, self.groups, self.costs, self.loss, self.optimizer = net, groups, costs, loss, optimizer
        self.settings, self.clip, self.channels_last = settings, clip, channels_last
        self._lay_out()
        self.bundles = bundles(costs, groups.widths)
        self.full = groups.widths
        self.state = State(kept={group.name: list(range(group.units)) for group in groups.groups})

    def resume(self, state: State) -> None:
        """Go to where ``state`` stands: ``net`` and its groups are pruned as they were; weights are the caller's."""
        keep = {name: np.asarray(units) for name, units in state.kept.items()}
        shrink_optimizer(self.optimizer, self.net, removal(self.net, self.groups.groups, keep))
        self.groups = self.groups.prune(self.net, keep)
        self._lay_out()
        self.state = state

    @property
    def predicted(self) -> float:
        """Cost at the present widths."""
        return self.costs.total(self.groups.widths)

    @property
    def least(self) -> dict[str, int]:
        """As little of every group as the settings allow."""
        return self._problem({}, 0.0).least

    def train_interval(self) -> Interval:
        """Train for one interval and take the importances on the way."""
        importance = TaylorImportance(self.net, self.groups.groups)
        self.net.train()
        for number in range(self.settings.interval):
            give_way()
            self.net.zero_grad(set_to_none=True)  # of frozen weights too, which the optimiser does not know
            loss = self.loss(self.net, self.state.step * self.settings.interval + number)
            if not bool(torch.isfinite(loss)):
                raise CatchweightError(
                    f"the loss became {loss.item()} while pruning, after step {self.state.step}: lower prune.lr"
                )
            loss.backward()
            importance.add()
            if self.clip:
                torch.nn.utils.clip_grad_norm_(self._trained(), self.clip)
            self.optimizer.step()
        self.net.zero_grad(set_to_none=True)
        found = importance.values()
        by_size = self.settings.method == "magnitude"
        return Interval(found, magnitude_importance(self.net, self.groups.groups) if by_size else found)

    def plan(self, interval: Interval, limit: float) -> dict[str, int]:
        """Units to keep of every group for a predicted cost within ``limit``, the least ones where it is below that."""
        within = max(limit, self.costs.total(self.least) * (1 + 1e-9))
        return METHODS[self.settings.method](self._problem(interval.ranking, within))

    def apply(self, interval: Interval, widths: Mapping[str, int]) -> None:
        """Prune to these widths, the least important units first."""
        keep = {name: strongest(interval.ranking[name], count) for name, count in widths.items()}
        kept = sum(float(interval.importance[name][units].sum()) for name, units in keep.items())
        self.state.share *= kept / max(sum(float(values.sum()) for values in interval.importance.values()), 1e-300)
        self.state.kept = {name: [units[place] for place in keep[name]] for name, units in self.state.kept.items()}
        shrink_optimizer(self.optimizer, self.net, removal(self.net, self.groups.groups, keep))
        self.groups = self.groups.prune(self.net, keep)
        self._lay_out()

    def preview(self, interval: Interval, widths: Mapping[str, int]) -> nn.Module:
        """A copy of the network, pruned to these widths."""
        copied = copy.deepcopy(self.net)
        self.groups.prune(copied, {name: strongest(interval.ranking[name], count) for name, count in widths.items()})
        return copied

    def record(self, began: float, **figures: Any) -> None:
        """Close a step."""
        self.state.step += 1
        self.state.seconds += time.monotonic() - began
        self.state.history.append(
            {"step": self.state.step, "predicted_ms": self.predicted, "share": self.state.share, **figures}
        )

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _lay_out(self) -> None:
        if self.channels_last:
            self.net.to(memory_format=torch.channels_last)

    def _problem(self, values: Values, limit: float) -> Problem:
        allowed = options(self.groups.widths, self.bundles)
        floors = {name: max(1, math.ceil(self.settings.least * self.full[name])) for name in allowed}
        allowed = {name: [n for n in counts if n >= floors[name]] or counts[:1] for name, counts in allowed.items()}
        return Problem(values, self.costs, allowed, limit)


def schedule(
    pruner: Pruner, end: float, say: Say, save: Callable[[], None], deadline: float | None = None
) -> None:  # fmt: skip
    """All steps but the last, which is the landing's: predicted cost falls to ``end`` by the same factor each time.

    Args:
        pruner: goes on from where its state stands.
        end: predicted cost after the last step.
        save: called after each step.
        deadline: in seconds of ``time.monotonic``; steps that begin after it are left out, and the landing prunes at
            once what they would have.
    """
    steps = pruner.settings.steps
    begun = time.monotonic()
    first = pruner.state.step
    start = pruner.state.history[0]["start"] if pruner.state.history else pruner.predicted
    wanted = targets(start, end, steps)
    for number in range(first, steps - 1):
        if deadline is not None and time.monotonic() >= deadline:
            say(f"prune: stopped before step {number + 1} of {steps}, its time is up: what is left is pruned at once")
            return
        began = time.monotonic()
        before = pruner.predicted
        interval = pruner.train_interval()
        if wanted[number] < before:
            pruner.apply(interval, pruner.plan(interval, wanted[number]))
        pruner.record(began, start=start, limit=wanted[number])
        save()
        left = (time.monotonic() - begun) / (number + 1 - first) * (steps - 1 - number)
        say(
            f"prune: step {number + 1} of {steps}, predicted {before:.2f} -> {pruner.predicted:.2f} ms, "
            f"{pruner.state.share:.1%} of the importance kept, about {_span(left)} left"
        )


def targets(start: float, end: float, steps: int) -> list[float]:
    """Cost after each step: falling by the same factor every time, as published."""
    return [start * (end / start) ** (number / steps) for number in range(1, steps + 1)]


def save(pruner: Pruner, path: Path) -> None:
    """Everything needed to go on, in one file that is written in one step."""
    state = {
        "state": vars(pruner.state),
        "net": {name: tensor.detach().cpu() for name, tensor in pruner.net.state_dict().items()},
        "optimizer": pruner.optimizer.state_dict(),
    }
    save_state(path, state)


def restore(pruner: Pruner, path: Path) -> None:
    """Bring back what :func:`save` wrote, where there is something.

    Raises:
        StorageError: the file is not whole or of another network.
    """
    if not path.exists():
        return
    stored = load_state(path)
    try:
        pruner.resume(State(**stored["state"]))
        pruner.net.load_state_dict(stored["net"])
        pruner.optimizer.load_state_dict(stored["optimizer"])
    except (KeyError, TypeError, RuntimeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise StorageError(f"{path} is no pruning of this network ({reason}); delete it to start again") from error


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def strongest(values: np.ndarray, count: int) -> Ints:
    """The ``count`` most important units, ascending; of equal ones the first."""
    return np.sort(np.argsort(-values, kind="stable")[:count])


def shrink_optimizer(optimizer: Optimizer, net: nn.Module, cuts: Mapping[tuple[str, int], Tensor]) -> None:
    """Prune momenta as the parameters are about to be."""
    parameters = dict(net.named_parameters())
    for (name, dim), indices in cuts.items():
        parameter = parameters.get(name)
        state = optimizer.state.get(parameter, {}) if parameter is not None else {}
        for key, value in state.items():
            if isinstance(value, Tensor) and value.dim() == parameter.dim() and value.dim():  # type: ignore[union-attr]
                state[key] = value.index_select(dim, indices.to(value.device)).contiguous()


def _reasons(groups: Groups) -> str:
    return "; ".join(f"{name}: {why}" for name, why in list(groups.fixed.items())[:5]) or "it has no convolution"

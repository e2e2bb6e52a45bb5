"""The search space: an ordinary network with choices in it. Nothing about it is written twice."""

from __future__ import annotations

import random
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, get_args

from torch import Tensor, nn

from ..errors import UsageError, unknown
from ..front import Arch
from ..targets.tracing.blocks import Signature, blocks
from ..targets.tracing.trace import trace
from .choices import Choice, State
from .decisions import Decisions
from .elastic import Convert, Elastic, Subnet, decisions, named_choices, to_plain, walk
from .relaxation import Relaxation
from .structure import OneOf

Weights = Literal["inherited", "fresh", "none"]
Placed = tuple[str, Signature]
"""Path of a module, and a block that begins there."""


class Space(Elastic):
    """Base of search spaces: write ``__init__`` with choices and ``forward`` (B, 3, H, W) -> (B, K, h, w) as usual.

    The instance is the supernet, in which all architectures share weights; at first its largest member. Choices are
    named by their ``name``, or else after their kind if it is the only one of it, or else after their place: give
    names to what will be stored. Values are those of an ``Arch``; one that :meth:`sample` gives is canonical, see
    :class:`.Decisions`.
    """

    def decisions(self) -> Decisions:
        """The space as data: all that needs no network."""
        return decisions(self)

    def named_choices(self) -> dict[str, Choice[Any]]:
        """The choices themselves by name, in the order of the network."""
        return named_choices(self)

    def choices(self) -> dict[str, tuple[Any, ...]]:
        """Options (strings or numbers) of every choice by name, in the order of the network."""
        return {name: decision.options for name, decision in self.decisions().items()}

    def schema(self) -> dict[str, Any]:
        """JSON schema of an ``Arch`` of this space."""
        return self.decisions().schema()

    def size(self) -> int:
        """Number of different architectures."""
        return self.decisions().size()

    def canonical(self, values: Mapping[str, Any]) -> Arch:
        """The ``Arch`` of one value for every choice.

        Raises:
            UsageError: a choice is missing or unknown, or has no such option.
        """
        return self.decisions().canonical(values)

    def sample(self, rng: random.Random) -> Arch:
        """A random architecture, each choice in use uniform over its options; see :meth:`.Decisions.sample`."""
        return self.decisions().sample(rng)

    def mutate(self, arch: Mapping[str, Any], rng: random.Random, rate: float = 0.1) -> Arch:
        """Another architecture: each choice in use changes with probability ``rate``, one at least."""
        return self.decisions().mutate(arch, rng, rate)

    def crossover(self, a: Mapping[str, Any], b: Mapping[str, Any], rng: random.Random) -> Arch:
        """An architecture with each choice from one of two parents."""
        return self.decisions().crossover(a, b, rng)

    def neighbours(self, arch: Mapping[str, Any]) -> list[Arch]:
        """All that differ in one choice in use, and in what follows from it."""
        return self.decisions().neighbours(arch)

    def smallest(self) -> Arch:
        """Every choice at its first option, every ``OneOf`` at the op with the fewest parameters."""
        return self._extreme(largest=False)

    def largest(self) -> Arch:
        """Every choice at its last option, every ``OneOf`` at the op with the most parameters."""
        return self._extreme(largest=True)

    def relax(self) -> Relaxation:
        """New logits for every choice, on the supernet's device: all options equally likely."""
        relaxation = Relaxation(self.choices())
        parameter = next(self.parameters(), None)
        return relaxation if parameter is None else relaxation.to(parameter.device)

    def activate(self, values: Mapping[str, Any]) -> Active:
        """Hold every choice at a value, fixed or relaxed; in a ``with`` statement only inside it.

        Args:
            values: an ``Arch``, or for each choice an option or a tensor (n,) of probabilities over its options.

        Raises:
            UsageError: a choice is missing or unknown, or has no such option.
        """
        known, named = self.decisions(), self.named_choices()
        fixed = {name: value for name, value in values.items() if not isinstance(value, Tensor)}
        relaxed = {name: known[name].options[0] for name in values if name in known and name not in fixed}
        indices = known.indices({**dict.fromkeys(values), **fixed, **relaxed})
        active = Active(named)
        try:
            for name, choice in named.items():
                if name in relaxed:
                    choice.relax(values[name])
                else:
                    choice.fix(indices[name])
        except UsageError:
            active.restore()
            raise
        return active

    def subnet(self, arch: Mapping[str, Any], weights: Weights = "inherited") -> nn.Module:
        """The plain network of an architecture: layers as one would write them by hand, no choice among them.

        Args:
            weights: ``"inherited"``, copies of the supernet's; ``"fresh"``, drawn anew by every layer's
                ``reset_parameters``; ``"none"``, on the ``meta`` device, to be counted, traced or loaded into.

        Raises:
            UsageError: as :meth:`activate`; or a module cannot draw its own parameters anew.
        """
        if weights not in get_args(Weights):
            raise unknown("weights", weights, get_args(Weights))
        with self.activate(arch):
            net = to_plain(self)
        if weights == "fresh":
            _reset(net)
        return net.to("meta") if weights == "none" else net

    def signatures(
        self, arch: Mapping[str, Any], size: tuple[int, int], batch: int = 1, precision: str = "fp32"
    ) -> list[Signature]:
        """Blocks of a member at (H, W), for the latency table; those of every option: :class:`.BlockMap`."""
        return [signature for _, signature in self.placed_signatures(arch, size, batch, precision)]

    def placed_signatures(
        self, arch: Mapping[str, Any], size: tuple[int, int], batch: int = 1, precision: str = "fp32"
    ) -> list[Placed]:
        """:meth:`signatures`, each with the path of the module where the block begins.

        This traces the member, which takes seconds; a space that knows a faster way to the same overrides it.
        """
        traced = trace(self.subnet(arch, weights="none"), size, batch)
        return [(block.module, block.signature) for block in blocks(traced, precision)]

    def to_plain(self, convert: Convert) -> nn.Module:
        return Subnet(type(self), Space, {name: convert(value) for name, value in vars(self).items()})

    def _extreme(self, largest: bool) -> Arch:
        named = self.named_choices()
        with Active(named):
            for choice in named.values():
                choice.fix(-1 if largest else 0)
            holders: dict[Choice[Any], list[OneOf]] = {}
            for place in walk(self):
                if isinstance(place.module, OneOf):
                    holders.setdefault(place.module.op.leader, []).append(place.module)
            for op, modules in reversed(holders.items()):  # the inner ones first
                counts = [sum(_parameters(m, index) for m in modules) for index in range(len(op.options))]
                op.fix(counts.index(max(counts) if largest else min(counts)))
            return self.canonical({name: choice.value for name, choice in named.items()})


class Active:
    """Choices as they were: leaving a ``with`` statement puts them back."""

    def __init__(self, choices: Mapping[str, Choice[Any]]) -> None:
        self._before: list[tuple[Choice[Any], State]] = [(choice, choice.state) for choice in choices.values()]

    def __enter__(self) -> Active:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.restore()

    def restore(self) -> None:
        for choice, state in self._before:
            choice.state = state


def _parameters(module: OneOf, index: int) -> int:
    op = to_plain(module.get_submodule(module.op.options[index]))
    return sum(parameter.numel() for parameter in op.parameters())


def _reset(net: nn.Module) -> None:
    for path, module in net.named_modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        elif next(module.parameters(recurse=False), None) is not None:
            raise UsageError(
                f'"{path}" ({type(module).__name__}) has parameters but no reset_parameters to draw them: '
                'write one, or take the subnet of a new space with weights "inherited"'
            )


__all__ = ["Active", "Placed", "Space", "Weights"]

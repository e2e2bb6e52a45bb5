"""Choices: decisions left open inside a network, and the three ways in which one is held.

A choice is a plain object that layers keep as an attribute. The same object in several layers is one tied choice. At
any moment it is *fixed* to an option (*sampled* is fixed to an option drawn by :class:`.decisions.Decisions`), or
*relaxed*: it has a probability for every option, and whoever reads it mixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ..errors import UsageError

Option = TypeVar("Option")
Number = TypeVar("Number", int, float)
State = tuple[int, Tensor | None]


class Choice(Generic[Option]):
    """One of several options; starts at the last, the largest of an ordered choice.

    Args:
        options: strings or numbers, distinct.
        name: its key in an ``Arch``; by default derived from where it is first used.
        tie: another choice that decides for this one too, option by option; there must be as many.

    Raises:
        UsageError: no option, one twice, or a tie between different numbers of options.
    """

    kind = "choice"

    def __init__(self, options: Sequence[Option], name: str | None = None, tie: Choice[Any] | None = None) -> None:
        self.options = tuple(options)
        self.name = name
        self._check(name, tie)
        self.leader: Choice[Any] = self if tie is None else tie.leader
        self._index = len(self.options) - 1
        self._probabilities: Tensor | None = None

    def _check(self, name: str | None, tie: Choice[Any] | None) -> None:
        label = f'{self.kind} "{name}"' if name else f"a {self.kind}"
        if not self.options or len(set(self.options)) < len(self.options):
            raise UsageError(f"{label} needs one or more distinct options, but got {list(self.options)}")
        if tie is not None and len(tie.options) != len(self.options):
            raise UsageError(
                f"{label} with options {list(self.options)} cannot be tied to {list(tie.options)}: "
                "tied choices have equally many options"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.options)}, name={self.leader.name!r})"

    def __getstate__(self) -> dict[str, Any]:
        """A copy is held at the same probabilities, cut off from what computed them (torch copies no graph)."""
        held = self._probabilities
        return {**vars(self), "_probabilities": None if held is None else held.detach()}

    @property
    def index(self) -> int:
        """Place of the option that is executed; of several that are mixed, the last."""
        return len(self.options) - 1 if self.mixture is not None else self.leader._index

    @property
    def value(self) -> Option:
        """The option at :attr:`index`."""
        return self.options[self.index]

    @property
    def mixture(self) -> Tensor | None:
        """Probabilities (n,) if several options are mixed, else ``None``."""
        return None if self.leader._index >= 0 else self.leader._probabilities

    @property
    def score(self) -> Tensor | None:
        """Probability, 1, of the one option that a one-hot relaxation executes; the result is multiplied by it, so
        that its gradient reaches the logits (GDAS, Dong and Yang, CVPR 2019; FasterSeg, Chen et al., ICLR 2020)."""
        probabilities = self.leader._probabilities
        return None if probabilities is None or self.leader._index < 0 else probabilities[self.leader._index]

    def fix(self, index: int) -> None:
        """Take the option at ``index``."""
        self.state = (range(len(self.options))[index], None)

    def relax(self, probabilities: Tensor) -> None:
        """Mix the options with these probabilities (n,); of one-hot ones, execute that option alone.

        Raises:
            UsageError: not (n,), or the sum is not 1.
        """
        values = probabilities.detach()
        if values.shape != (len(self.options),) or abs(float(values.sum()) - 1) > 1e-3:
            raise UsageError(
                f"{self!r} needs {len(self.options)} probabilities with sum 1, but got "
                f"{tuple(values.shape)} with sum {float(values.sum()):.4g}"
            )
        largest = int(values.argmax())
        self.state = (largest if float(values[largest]) == 1.0 else -1, probabilities)

    @property
    def state(self) -> State:
        """What it is held at, to be restored later."""
        return self.leader._index, self.leader._probabilities

    @state.setter
    def state(self, state: State) -> None:
        self.leader._index, self.leader._probabilities = state


def _ascending(options: Sequence[Number], tie: Choice[Any] | None) -> Sequence[Number]:
    """Sorted, as slices and centres want them.

    Raises:
        UsageError: tied options are in another order, which pairs them with the leader's: sorting would pair them anew.
    """
    ordered = sorted(options)
    if tie is not None and list(options) != ordered:
        raise UsageError(f"tied options are paired one by one and must ascend, but got {list(options)}")
    return ordered


class Width(Choice[int]):
    """Number of channels: a narrow layer uses the leading slice of the widest one's weights (slimmable networks, Yu et
    al., ICLR 2019). Options are sorted."""

    kind = "width"

    def __init__(self, options: Sequence[int], name: str | None = None, tie: Choice[Any] | None = None) -> None:
        super().__init__(_ascending(options, tie), name, tie)
        if self.options[0] < 1:
            raise UsageError(f"widths are positive numbers of channels, but got {list(self.options)}")

    def times(self, factor: float) -> Width:
        """This width multiplied and rounded, e.g. the inside of an inverted bottleneck; tied to it."""
        return Width([max(1, round(option * factor)) for option in self.options], tie=self)

    def mask(self) -> Tensor | None:
        """While mixed: weight (C,) of each channel, the probability that a width has it (FBNetV2, Wan et al., CVPR
        2020); else ``None``."""
        mixture = self.mixture
        if mixture is None:
            return None
        channel = torch.arange(self.options[-1], device=mixture.device)
        has = channel < torch.tensor(self.options, device=mixture.device)[:, None]
        return mixture @ has.to(mixture.dtype)


class Kernel(Choice[int]):
    """Side of a square kernel, odd: a small one is the centre of the largest (Once-for-All, Cai et al., ICLR 2020).

    Args:
        transform: pass the centre through a learnt matrix, one per layer and size, as Once-for-All does.
    """

    kind = "kernel"

    def __init__(
        self,
        options: Sequence[int],
        name: str | None = None,
        tie: Choice[Any] | None = None,
        *,
        transform: bool = False,
    ) -> None:
        super().__init__(_ascending(options, tie), name, tie)
        self.transform = transform
        if self.options[0] < 1 or any(option % 2 == 0 for option in self.options):
            raise UsageError(f"kernels are odd, so that they share a centre, but got {list(self.options)}")


class Resolution(Choice[float]):
    """Side of the image as a share of what comes in, e.g. ``[0.5, 0.75, 1.0]``; read by :class:`.structure.Rescale`."""

    kind = "resolution"

    def __init__(self, options: Sequence[float], name: str | None = None, tie: Choice[Any] | None = None) -> None:
        super().__init__(_ascending(options, tie), name, tie)
        if self.options[0] <= 0:
            raise UsageError(f"resolutions are positive shares of the input's side, but got {list(self.options)}")


__all__ = ["Choice", "Kernel", "Resolution", "State", "Width"]

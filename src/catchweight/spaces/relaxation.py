"""Architecture parameters: logits over the options of choices, and the probabilities that relax them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError


class Relaxation(nn.Module):
    """One vector of logits for each choice. A supernet may have several of them, as teacher and student in FasterSeg.

    Kept outside the space, so that an optimiser of ``space.parameters()`` does not move them. Both draws give a
    mapping that :meth:`.Space.activate` takes, every choice by name.

    Args:
        choices: options by name, as :meth:`.Space.choices` gives them, or some of these.
    """

    def __init__(self, choices: Mapping[str, Sequence[Any]]) -> None:
        super().__init__()
        self.names = tuple(choices)
        self.logits = nn.ParameterList(nn.Parameter(torch.zeros(len(options))) for options in choices.values())

    def softmax(self, temperature: float = 1.0) -> dict[str, Tensor]:
        """Probabilities (n,) of every choice: all options are executed and mixed (DARTS, Liu et al., ICLR 2019)."""
        _check(temperature)
        return {name: (v / temperature).softmax(0) for name, v in zip(self.names, self.logits, strict=True)}

    def gumbel(self, temperature: float = 1.0, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """One-hot (n,) draws, by softmax probability; gradients are those of the soft draw (straight-through).

        Jang et al. and Maddison et al., ICLR 2017. Only the drawn option is executed.
        """
        _check(temperature)
        return {n: _gumbel(v, temperature, generator) for n, v in zip(self.names, self.logits, strict=True)}


def _gumbel(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    noise = torch.empty_like(logits).exponential_(generator=generator).log()
    soft = ((logits - noise) / temperature).softmax(0)
    one_hot = torch.zeros_like(soft).index_fill(0, soft.detach().argmax(), 1.0)
    return one_hot + (soft - soft.detach())  # the bracket is exactly zero


def _check(temperature: float) -> None:
    if temperature <= 0:
        raise UsageError(f"a relaxation's temperature is positive, but got {temperature}")


__all__ = ["Relaxation"]

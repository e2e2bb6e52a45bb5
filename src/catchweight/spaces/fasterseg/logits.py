"""The architecture parameters of one FasterSeg, kept outside the supernet: teacher and student have a set each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..relaxation import Relaxation
from .lattice import Lattice

Values = dict[str, Any]
"""For every op and origin of a lattice probabilities (n,), for every width probabilities (n,) or twelfths."""


class ArchitectureLogits(nn.Module):
    """alpha, beta and ratio of the paper: logits of operators, of origins and of widths, all equal at first.

    Args:
        lattice: the space.
        widths: whether widths are searched (the student's); if not, every map has its full width (the teacher's).
    """

    def __init__(self, lattice: Lattice, *, widths: bool) -> None:
        super().__init__()
        self.structure = Relaxation(lattice.structure())
        self.widths = Relaxation(lattice.open_widths() if widths else {})
        self._fixed = {} if widths else dict.fromkeys(lattice.open_widths(), lattice.widths[-1])

    def draw(self, generator: torch.Generator | None = None) -> Values:
        """Softmax over operators and origins, hard Gumbel draws of widths (T = 1, straight-through)."""
        return {**self.structure.softmax(), **self.widths.gumbel(generator=generator), **self._fixed}

    def probabilities(self) -> Values:
        """Softmax over everything that is open."""
        return {**self.structure.softmax(), **self.widths.softmax(), **self._fixed}

    def likeliest(self) -> Values:
        """As :meth:`draw`, with the likeliest width in place of a random one: what is evaluated."""
        fixed = {name: one_hot(vector) for name, vector in self.widths.softmax().items()}
        return {**self.structure.softmax(), **fixed, **self._fixed}


def one_hot(vector: Tensor) -> Tensor:
    """1 at the (first) largest entry, 0 elsewhere."""
    return torch.zeros_like(vector).index_fill(0, vector.detach().argmax(), 1.0)


def even(lattice: Lattice) -> Values:
    """All operators and all origins equally likely, every width full: the state of a pre-trained supernet."""
    structure = {name: torch.full((len(n),), 1 / len(n)) for name, n in lattice.structure().items()}
    return {**structure, **at_width(lattice, lattice.widths[-1])}


def at_width(lattice: Lattice, twelfths: int) -> Values:
    """Every open width fixed."""
    return dict.fromkeys(lattice.open_widths(), twelfths)


def random_widths(lattice: Lattice, generator: torch.Generator | None = None) -> Values:
    """Every open width drawn by itself, all options equally likely."""
    names = list(lattice.open_widths())
    drawn = torch.randint(len(lattice.widths), (len(names),), generator=generator).tolist()
    return {name: lattice.widths[index] for name, index in zip(names, drawn, strict=True)}


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Probabilities as lists of numbers, for a file."""
    return {name: v.detach().tolist() if isinstance(v, Tensor) else v for name, v in values.items()}


__all__ = ["ArchitectureLogits", "Values", "at_width", "even", "one_hot", "plain", "random_widths"]

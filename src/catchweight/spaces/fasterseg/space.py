"""FasterSeg's search space as published: a supernet, its architectures, and the networks they stand for (ICLR 2020).

Where it departs from the choice modules of this project, and why:

- A member does not run inside the supernet and inherits no weights. A skip is a 1x1 convolution there and nothing in
  the member, whose cell and width go with it; the member's decoder fuses its branches by a convolution that the
  supernet lacks. Derived networks are trained from random weights, as published.
- The supernet's own choices lie at the nodes of a lattice (``lattice``), and a path is the product of where the nodes'
  inputs come from. Two branches of a member may cross a node on different ways, which no draw of those choices gives.
  So an ``Arch`` names the paths themselves, and :meth:`FasterSegSpace.relax` gives logits of the lattice.
- One choice decides about two operators, that which keeps the stride and that which halves it; every input of a node
  passes its cell alone before the results are mixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from ...errors import UsageError, unknown
from ...front import Arch
from ...nets import build_network
from ...nets.fasterseg import OPS, config_name, fasterseg_config
from ...nets.fasterseg.architecture import STRIDES
from ...nets.segmentation import FeatureInfo, NetSpec, SegmentationNet
from ..decisions import Decision, Decisions, Place
from ..relaxation import Relaxation
from ..segmentation import SegmentationSpace, Size
from ..space import Weights
from .derive import Halvings, assemble, candidates, nodes_along
from .lattice import Lattice, Node
from .logits import Values, even
from .parts import part_parameters, parts
from .supernet import PAIRS, PREDICTIONS, Ends, Supernet

ROLES = {"teacher": 12, "student": 8}
"""Widths of stem and decoder in twelfths, as published."""

DEEP, MIDDLE = "path32", "path16"


class FasterSegSpace(SegmentationSpace):
    """Two-branch networks of up to ``layers`` cells a branch: the branch to stride 32, beside one to 8 or 16.

    An ``Arch`` has the layers that halve (``path32``, and ``path16`` of a branch to stride 16), the second branch's
    end, and the operator and width at every node that a path may pass; both branches share these. Skips are removed by
    the rules of :mod:`.derive`, so several architectures may stand for one network.

    Args:
        classes: K.
        sizes: input sizes (H, W) that members may be made for.
        layers, base, widths: see :class:`.Lattice`; the defaults are the published ones.
        width: multiplies every channel count, rounded to 8.
        roles: widths of stem and decoder by role, in twelfths; each an option of ``widths``.

    Raises:
        UsageError: an impossible lattice or size, or a role's width that no cell can give.
    """

    inherits = False

    def __init__(
        self, classes: int, sizes: Sequence[Size], *, layers: int = 16, base: int = 12,
        widths: Sequence[int] = (4, 6, 8, 10, 12), width: float = 1.0, roles: Mapping[str, int] = ROLES,
    ) -> None:  # fmt: skip
        super().__init__(NetSpec("fasterseg", classes, width), sizes)
        self.lattice = Lattice(layers, base, tuple(widths), width)
        for role, twelfths in roles.items():
            if twelfths not in self.lattice.widths:
                raise UsageError(
                    f"the {role}'s decoder is {twelfths} twelfths wide, which the last cells cannot give: add it to "
                    f"the widths {self.lattice.widths}"
                )
        self.supernet = Supernet(self.lattice, classes, roles)
        self._held: tuple[Values, str, Ends] = (even(self.lattice), next(iter(roles)), PAIRS[-1])

    # --- The supernet

    def predictions(self, x: Tensor, values: Mapping[str, Any], role: str) -> dict[Ends, Tensor]:
        """Normalised images (B, 3, H, W) -> logits (B, K, ceil(H/8), ceil(W/8)) by the strides they look at.

        Args:
            values: see :data:`.logits.Values`.
            role: whose stem and decoder.
        """
        found: dict[Ends, Tensor] = self.supernet(x, values, role)
        return found

    @contextmanager
    def held(self, values: Values, role: str, ends: Ends) -> Iterator[None]:
        """Inside, the supernet as a network gives the prediction of ``ends`` at these values.

        Raises:
            UsageError: no such role or prediction.
        """
        if role not in self.supernet.roles:
            raise unknown("role", role, self.supernet.roles)
        if ends not in PREDICTIONS:
            raise unknown("prediction", str(ends), map(str, PREDICTIONS))
        before, self._held = self._held, (values, role, ends)
        try:
            yield
        finally:
            self._held = before

    def logits(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K, ceil(H/8), ceil(W/8)); see :meth:`held`. At first everything is evenly mixed."""
        values, role, ends = self._held
        return self.predictions(x, values, role)[ends]

    def train_logits(self, x: Tensor) -> list[Tensor]:
        """That of :meth:`logits` first, then the other four."""
        values, role, ends = self._held
        found = self.predictions(x, values, role)
        return [found.pop(ends), *found.values()]

    @property
    def feature_info(self) -> list[FeatureInfo]:
        """The last map at each stride, of the role that is held."""
        head = self.supernet.roles[self._held[1]]
        return [FeatureInfo(f"stride{s}", self.lattice.channels(s, head), s) for s in STRIDES]

    def relax(self) -> Relaxation:
        """Logits of operators, origins and widths of the lattice; a search has :class:`.ArchitectureLogits`."""
        return Relaxation({**self.lattice.structure(), **self.lattice.open_widths()})

    def activate(self, values: Mapping[str, Any]) -> NoReturn:
        """Refused: no member runs inside this supernet; see :meth:`held`.

        Raises:
            UsageError: always.
        """
        raise UsageError(_ALONE)

    # --- The architectures

    def decisions(self) -> Decisions:
        return self._architectures

    @cached_property
    def _architectures(self) -> Decisions:
        found = [
            Decision("ends", tuple(_text(ends) for ends in PAIRS)),
            Decision(DEEP, tuple(_text(path) for path in self._paths[DEEP])),
            Decision(MIDDLE, tuple(_text(path) for path in self._paths[MIDDLE]), ((("ends", frozenset({1})),),)),
        ]
        for node in self.lattice.nodes:
            if places := self._places(node):
                found.append(Decision(node.op, OPS, places))
                if node.layer:
                    found.append(Decision(node.width, self.lattice.widths, places))
        return Decisions([*found, Decision("size", self.input_size.options)])

    @cached_property
    def _paths(self) -> dict[str, list[Halvings]]:
        """Paths by choice, the latest halvings first: few parameters before many."""
        return {DEEP: candidates(self.lattice, 32)[::-1], MIDDLE: candidates(self.lattice, 16)[::-1]}

    def _places(self, node: Node) -> tuple[Place, ...]:
        """When a node is passed: under which options of which choices; always if on both paths' common beginning."""
        through = {
            name: frozenset(i for i, path in enumerate(paths) if node in nodes_along(self.lattice, path))
            for name, paths in self._paths.items()
        }
        if len(through[DEEP]) == len(self._paths[DEEP]):
            return ((),)
        found: list[Place] = [((DEEP, through[DEEP]),)] if through[DEEP] else []
        if through[MIDDLE]:
            found.append((("ends", frozenset({1})), (MIDDLE, through[MIDDLE])))
        if node.stride == STRIDES[0]:
            found.append((("ends", frozenset({0})),))
        return tuple(found)

    def network_name(self, arch: Mapping[str, Any]) -> str:
        arch = self.canonical(arch)
        values: Values = {node.op: _one_hot(arch[node.op]) for node in self.lattice.nodes if node.op in arch}
        values |= {name: arch[name] for name in self.lattice.open_widths() if name in arch}
        second = {_text(PAIRS[0]): (), _text(PAIRS[1]): _layers(arch[MIDDLE])}[arch["ends"]]
        head = self.supernet.roles["student"]
        paths = [_layers(arch[DEEP]), second]
        return config_name(assemble(values, self.lattice, paths, stem=head, head=head))

    def smallest(self) -> Arch:
        """All skips and the narrowest width, along the paths that then have the fewest parameters."""
        return self._extreme(largest=False)

    def largest(self) -> Arch:
        """Two zoomed convolutions of full width everywhere, along the paths that then have the most parameters."""
        return self._extreme(largest=True)

    def subnet(self, arch: Mapping[str, Any], weights: Weights = "inherited") -> SegmentationNet:
        """The plain network of an architecture: with ``"fresh"`` weights, or on the ``meta`` device with ``"none"``.

        Raises:
            UsageError: weights are to be inherited, or as :meth:`network_name`.
        """
        if weights == "inherited":
            raise UsageError(_ALONE)
        if weights not in ("fresh", "none"):
            raise unknown("weights", weights, ("fresh", "none"))
        with torch.device("meta" if weights == "none" else "cpu"):
            return build_network(self.network_name(arch), self.spec.classes, width=self.spec.width, aux=self.spec.aux)

    def member_state(self, arch: Mapping[str, Any]) -> Mapping[str, Tensor]:
        raise UsageError(_ALONE)

    def _extreme(self, largest: bool) -> Arch:
        place = -1 if largest else 0
        ends = {name: decision.options[place] for name, decision in self.decisions().items()}
        every = [
            self.canonical({**ends, "ends": pair, DEEP: deep, MIDDLE: middle})
            for pair in self.decisions()["ends"].options
            for deep in self.decisions()[DEEP].options
            for middle in self.decisions()[MIDDLE].options
        ]
        choose = max if largest else min
        return choose(dict.fromkeys(every), key=self._weights_of)

    def _weights_of(self, arch: Arch) -> int:
        config, size = fasterseg_config(self.network_name(arch)), self.input_size.options[0]
        return sum(map(part_parameters, parts(config, size, self.spec.classes, self.spec.width)))


def fasterseg_space(
    classes: int, sizes: Sequence[Size], *, backbone: str = "", weights: str | Path = "none"
) -> FasterSegSpace:
    """The published space, as the table of spaces makes it: there is no backbone, and nothing is pretrained."""
    return FasterSegSpace(classes, sizes)


_ALONE = (
    'a FasterSeg does not run inside its supernet and inherits no weights: take subnet(arch, "fresh") and train it, '
    "or search by gradient (search.gradient.co_search)"
)


def _text(numbers: Sequence[int]) -> str:
    return "-".join(map(str, numbers))


def _layers(text: str) -> Halvings:
    return tuple(int(part) for part in text.split("-"))


def _one_hot(op: str) -> list[float]:
    return [float(name == op) for name in OPS]


__all__ = ["ROLES", "FasterSegSpace", "fasterseg_space"]

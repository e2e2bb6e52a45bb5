"""How much a network would miss each unit of channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from .channels import ChannelGroup

Floats = NDArray[np.float64]

Values = dict[str, Floats]
"""Group -> importance of each of its units."""

_AFFINE = (_NormBase, nn.GroupNorm, nn.LayerNorm)


class TaylorImportance:
    """First-order Taylor importance on norms, as in HALP (Shen et al., NeurIPS 2022; Molchanov et al., CVPR 2019).

    What removing a channel would do to the loss is ``|sum of (gamma dL/dgamma + beta dL/dbeta)|`` over the group's
    layers: the absolute value follows the sum, so that layers of one residual stage may cancel. It is taken at every
    training step and averaged. Where a group has no norm, ``|sum of w dL/dw|`` over the filters that compute the
    channels.

    Importances of different layers compare only if they come from the same loss and batches; weight decay must be in
    the optimiser, not in the loss.

    Args:
        net: the network that is being trained; its gradients are read.
        groups: as they are now; after a pruning a new object is needed.
    """

    def __init__(self, net: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        self._parts = {group.name: _parts(net, group) for group in groups}
        self._sums: dict[str, Tensor] = {}
        self.steps = 0

    @torch.no_grad()
    def add(self) -> None:
        """Take in the gradients of one step: after the backward pass, before the optimiser moves the weights."""
        for name, parts in self._parts.items():
            found = [_per_unit(tensor, dim, indices) for tensor, dim, indices in parts if tensor.grad is not None]
            if found:
                change = torch.stack(found).sum(0).abs()
                self._sums[name] = self._sums[name] + change if name in self._sums else change
        self.steps += 1

    def values(self) -> Values:
        """Mean importance of every unit over the steps so far, ``(units,)``; zeros where no gradient came."""
        return {
            name: (self._sums[name] / self.steps).cpu().numpy().astype(np.float64)
            if name in self._sums
            else np.zeros(parts[0][2].shape[0])
            for name, parts in self._parts.items()
        }


def magnitude_importance(net: nn.Module, groups: Sequence[ChannelGroup]) -> Values:
    """Norm of the filters that compute each unit (Li et al., ICLR 2017), over the mean of its group.

    Without the division whole layers would go first, those whose filters are small for their shape's sake.
    """
    values = {}
    with torch.no_grad():
        for group in groups:
            parts = _filters(net, group)
            squares = torch.stack([_unit_sum(tensor.square(), dim, indices) for tensor, dim, indices in parts]).sum(0)
            norms = squares.sqrt().cpu().numpy().astype(np.float64)
            values[group.name] = norms / max(float(norms.mean()), 1e-12)
    return values


Part = tuple[nn.Parameter, int, Tensor]
"""A parameter, its channel dimension, and the indices of each unit, (units, indices a unit)."""


def _parts(net: nn.Module, group: ChannelGroup) -> list[Part]:
    norms = []
    parameters = dict(net.named_parameters())
    for (name, dim), indices in group.slices.items():
        owner = net.get_submodule(name.rpartition(".")[0])
        if isinstance(owner, _AFFINE) and name in parameters:
            norms.append((parameters[name], dim, torch.from_numpy(indices).to(parameters[name].device)))
    return norms or _filters(net, group)


def _filters(net: nn.Module, group: ChannelGroup) -> list[Part]:
    parameters = dict(net.named_parameters())
    found = []
    for maker in group.makers:
        name, dim = f"{maker}.weight", _out_dim(net.get_submodule(maker))
        indices = torch.from_numpy(group.slices[name, dim]).to(parameters[name].device)
        found.append((parameters[name], dim, indices))
    return found


def _out_dim(layer: nn.Module) -> int:
    return 1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0


def _per_unit(parameter: nn.Parameter, dim: int, indices: Tensor) -> Tensor:
    """Sum of ``w dL/dw`` of each unit, ``(units,)``."""
    assert parameter.grad is not None
    return _unit_sum(parameter * parameter.grad, dim, indices)


def _unit_sum(values: Tensor, dim: int, indices: Tensor) -> Tensor:
    per_channel = values.movedim(dim, 0).flatten(1).sum(1) if values.dim() > 1 else values
    return per_channel[indices].sum(1)

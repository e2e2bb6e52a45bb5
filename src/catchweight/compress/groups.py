"""Channel groups: what can be pruned of a network, each group proven before it is offered."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from ..errors import CatchweightError
from ..nets.heads import LinearHead
from ..nets.segmentation import SegmentationNet
from ..targets.tracing.trace import IMAGE, Trace, trace
from .channels import ChannelGroup, Groups, Slice
from .coupling import Unit, coupled
from .proof import refuted

PROBE = (64, 64)
"""Input size (H, W) at which coupling is read and proven, unless the network needs another."""

ALONE = "a single unit"


def find_groups(
    net: nn.Module, size: tuple[int, int] = PROBE, *, keep: Iterable[str] = (), first: bool = False
) -> Groups:
    """The channel groups of a network.

    Channels that end in the network's output stay, as does the first convolution unless ``first`` (HALP gives it an
    importance that nothing outweighs). What couples which channels is read from Torch-Pruning's graph and then proven
    (:func:`.refuted`); a group that fails stays whole.

    Args:
        net: takes images (B, 3, H, W); also asked for its training outputs. Left as it is.
        size: (H, W) in pixels that it is tried at.
        keep: names of layers whose channels shall stay.
        first: whether the first convolution may be pruned.

    Raises:
        CatchweightError: the network cannot be traced at this size, or its couplings cannot be read.
    """
    subject = copy.deepcopy(net).cpu().float()
    traced = trace(subject, size)
    stay = dict.fromkeys(keep, "asked to stay") | ({} if first else dict.fromkeys(_first_layers(traced), "first layer"))
    try:
        units = coupled(_with_plain_heads(subject), torch.zeros(2, 3, *size), network_outputs, _channelwise(traced))
    except Exception as error:  # whatever Torch-Pruning, which runs the network's own code, raises
        raise CatchweightError(
            f"Torch-Pruning cannot read which channels of {type(net).__name__} belong together, though it runs at "
            f"{size[0]}x{size[1]} ({type(error).__name__}: {error}): it cannot be pruned"
        ) from error
    groups, fixed = _gathered(units, stay, [name for name, _ in net.named_modules()])
    refused = refuted(subject, groups, size, network_outputs)
    return Groups(tuple(group for group in groups if group.name not in refused), {**fixed, **refused})


def network_outputs(net: nn.Module, x: Tensor) -> list[Tensor]:
    """Everything that a network in evaluation mode gives: its logits and, in training, those of auxiliary heads."""
    if isinstance(net, SegmentationNet):
        return [net(x), *net.train_logits(x)]
    return [*_tensors(net(x)), *_training_outputs(net, x)]


def _training_outputs(net: nn.Module, x: Tensor) -> list[Tensor]:
    """What a user's network gives in training; nothing where it then wants more than images, e.g. boxes."""
    with _own_code_trains(net):
        try:
            return list(_tensors(net(x)))
        except Exception:  # whatever the network's own code raises; that it runs in evaluation is known
            return []


@contextmanager
def _own_code_trains(net: nn.Module) -> Iterator[None]:
    """Inside, the network's own code is in training; torch's layers, and norms and dropout made of them, are not."""
    own = [module for module in net.modules() if not (module.training or _of_torch(module))]
    try:
        for module in own:
            module.training = True
        yield
    finally:
        for module in own:
            module.training = False


def _of_torch(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.") or isinstance(module, (_NormBase, _DropoutNd))


def _with_plain_heads(net: nn.Module) -> nn.Module:
    """A copy whose pyramid heads call their classifier as a layer, which is what Torch-Pruning sees.

    They may also apply its weights level by level, to the same effect.
    """
    subject = copy.deepcopy(net)
    for head in subject.modules():
        if isinstance(head, LinearHead):
            head.__dict__["_classify_then_resize"] = head._resize_then_classify
    return subject


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, Mapping)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(inner)


def _first_layers(traced: Trace) -> set[str]:
    """Layers that read the image itself, padded or normalised perhaps."""
    raw, found = {IMAGE}, set()
    for op in traced.ops:
        if not set(op.inputs) <= raw:
            continue
        if op.kind in ("conv2d", "linear"):
            found.add(op.module)
        elif not op.weights or op.kind in ("sub", "div", "mul", "add"):
            raw.add(op.name)
    return found


def _channelwise(traced: Trace) -> frozenset[str]:
    """Parameters that maps are multiplied with or added to as they are."""
    ops = (op for op in traced.ops if op.kind in ("mul", "add", "sub", "div"))
    return frozenset(name for op in ops for name, value in op.weights.items() if value.numel > 1)


def _gathered(
    units: Iterable[Unit], stay: Mapping[str, str], order: list[str]
) -> tuple[list[ChannelGroup], dict[str, str]]:
    """Units that take the same number of indices from the same tensor dimensions are one group."""
    alike: dict[tuple[tuple[Slice, int], ...], list[Unit]] = {}
    fixed: dict[str, str] = {}
    for unit in units:
        if not unit.makers:
            continue
        reason = next((stay[maker] for maker in unit.makers if maker in stay), unit.frozen)
        if reason:
            fixed.setdefault(unit.makers[0], reason)
        else:
            alike.setdefault(tuple(sorted((key, len(found)) for key, found in unit.slices.items())), []).append(unit)
    groups: list[ChannelGroup] = []
    for members in sorted(alike.values(), key=lambda members: order.index(members[0].makers[0])):
        if len(members) == 1:
            fixed.setdefault(members[0].makers[0], ALONE)
        else:
            groups.append(_group(members, [group.makers[0] for group in groups].count(members[0].makers[0])))
    return groups, fixed


def _group(members: list[Unit], namesakes: int) -> ChannelGroup:
    first = min(members[0].slices)
    ordered = sorted(members, key=lambda unit: unit.slices[first])
    slices = {key: np.array([unit.slices[key] for unit in ordered], dtype=np.int64) for key in ordered[0].slices}
    makers = ordered[0].makers
    return ChannelGroup(makers[0] if not namesakes else f"{makers[0]}#{namesakes + 1}", makers, slices)

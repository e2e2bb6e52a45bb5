"""Catching the maps inside a network while it runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UsageError, unknown

_PLACE = re.compile(r"([^\[\]]+)((?:\[\d+\])*)")

PROBE = 128
"""Side in pixels of the image with which channels are found out."""


class Taps:
    """Places inside a network, each the output of a module, or an item of it.

    Hooks are there only while :meth:`caught` is open, so that copies of the network carry none.

    Args:
        net: the network.
        places: a module's name, with keys behind it where its output is a list or a table: ``neck``, ``neck[0]``.

    Raises:
        UsageError: no such module; the nearest is named.
    """

    def __init__(self, net: nn.Module, places: Sequence[str]) -> None:
        self.places = tuple(dict.fromkeys(places))
        self._modules = [_module(net, place) for place in self.places]

    @contextmanager
    def caught(self) -> Iterator[dict[str, Tensor]]:
        """A table that the next forward pass fills, by place.

        Raises:
            UsageError: (in that pass) what comes out at a place is not one tensor.
        """
        found: dict[str, Tensor] = {}

        def hook(place: str, keys: list[int]) -> Any:
            def catch(_module: nn.Module, _inputs: Any, output: Any) -> None:
                found[place] = _item(output, place, keys)

            return catch

        pairs = zip(self.places, self._modules, strict=True)
        handles = [module.register_forward_hook(hook(place, keys)) for place, (module, keys) in pairs]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()

    def channels(self, net: nn.Module) -> dict[str, int]:
        """Channels at each place, found out with one empty image; the network is left as it was.

        Raises:
            UsageError: a place is not reached, or gives no maps.
        """
        modes = [(module, module.training) for module in net.modules()]
        device = next(net.parameters()).device
        with torch.no_grad(), self.caught() as found:
            net.eval()(torch.zeros(1, 3, PROBE, PROBE, device=device))
        for module, mode in modes:
            module.training = mode
        for place in self.places:
            if place not in found or found[place].ndim != 4:
                raise UsageError(f'"{place}" gives no maps (B, C, h, w) when the network runs: name another module')
        return {place: maps.shape[1] for place, maps in found.items()}


def _module(net: nn.Module, place: str) -> tuple[nn.Module, list[int]]:
    match = _PLACE.fullmatch(place)
    name, keys = (match.group(1), match.group(2)) if match else (place, "")
    modules = dict(net.named_modules())
    if not name or name not in modules:
        raise unknown("module", place, [known for known in modules if known])
    return modules[name], [int(key) for key in re.findall(r"\d+", keys)]


def _item(output: Any, place: str, keys: list[int]) -> Tensor:
    try:
        for key in keys:
            output = output[key]
    except (KeyError, IndexError, TypeError) as error:
        raise UsageError(f'"{place}" does not exist in the output of its module ({error!r})') from None
    if not isinstance(output, Tensor):
        raise UsageError(f'"{place}" is {len(output)} maps: name one of them, e.g. "{place}[0]"')
    return output

"""Block latencies for one network's prunings: profiled on the network itself, at random widths."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import nn

from ..errors import CatchweightError
from ..files import copy_file
from ..targets import Target
from ..targets.latency.observe import observable, observe
from ..targets.latency.predictor import LEAST, LatencyPredictor
from ..targets.latency.table import LatencyTable, default_folder
from .channels import Groups

VARIANTS = 16
"""Prunings of the network that are profiled; with so many a table can state its error."""

NARROWEST = 0.2
"""Least share of its units that a group keeps in a profiled pruning."""

_ROUND = 8
"""Every second profiled pruning has multiples of it, as a runtime's vectors want; the others have any number."""


def pruning_predictor(
    net: nn.Module,
    groups: Groups,
    size: tuple[int, int],
    target: Target,
    folder: Path,
    *,
    variants: int = VARIANTS,
    table: Path | None = None,
    seconds: float = 1.5,
    seed: int = 0,
    deadline: float | None = None,
    say: Callable[[str], None] = print,
) -> LatencyPredictor:
    """A latency predictor that knows this network's own blocks at many widths.

    What was profiled before of the device is taken over, once: a job that goes on predicts as it did. On a target that
    cannot be observed block by block the blocks are those of ``onnxruntime:cpu``: they tell which layers are slow for
    their size, and measuring the whole network on the target sets the scale.

    Args:
        net: left as it is.
        groups: of ``net``.
        folder: takes the table; killed and called again with it, only what is missing is profiled.
        variants: how many prunings to profile; 0 to use what ``table`` knows and nothing else.
        table: folder of a table of the device; default: the user's cache.
        seconds: timing of each.
        deadline: in seconds of ``time.monotonic``; after it no more are profiled than a prediction needs.

    Raises:
        CatchweightError: the network cannot be exported, or without variants the table knows too little.
    """
    place = blocks_target(target)
    known = LatencyTable(place, folder)
    _take_over(known, Path(table) if table else default_folder(place))
    for number in range(variants):
        label = f"pruning {number} of {_digest(net)}"
        if (label, size) not in known:
            if deadline is not None and time.monotonic() >= deadline and len(known.networks) >= LEAST:
                say(f"profile: stopped after {number} of {variants} prunings, its time is up")
                break
            observed = observe(place, random_pruning(net, groups, number, seed), size, seconds)
            known.add(label, size, observed)
            say(f"profile: {number + 1} of {variants} prunings, this one takes {observed.whole.median_ms:.2f} ms")
    if len(known.networks) < LEAST:
        raise CatchweightError(
            f"{len(known.networks)} profiled networks are too few to predict from, {LEAST} are the least: run "
            f"`catchweight profile --target {place}`, or let more prunings be profiled"
        )
    return LatencyPredictor(known)


def blocks_target(target: Target) -> Target:
    """The target itself, or where it cannot be observed block by block the one whose blocks stand in."""
    return target if observable(target) else Target.parse("onnxruntime:cpu", target.threads, target.batch)


def random_pruning(net: nn.Module, groups: Groups, number: int, seed: int = 0) -> nn.Module:
    """A copy of the network at random widths; number 0 is the network itself."""
    variant = copy.deepcopy(net)
    if number == 0:
        return variant
    rng = np.random.default_rng((seed, number))
    keep = {}
    for group in groups.groups:
        count = max(1, round(rng.uniform(NARROWEST, 1) * group.units))
        if number % 2 and group.units > _ROUND:
            count = max(_ROUND, count // _ROUND * _ROUND)
        keep[group.name] = np.arange(count)
    groups.prune(variant, keep)
    return variant


def _take_over(known: LatencyTable, source: Path) -> None:
    """Copy what ``known`` has not, unless it is enough to predict from: steps may have been taken by it then."""
    if source == known.folder or len(list(known.folder.glob("*.parquet"))) >= LEAST:
        return
    for path in source.glob("*.parquet"):
        if not (known.folder / path.name).exists():
            copy_file(path, known.folder / path.name)


def _digest(net: nn.Module) -> str:
    """Tells one network's shape from another's."""
    about = [(name, tuple(tensor.shape)) for name, tensor in net.state_dict().items()]
    return hashlib.sha256(repr(about).encode()).hexdigest()[:12]

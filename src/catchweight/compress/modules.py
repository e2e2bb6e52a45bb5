"""Pruning, saving and loading any ``nn.Module`` that takes images: also of users, also for classification."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from ..errors import CatchweightError, UsageError
from ..nets.backbones.files import read_torch
from ..nets.shrink import Shapes, shapes, shrink_to
from ..nets.tensor_file import write_tensors
from ..run import Run
from ..targets import Target
from ..train import Recipe
from .descent import descend
from .digest import weights_digest
from .landing import Landing, alone
from .schedule import HalpSettings, Loss, Say
from .tables import VARIANTS

FORMAT = 1
N = TypeVar("N", bound=nn.Module)


def prune_module(
    net: N,
    loss: Loss,
    size: tuple[int, int],
    target: Target,
    limit_ms: float,
    folder: Path,
    *,
    recipe: Recipe | None = None,
    settings: HalpSettings | None = None,
    variants: int = VARIANTS,
    table: Path | None = None,
    say: Say = print,
) -> tuple[N, Landing]:
    """Prune any trained network to a measured latency; fine-tuning it afterwards is the caller's.

    Args:
        net: (B, 3, H, W) -> tensors; left as it is.
        loss: called with the copy that is pruned, in training mode, and the number of the iteration; gives the loss of
            that iteration's batch, e.g. ``lambda net, i: cross_entropy(net(images[i]), labels[i])``. Batches must be
            on the device of ``recipe``.
        size: (H, W) in pixels at which latency counts.
        limit_ms: of a batch of the target.
        folder: called again with it, the job goes on after the last pruning step.
        recipe: whose optimiser and device train between the steps; default: AdamW at 1e-3 times ``settings.lr``, on the
            kind of device that ``net`` is on.
        settings, variants, table: as in :func:`.prune`.

    Returns:
        The pruned copy, on the CPU, and where it landed; :func:`save_pruned` keeps it. Where no attempt came within
        the limit, the fastest one is given and its ``met`` is false.

    Raises:
        UsageError: the network is quick enough as it is.
        CatchweightError: out of reach, nothing to prune, or the folder belongs to another job.
    """
    settings = settings or HalpSettings()
    recipe = recipe or _default_recipe(net, size)
    request = {
        "prune": type(net).__name__, "shapes": {name: list(shape) for name, shape in shapes(net).items()},
        "weights": weights_digest(net)[:16], "limit_ms": limit_ms, "target": str(target), "threads": target.threads,
        "batch": target.batch, "size": list(size), "recipe": recipe.model_dump(mode="json"),
        "settings": settings.model_dump(mode="json"), "variants": variants,
    }  # fmt: skip
    run = Run(folder, request)
    with run.locked():
        latency = run.stage("start", lambda: {"latency_ms": alone(net, target, size)[0]})["latency_ms"]
        if latency <= limit_ms:
            raise UsageError(f"the network takes {latency:.2f} ms as it is, within {limit_ms:g} ms: ask for less")
        return descend(
            net, lambda _: loss, size, target, limit_ms, recipe, settings, run.folder, latency, variants=variants,
            table=table, say=say,
        )  # fmt: skip


def _default_recipe(net: nn.Module, size: tuple[int, int]) -> Recipe:
    """The network stays where it is, for so do the batches of the caller's loss."""
    parameter = next(net.parameters(), None)
    on_cpu = parameter is None or parameter.device.type == "cpu"
    return Recipe(size=size, accelerator="cpu" if on_cpu else "auto")


def save_pruned(path: Path | str, net: nn.Module, meta: Mapping[str, Any] | None = None) -> None:
    """Write weights and a note in one file, in one step; :func:`load_pruned` reads it.

    Args:
        meta: numbers, text, lists and dicts, or tensors.

    Raises:
        CatchweightError: the folder is read-only or the disk is full.
    """
    weights = {name: tensor.detach().cpu() for name, tensor in net.state_dict().items()}
    write_tensors(Path(path), {"format": FORMAT, "weights": weights, "meta": dict(meta or {})})


def load_pruned(path: Path | str, build: Callable[[], N]) -> tuple[N, dict[str, Any]]:
    """The pruned network, in evaluation mode, and the note.

    Args:
        build: makes the network as it was before pruning, e.g. ``lambda: MyNet(classes=10)``; its layers are then made
            as small as the file's weights. Nothing in the file is run.

    Raises:
        CatchweightError: absent, damaged or hostile; or its weights are not a pruning of what ``build`` makes.
    """
    content = read_torch(Path(path))
    try:
        if content["format"] != FORMAT:
            raise CatchweightError(f"{path} has format {content['format']}; this version reads {FORMAT}")
        weights, meta = dict(content["weights"]), dict(content["meta"])
        wanted: Shapes = {str(name): tuple(tensor.shape) for name, tensor in weights.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CatchweightError(f"{path} is not a pruned network that `save_pruned` wrote ({error!r})") from error
    net = build()
    try:
        shrink_to(net, {name: shape for name, shape in wanted.items() if shape != shapes(net).get(name)})
        net.load_state_dict(weights)
    except CatchweightError as error:
        raise CatchweightError(f"{path}: {error}") from error
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CatchweightError(f"{path}: its weights do not fit {type(net).__name__}: {reason}") from error
    return net.eval(), meta

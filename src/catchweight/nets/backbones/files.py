"""State dicts out of files, without running anything that a file could carry."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...errors import CatchweightError

_WRAPPERS = ("state_dict", "model", "weights")


def read_torch(path: Path) -> Any:
    """``torch.load`` that unpickles tensors and plain containers only.

    Raises:
        CatchweightError: absent, unreadable, damaged, or holding anything else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CatchweightError(f"cannot read {path}: {error.strerror or error}") from error
    # A damaged or hostile file makes the unpickler raise nearly anything (tested in tests/nets).
    except Exception as error:
        why = "it holds objects other than tensors" if _refused(error) else "it is damaged or not such a file"
        raise CatchweightError(f"cannot load {path}: {why}; nothing in it was run") from error


def _refused(error: Exception) -> bool:
    return isinstance(error, pickle.UnpicklingError) and "Weights only load failed" in str(error)


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors, .pt or .pth file, out of the usual wrappings.

    Raises:
        CatchweightError: as ``read_torch``, or there is no state dict in it.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise CatchweightError(f"cannot load {path}: {error}") from error
    value = read_torch(path)
    for key in _WRAPPERS:
        if isinstance(value, Mapping) and isinstance(value.get(key), Mapping):
            value = value[key]
    if not isinstance(value, Mapping) or not value or not all(isinstance(v, Tensor) for v in value.values()):
        raise CatchweightError(f"{path} holds no state dict (names to tensors)")
    return dict(value)

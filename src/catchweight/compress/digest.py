"""Telling one set of weights from another."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def weights_digest(net: nn.Module) -> str:
    """SHA-256 of all parameters and buffers with their names, in hexadecimal; shapes are not in it."""
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(name.encode())
        as_bytes = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)  # numpy has no bfloat16
        digest.update(as_bytes.numpy().tobytes())
    return digest.hexdigest()

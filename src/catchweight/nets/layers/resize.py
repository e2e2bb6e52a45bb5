"""Moving between the levels of a pyramid whose sizes are not powers of two."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ...errors import unknown

MODES = ("nearest", "bilinear")


def check_mode(mode: str) -> str:
    if mode not in MODES:
        raise unknown("resize mode", mode, MODES)
    return mode


def resize_to(x: Tensor, like: Tensor, mode: str = "nearest") -> Tensor:
    """(B, C, h, w) -> (B, C, H, W) of ``like``, exactly; at equal sizes ``x`` itself.

    A network at stride s has maps of floor or ceil of H / s, as its padding has it; a fixed factor of 2
    would miss by one pixel.
    """
    size = like.shape[-2:]
    if x.shape[-2:] == size:
        return x
    if mode == "bilinear":
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return F.interpolate(x, size=size, mode="nearest")


def halve(x: Tensor) -> Tensor:
    """3x3 max-pool of stride 2: (B, C, h, w) -> (B, C, ceil(h/2), ceil(w/2)); 1x1 stays as it is."""
    if x.shape[-2] == 1 and x.shape[-1] == 1:
        return x
    return F.max_pool2d(x, 3, stride=2, padding=1)


def pool_to(x: Tensor, like: Tensor) -> Tensor:
    """``halve``, then an exact resize should the backbone have rounded the size the other way."""
    return resize_to(halve(x), like)

"""Moving between the levels of a pyramid whose sizes are not powers of two."""

from __future__ import annotations

import torch
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
    if surely(x.shape[-2] == size[0]) and surely(x.shape[-1] == size[1]):
        return x
    if mode == "bilinear":
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return F.interpolate(x, size=size, mode="nearest")


def halve(x: Tensor) -> Tensor:
    """3x3 max-pool of stride 2: (B, C, h, w) -> (B, C, ceil(h/2), ceil(w/2)); 1x1 stays as it is."""
    if surely(x.shape[-2] == 1) and surely(x.shape[-1] == 1):
        return x
    return F.max_pool2d(x, 3, stride=2, padding=1)


def surely(condition: bool | torch.SymBool) -> bool:
    """Whether a condition on sizes holds at every size that is traced for.

    Python's own ``if`` would ask the example: a file of free size, exported at one where two levels are 1x1 both, would
    leave out what only they can do without.
    """
    if not isinstance(condition, torch.SymBool):
        return bool(condition)
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # late: it loads all of sympy

    return statically_known_true(condition)


def pool_to(x: Tensor, like: Tensor) -> Tensor:
    """``halve``, then an exact resize should the backbone have rounded the size the other way."""
    return resize_to(halve(x), like)

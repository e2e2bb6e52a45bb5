"""Fast normalised fusion (EfficientDet, Tan et al., CVPR 2020): learned, non-negative, softmax-free."""

from __future__ import annotations

from torch import Tensor

EPS = 1e-4


def fusion_weights(v: Tensor) -> Tensor:
    """w = relu(v), then w_i / (eps + sum_j w_j); (n,) -> (n,), each >= 0, sum just under 1."""
    w = v.relu()
    return w / (EPS + w.sum())

"""An exported file beside its network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn


def departs(path: Path, net: nn.Module, shape: tuple[int, ...]) -> float:
    """Largest difference between file and network on noise of this shape, as a share of the largest logit."""
    image = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(["logits"], {"image": image.numpy()})[0]
    net.eval()
    with torch.no_grad():
        expected = net(image).numpy()
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())

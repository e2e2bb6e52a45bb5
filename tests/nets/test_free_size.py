"""Files of every family that take any size: what they compute is what the network computes, at sizes never traced."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from catchweight.nets import build_network
from catchweight.targets.tracing.graph import to_onnx
from departures import departs

TRACED, OTHERS = (96, 128), ((64, 64), (67, 97), (160, 120))

NETWORKS = {
    "timm/test_efficientnet+fpn": 1.0,
    "timm/test_efficientnet+bifpn": 1.0,
    "dpc/test_efficientnet": 1.0,
    "ffnet_22s_bcc_mobile": 0.125,
    "ffnet_34_abb": 0.125,
    "fasterseg_student": 0.25,
    "eseg_lite_s": 1.0,
}
"""One of each family, and its width."""


@pytest.mark.parametrize(
    "name", [n if n.startswith("timm") else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS]
)
def test_a_file_of_free_size_agrees_at_sizes_never_traced(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = build_network(name, 5, width=NETWORKS[name], weights="none").train()
    with torch.no_grad():
        net(torch.randn(4, 3, *TRACED))  # norms with statistics of their own
    net.eval()
    file = to_onnx(net, tmp_path / "net.onnx", TRACED, dynamic="size")
    for size in (TRACED, *OTHERS):
        assert departs(file, net, (1, 3, *size)) < 1e-4, size
        with torch.no_grad():
            assert net(torch.zeros(1, 3, *size)).shape == (1, 5, *size)

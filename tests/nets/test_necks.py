"""Pyramids: sizes, reach, and the two forms of fusion."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from catchweight.nets.necks import FPN, BiFPN
from catchweight.nets.necks.bifpn import BiFPNLayer, Fusion
from catchweight.nets.segmentation import FeatureInfo

FEATURES = [FeatureInfo(f"stage{i}", c, s) for i, (c, s) in enumerate([(8, 4), (12, 8), (16, 16), (24, 32)])]


def maps(height: int, width: int, *, ceil: bool = True, batch: int = 1) -> list[Tensor]:
    def size(x: int, s: int) -> int:
        return -(-x // s) if ceil else x // s

    return [torch.randn(batch, f.channels, size(height, f.stride), size(width, f.stride)) for f in FEATURES]


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (180, 240), (67, 64), (360, 480)])
@pytest.mark.parametrize("ceil", [True, False])
def test_every_level_keeps_its_size(size: tuple[int, int], ceil: bool) -> None:
    inputs = maps(*size, ceil=ceil)
    for neck in (FPN(FEATURES, width=8, levels=6), BiFPN(FEATURES, width=8, levels=8, repeats=2)):
        levels = neck(inputs)
        assert [x.shape[-2:] for x in levels[:4]] == [x.shape[-2:] for x in inputs]
        for finer, coarser in zip(levels[3:], levels[4:], strict=False):
            assert coarser.shape[-2:] == tuple(-(-n // 2) for n in finer.shape[-2:])
        assert all(x.shape[:2] == (1, 8) for x in levels)


def test_training_one_image_down_to_one_pixel_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    neck = BiFPN(FEATURES, width=8, levels=8, repeats=2)
    levels = neck(maps(64, 96))
    assert levels[-1].shape == (1, 8, 1, 1)
    sum((x * torch.randn_like(x)).sum() for x in levels).backward()  # type: ignore[union-attr]
    dead = [n for n, p in neck.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


def test_fusion_follows_the_formula() -> None:
    torch.manual_seed(0)
    node = Fusion(3, 8, "relu").eval()
    node.v.data = torch.tensor([2.0, -1.0, 0.5])
    inputs = [torch.randn(2, 8, 5, 7) for _ in range(3)]
    fused = (2.0 * inputs[0] + 0.5 * inputs[2]) / (2.5 + 1e-4)
    torch.testing.assert_close(node(*inputs), node.conv(fused.relu()))


@pytest.mark.parametrize("levels", [2, 4, 8])
def test_layer_has_the_nodes_of_the_published_graph(levels: int) -> None:
    layer = BiFPNLayer(levels, 8, "relu", "nearest")
    assert [node.v.numel() for node in layer.down] == [2] * (levels - 1)
    assert [node.v.numel() for node in layer.up] == [3] * (levels - 2) + [2]


def test_coarsest_level_reaches_the_finest_and_back() -> None:
    """What P9 sees changes P2 within one layer, and P2 changes P9: the claim of the neck."""
    torch.manual_seed(0)
    layer = BiFPNLayer(5, 8, "relu", "nearest").eval()
    levels = [torch.rand(1, 8, n, n) for n in (16, 8, 4, 2, 1)]
    before = layer(levels)
    far = layer([*levels[:-1], levels[-1] + 10])
    assert not torch.allclose(far[0], before[0])
    near = layer([levels[0] + 10, *levels[1:]])
    assert not torch.allclose(near[-1], before[-1])


def test_fpn_carries_coarse_context_down_only() -> None:
    torch.manual_seed(0)
    neck = FPN(FEATURES, width=8, levels=4).eval()
    inputs = maps(64, 64)
    before = neck(inputs)
    after = neck([*inputs[:3], inputs[3] + 5])
    assert not torch.allclose(after[0], before[0])
    after = neck([inputs[0] + 5, *inputs[1:]])
    assert torch.equal(after[-1], before[-1])

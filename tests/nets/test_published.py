"""Published backbones end to end inside a segmentation network: train a step, evaluate, save, export, agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from catchweight.nets import SegmentationNet, build_network, load_network, save_network
from catchweight.nets.backbones import PUBLISHED
from catchweight.targets.tracing.graph import to_onnx

NAMES = [b.timm_name for b in PUBLISHED]
EXPORTED_ALWAYS = ("resnetv2_18", "ese_vovnet19b_dw")
"""The others' exports take minutes in all; these two cover pre-activation and ceil-mode pooling."""


def build(name: str) -> SegmentationNet:
    torch.manual_seed(0)
    return build_network(f"timm/{name}+fpn:width=16", 4)


def train(net: SegmentationNet, steps: int) -> None:
    optimiser = torch.optim.SGD(net.parameters(), lr=0.01)
    x, target = torch.randn(2, 3, 64, 64), torch.randint(0, 4, (2, 16, 16))
    for _ in range(steps):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net.train_logits(x)[0], target).backward()
        optimiser.step()


def test_every_family_of_the_mission_has_a_row() -> None:
    families = {b.family for b in PUBLISHED}
    assert families >= {"ResNet", "pre-activation ResNet", "ResNeXt", "Res2Net", "DPN", "VoVNetV2"}
    assert families >= {"EfficientNet", "EfficientNet-Lite", "ResNet-RS", "NF-ResNet", "PVT v2"}


@pytest.mark.parametrize("name", NAMES)
def test_trains_at_any_size_and_reloads(name: str, tmp_path: Path) -> None:
    net = build(name).train()
    # Residual branches start at zero (the last norm's weight, the skip gain), which hides the parameters behind
    # it from the first gradient; the second sees them all.
    train(net, steps=2)
    dead = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []
    save_network(tmp_path / "model.pt", net)
    again, _ = load_network(tmp_path / "model.pt")
    x = torch.randn(1, 3, 67, 97)
    with torch.no_grad():
        y = net.eval()(x)
        assert y.shape == (1, 4, 67, 97)
        assert torch.isfinite(y).all()
        assert torch.equal(again(x), y)


@pytest.mark.parametrize(
    "name", [n if n in EXPORTED_ALWAYS else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_exported_file_agrees(name: str, tmp_path: Path) -> None:
    net = build(name).train()
    train(net, steps=1)
    net.eval()
    file = to_onnx(net, tmp_path / "net.onnx", (67, 97))
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    x = torch.randn(1, 3, 67, 97)
    (ours,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        eager = net(x).numpy()
    assert np.abs(ours - eager).max() < 1e-4 * np.abs(eager).max()

"""The first module that departs is named, for every kind of place where the weights can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported import SIZE, TinyNet, tiny_net
from timm.layers import BatchNormAct2d
from torch import nn

from catchweight.deploy.bisect import first_departure
from catchweight.targets.tracing.graph import to_onnx


@pytest.fixture(scope="module")
def net() -> TinyNet:
    return tiny_net()


@pytest.fixture(scope="module")
def clean(net: TinyNet, tmp_path_factory) -> Path:
    return to_onnx(net, tmp_path_factory.mktemp("onnx") / "a.onnx", SIZE)


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(5))


def corrupt(path: Path, target: Path, weight: str, factor: float = 1.05) -> Path:
    """A copy of the file with one named weight scaled."""
    model = onnx.load(str(path))
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == weight)
    values = onnx.numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, weight))
    target.write_bytes(model.SerializeToString())
    return target


def test_a_clean_file_has_no_departure_in_any_module(net: TinyNet, clean: Path, image: torch.Tensor) -> None:
    assert first_departure(clean, net, image, rel=1e-5) is None


@pytest.mark.parametrize(
    ("module", "kind", "after", "seen"),
    [
        ("stem.0", "Conv2d", None, "stem.1"),
        ("down", "Conv2d", "stem", "down"),
        ("neck.x", "Conv2d", "down", "neck.x"),
        ("neck.y", "Conv2d", "shared", "neck.y"),
        ("shared", "Conv2d", "neck.x", "shared"),
        ("head", "Conv2d", "shared", "head"),
    ],
)
def test_the_corrupted_layer_is_named(net, clean, image, tmp_path, module, kind, after, seen) -> None:
    path = corrupt(clean, tmp_path / "bad.onnx", f"{module}.weight")
    found = first_departure(path, net, image)
    assert found is not None
    assert (found.module, found.kind, found.seen, found.after) == (module, kind, seen, after)
    assert found.difference > 1e-2
    assert f'"{module}"' in str(found)


def test_the_last_step_of_forward_is_said(clean: Path, net: TinyNet, image: torch.Tensor, tmp_path: Path) -> None:
    model = onnx.load(str(clean))
    last = next(node for node in model.graph.node if node.output[0] == "logits")
    next(entry for entry in last.attribute if entry.name == "mode").s = b"nearest"
    path = tmp_path / "bad.onnx"
    path.write_bytes(model.SerializeToString())
    found = first_departure(path, net, image)
    assert found is not None
    assert found.module == ""
    assert found.after == "head"
    assert "the last step of forward()" in str(found)


def test_values_that_are_not_finite_depart(clean: Path, net: TinyNet, image: torch.Tensor, tmp_path: Path) -> None:
    found = first_departure(corrupt(clean, tmp_path / "bad.onnx", "neck.x.weight", float("nan")), net, image)
    assert found is not None
    assert found.module == "neck.x"


def test_hooks_are_removed_and_the_mode_is_kept(clean: Path, image: torch.Tensor) -> None:
    net = tiny_net().train()
    first_departure(clean, net, image)
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())


def test_a_layer_with_norm_and_activation_of_one_class(tmp_path: Path, image: torch.Tensor) -> None:
    """timm's norm layers hold the activation: the convolution before them has no value of its own in the file."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1, bias=False), BatchNormAct2d(8), nn.Conv2d(8, 4, 1))
    path = corrupt(to_onnx(net, tmp_path / "a.onnx", SIZE), tmp_path / "bad.onnx", "1.weight")
    found = first_departure(path, net, image)
    assert found is not None
    assert (found.module, found.seen, found.after) == ("1", "2.act", "0")
    assert 'layer "1" (Conv2d) departs first (seen at "2.act"' in str(found)

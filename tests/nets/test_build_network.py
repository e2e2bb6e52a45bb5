"""From names to networks: every name builds, every wrong one says what would be right."""

from __future__ import annotations

import pytest
import torch

from catchweight.errors import UsageError
from catchweight.nets import NetSpec, build_network, describe_network, network_names
from catchweight.nets.encoder_decoder import NECKS, Decoder, EncoderDecoder, options_text, with_options

TINY = "timm/test_efficientnet"
ODD = [(64, 64), (65, 97), (67, 64), (180, 240)]


def small(name: str, **options: object) -> EncoderDecoder:
    net = build_network(name, 5, **options)  # type: ignore[arg-type]
    assert isinstance(net, EncoderDecoder)
    return net


@pytest.mark.parametrize("name", [f"{TINY}+fpn:levels=2-7", f"{TINY}+bifpn:levels=2-9,width=16", "timm/resnet10t"])
def test_any_size_gives_logits_of_that_size(name: str) -> None:
    net = small(name, aux=True).eval()
    for height, width in ODD:
        x = net.normalise(torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8))
        with torch.no_grad():
            assert net(x).shape == (2, 5, height, width)
            parts = net.train_logits(x)
            torch.testing.assert_close(parts[0], net.logits(x))
        assert [p.shape[:2] for p in parts] == [(2, 5)] * 4
        assert parts[0].shape[-2:] == (-(-height // 4), -(-width // 4))


@pytest.mark.parametrize("name", [f"{TINY}+fpn:levels=2-7", f"{TINY}+bifpn:levels=2-9", f"{TINY}:levels=2-4"])
@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_reach_every_parameter(name: str, batch: int) -> None:
    torch.manual_seed(0)
    net = small(name, aux=True, width=0.25).train()
    for part in net.train_logits(torch.randn(batch, 3, 64, 96)):
        (part * torch.randn_like(part)).sum().backward(retain_graph=True)
    dead = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


def test_auxiliary_heads_only_when_asked() -> None:
    net = small(TINY)
    assert len(net.train_logits(torch.randn(2, 3, 64, 64))) == 1
    assert not [n for n, _ in net.named_parameters() if "aux" in n]


def test_width_scales_the_decoder_alone() -> None:
    one, two = small(TINY), small(TINY, width=2.0)
    assert one.head.classifier.in_channels * 2 == two.head.classifier.in_channels == 128
    assert one.feature_info == two.feature_info


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bf16_and_channels_last(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    net = small(f"{TINY}+bifpn:levels=2-9,width=16").eval()
    x = torch.randn(2, 3, 65, 97)
    with torch.no_grad():
        exact = net(x)
        net = net.to(memory_format=layout)
        torch.testing.assert_close(net(x.to(memory_format=layout)), exact, rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = net(x.to(memory_format=layout)).float()
        rough = net.bfloat16()(x.bfloat16().to(memory_format=layout)).float()
    for y in (mixed, rough):
        assert (y - exact).abs().max() < 0.05 * exact.abs().max()


def test_bf16_trains_one_image() -> None:
    net = small(f"{TINY}+bifpn:levels=2-9,width=16").train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = net.train_logits(torch.randn(1, 3, 64, 64))[0].float().square().mean()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_normalise_is_what_the_backbone_was_trained_with() -> None:
    lite = small("timm/tf_efficientnet_lite0")
    images = torch.tensor([0, 127, 255], dtype=torch.uint8).view(1, 1, 1, 3).expand(1, 3, 64, 3)
    torch.testing.assert_close(lite.normalise(images)[0, 0, 0], (torch.tensor([0.0, 127, 255]) - 127) / 128)
    resnet = small("timm/resnet10t")
    assert resnet.normalise(images).dtype == torch.float32
    torch.testing.assert_close(resnet.mean, torch.tensor([0.485, 0.456, 0.406]))


def test_every_listed_name_is_described() -> None:
    names = network_names()
    assert {"eseg_s", "eseg_lite_l", "timm/resnet18+fpn"} <= set(names)
    assert all(describe_network(name) for name in names)
    assert "timm/dpn48b" in describe_network("timm/dpn48b")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("eseg_lite_x", 'unknown network "eseg_lite_x": did you mean "eseg_lite_'),
        ("timm/resnet1", 'did you mean "resnet18"'),
        (f"{TINY}+bifpm", 'did you mean "bifpn"'),
        (f"{TINY}+fpn:widht=3", 'did you mean "width"'),
        (f"{TINY}+fpn:width=wide", 'option width: cannot read "wide"'),
        (f"{TINY}+fpn:levels=4-2", "first < last"),
        (f"{TINY}+fpn:levels=2-12", "last <= 9"),
        (f"{TINY}+fpn:levels=7-9", "first level must be 5 or less"),
        (f"{TINY}+fpn:repeats=3", "FPN has no repeats"),
        (f"{TINY}+fpn:act=silo", 'did you mean "silu"'),
        (f"{TINY}+fpn:resize=nearset", 'did you mean "nearest"'),
        (f"{TINY}+fpn:width=0", "1 or more"),
        ("", "unknown network"),
    ],
)
def test_wrong_names_say_what_would_be_right(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_network(name, 3)


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="classes must be 1 or more, but got 0"):
        build_network(TINY, 0)
    with pytest.raises(UsageError, match="width must lie in"):
        build_network(TINY, 3, width=0)


def test_options_round_trip() -> None:
    changed = Decoder("bifpn", min_level=3, max_level=9, width=40, repeats=2, act="silu", resize="bilinear")
    text = options_text(changed, NECKS["bifpn"])
    assert text == "levels=3-9,width=40,repeats=2,act=silu,resize=bilinear"
    assert with_options(NECKS["bifpn"], text) == changed
    assert options_text(NECKS["fpn"], NECKS["fpn"]) == ""


def test_spec_round_trips_through_json() -> None:
    spec = NetSpec("eseg_s", 11, 1.5, True)
    assert NetSpec.from_json(spec.to_json()) == spec

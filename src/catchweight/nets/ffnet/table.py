"""The published FFNets as one table: what each name stands for.

A name reads ``ffnet_<layers><family>_<d><backbone head><up-head><segmentation head>[_mobile][_pre_down]``:

- family: none = classic ResNet, ``s`` = slim stem and tail, ``n`` = three-stage narrow, ``ns`` = narrower still;
- ``d``: the first stage strides too, so every map has half the size;
- the three letters are heads of type A, B or C; the first one is the head used during ImageNet pre-training, which
  leaves no trace in the architecture;
- ``mobile``: nearest-neighbour instead of bilinear (align-corners) upsampling inside the up-head;
- ``pre_down``: the image is smoothed and halved first (the network of a 512x1024 device fed with 1024x2048).

By parameters ``ffnet_46ns_ccc_mobile`` is the smallest published network (12.53 M at 19 classes), by MACs at equal
input ``ffnet_18_daac``. ``ffnet_22s_*`` and ``ffnet_30s_*`` use backbones of the authors' table for which they
published no segmentation network. All are large for a small CPU: ``width=0.25`` divides every channel count
by four (``ffnet_22s_bcc_mobile`` then has 0.44 M parameters).

Options may follow a colon and replace fields of ``FFNetConfig``:
``ffnet_34_abb:blocks=2-2-2-2,block=bottleneck``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from ...errors import UsageError, unknown

Block = Literal["basic", "bottleneck", "mixed"]
Stem = Literal["classic", "slim", "narrow"]
Head = Literal["A", "B", "C"]


@dataclass(frozen=True)
class FFNetConfig:
    """One architecture; channel counts before ``width`` is applied.

    Args:
        blocks: residual blocks per stage; three stages when ``stem`` is "narrow", else four.
        channels: base channels of the four maps handed to the up-head (bottleneck blocks give four times that).
        strides: stride of each stage.
        dilations: dilation of the 3x3 convolutions of each stage; empty means 1 everywhere.
        block: residual block; "mixed" is ours, a basic block with the receptive field of a bottleneck.
        stem: "classic" = 7x7 stride 2 and 3x3 max-pool; "slim" = two 3x3 stride 2; "narrow" = slim and a third 3x3
            whose output is itself the finest map.
        up, head: type of up-head and of segmentation head.
        smooth: bilinear (align-corners) upsampling in the up-head; else nearest.
        pre_down: halve the image by a fixed Gaussian first.
        divisor: what channel counts are rounded to after ``width``; 1 brings networks to equal cost.
    """

    blocks: tuple[int, ...]
    channels: tuple[int, ...] = (64, 128, 256, 512)
    strides: tuple[int, ...] = (1, 2, 2, 2)
    dilations: tuple[int, ...] = ()
    block: Block = "basic"
    stem: Stem = "classic"
    up: Head = "B"
    head: Head = "B"
    smooth: bool = True
    pre_down: bool = False
    divisor: int = 8


SLIM, NARROW, NARROWER = (64, 128, 192, 320), (64, 96, 160, 320), (64, 64, 128, 256)

BACKBONES: dict[str, FFNetConfig] = {
    "18": FFNetConfig((2, 2, 2, 2)),
    "34": FFNetConfig((3, 4, 6, 3)),
    "50": FFNetConfig((3, 4, 6, 3), block="bottleneck"),
    "56": FFNetConfig((4, 8, 12, 3)),
    "86": FFNetConfig((8, 12, 16, 6)),
    "101": FFNetConfig((3, 4, 23, 3), block="bottleneck"),
    "134": FFNetConfig((8, 18, 28, 12)),
    "150": FFNetConfig((16, 18, 28, 12)),
    "22s": FFNetConfig((2, 3, 3, 2), SLIM, stem="slim"),
    "30s": FFNetConfig((3, 4, 4, 3), SLIM, stem="slim"),
    "40s": FFNetConfig((4, 5, 6, 4), SLIM, stem="slim"),
    "54s": FFNetConfig((5, 8, 8, 5), SLIM, stem="slim"),
    "78s": FFNetConfig((6, 12, 12, 8), SLIM, stem="slim"),
    "86s": FFNetConfig((8, 12, 16, 6), SLIM, stem="slim"),
    "150s": FFNetConfig((16, 18, 28, 12), SLIM, stem="slim"),
    "46n": FFNetConfig((6, 8, 8), NARROW, (2, 2, 2), stem="narrow"),
    "74n": FFNetConfig((8, 12, 16), NARROW, (2, 2, 2), stem="narrow"),
    "122n": FFNetConfig((16, 24, 20), NARROW, (2, 2, 2), stem="narrow"),
    "46ns": FFNetConfig((6, 8, 8), NARROWER, (2, 2, 2), stem="narrow"),
    "74ns": FFNetConfig((8, 12, 16), NARROWER, (2, 2, 2), stem="narrow"),
    "122ns": FFNetConfig((16, 24, 20), NARROWER, (2, 2, 2), stem="narrow"),
}

SLIM_MOBILE = ("150s", "86s", "78s", "54s", "40s")
NARROW_MOBILE = ("122ns", "74ns", "46ns")

NAMES: tuple[str, ...] = (
    *(f"ffnet_{n}_aaa" for n in ("150", "134", "101", "86", "56", "50", "34")),
    *(f"ffnet_{n}_abb" for n in ("150", "86", "56", "34")),
    *(f"ffnet_{n}_bbb" for n in ("150s", "86s")),
    *(f"ffnet_{n}_cbb" for n in ("122n", "74n", "46n")),
    *(f"ffnet_{n}_daaa" for n in ("150", "134", "101", "86", "56", "50", "34", "18")),
    *(f"ffnet_{n}_daac" for n in ("150", "86", "34", "18")),
    *(f"ffnet_{n}_dbbb" for n in ("150s", "86s")),
    *(f"ffnet_{n}_dbbb_mobile" for n in ("86s", "78s", "54s", "40s")),
    *(f"ffnet_{n}_{h}_mobile{p}" for h in ("bbb", "bcc") for p in ("", "_pre_down") for n in SLIM_MOBILE),
    *(f"ffnet_{n}_{h}_mobile{p}" for h in ("cbb", "ccc") for p in ("", "_pre_down") for n in NARROW_MOBILE),
    *(f"ffnet_{n}_{h}_mobile" for n in ("30s", "22s") for h in ("bbb", "bcc")),
)

_HEADS: dict[str, Head] = {"a": "A", "b": "B", "c": "C"}
_NAME = re.compile(r"ffnet_(\d+n?s?)_(d?)[abc]([abc])([abc])(_mobile)?(_pre_down)?")


def _read(name: str) -> FFNetConfig:
    match = _NAME.fullmatch(name)
    assert match is not None, name
    backbone, down, up, head, mobile, pre_down = match.groups()
    base = BACKBONES[backbone]
    return replace(
        base,
        strides=(2, 2, 2, 2) if down else base.strides,
        up=_HEADS[up],
        head=_HEADS[head],
        smooth=mobile is None,
        pre_down=pre_down is not None,
    )


FFNETS: dict[str, FFNetConfig] = {name: _read(name) for name in NAMES}
"""Every name with its architecture."""


def ffnet_config(name: str) -> FFNetConfig:
    """The architecture a name stands for, options included.

    Raises:
        UsageError: unknown name or option (the nearest known one is named), or a value that makes no network.
    """
    base, _, options = name.partition(":")
    if base not in FFNETS:
        raise unknown("FFNet", base, FFNETS)
    config = FFNETS[base]
    for item in filter(None, options.split(",")):
        key, _, value = item.partition("=")
        if key not in _OPTIONS:
            raise unknown("FFNet option", key, _OPTIONS)
        try:
            config = replace(config, **{key: _OPTIONS[key](value)})
        except ValueError as error:
            raise UsageError(f'network "{name}": cannot read {key}={value} ({error})') from None
    _check(name, config)
    return config


def config_name(base: str, config: FFNetConfig) -> str:
    """The name that ``ffnet_config`` reads as ``config``, a variation of ``base`` in the fields that have options.

    >>> config_name("ffnet_34_abb", replace(FFNETS["ffnet_34_abb"], block="bottleneck", strides=(1, 2, 1, 1)))
    'ffnet_34_abb:strides=1-2-1-1,block=bottleneck'
    """
    fixed = FFNETS[base]
    said = []
    for field in fields(FFNetConfig):
        value = getattr(config, field.name)
        if value != getattr(fixed, field.name):
            assert field.name in _OPTIONS, f"{field.name} is part of the base name"
            said.append(f"{field.name}={'-'.join(map(str, value)) if isinstance(value, tuple) else value}")
    return f"{base}:{','.join(said)}" if said else base


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split("-"))
    if min(numbers) < 1:
        raise ValueError("every number must be 1 or more")
    return numbers


def _block(text: str) -> str:
    if text not in get_args(Block):
        raise ValueError(f"blocks are {', '.join(get_args(Block))}")
    return text


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "blocks": _numbers,
    "channels": _numbers,
    "strides": _numbers,
    "dilations": _numbers,
    "block": _block,
    "divisor": lambda text: _numbers(text)[0],
}


def _check(name: str, config: FFNetConfig) -> None:
    stages = 3 if config.stem == "narrow" else 4
    lengths = {"blocks": stages, "channels": 4, "strides": stages, "dilations": stages if config.dilations else 0}
    for key, length in lengths.items():
        if len(getattr(config, key)) != length:
            raise UsageError(f'network "{name}": {key} must be {length} numbers joined by "-"')


def describe(name: str) -> str:
    """One line about the named network."""
    config = FFNETS[name]
    layers = name.split("_")[1].upper()
    kind = "mobile" if not config.smooth else "desktop"
    origin = "our pairing of a published backbone and head" if layers in ("22S", "30S") else "CVPR-W 2022"
    return (
        f"FFNet: ResNet-{layers} of {config.block} blocks, up-head {config.up}, head {config.head}, {kind} ({origin})"
    )

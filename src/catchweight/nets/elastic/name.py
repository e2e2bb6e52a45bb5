"""Names of the family's members: ``elastic/<timm backbone>:depths=1-2-2-2-3-4-1,neck=32,...``.

What is as published need not be written, so ``elastic/tf_efficientnet_lite0`` is ESeg-Lite-S.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ...errors import UsageError, unknown
from ..encoder_decoder import NECKS, Decoder, options_text, with_options
from ..eseg import ESEGS
from .shape import Published, Shape

PREFIX = "elastic/"


def default_decoder(backbone: str) -> Decoder:
    """That of the ESeg with this backbone; else a BiFPN of 64 channels over P2..P9, three times."""
    published = [config.decoder() for config in ESEGS.values() if config.backbone == backbone]
    return published[0] if published else replace(NECKS["bifpn"], max_level=9)


def member_name(published: Published, shape: Shape, decoder: Decoder) -> str:
    """The name that ``build_network`` turns into this member.

    >>> member_name(published, replace(published.shape, stem=16), default_decoder(published.backbone))
    'elastic/tf_efficientnet_lite0:stem=16'
    """
    known = published.shape
    parts = [f"{key}={_list(getattr(shape, key))}" for key in _SHAPE if getattr(shape, key) != getattr(known, key)]
    options = options_text(decoder, default_decoder(published.backbone)).replace("width=", "neck=")
    text = ",".join([*parts, *filter(None, [options])])
    return f"{PREFIX}{published.backbone}{':' if text else ''}{text}"


def parse_options(published: Published, text: str) -> tuple[Shape, Decoder]:
    """What follows the colon of a name, and for the rest what is published.

    Raises:
        UsageError: unknown option, or a value that cannot be read.
    """
    shape, decoder = published.shape, default_decoder(published.backbone)
    for item in filter(None, text.split(",")):
        key, _, value = item.partition("=")
        if key in _SHAPE:
            shape = replace(shape, **{key: _read(key, value)})
        elif key in _DECODER:
            decoder = with_options(decoder, f"{_DECODER[key]}={value}")
        else:
            raise unknown("network option", key, (*_SHAPE, *_DECODER))
    return shape, decoder


def _list(value: Any) -> str:
    return "-".join(f"{entry:g}" for entry in value) if isinstance(value, tuple) else str(value)


def _read(key: str, value: str) -> Any:
    try:
        return _SHAPE[key](value)
    except ValueError as error:
        raise UsageError(f'network option {key}: cannot read "{value}"') from error


def _integers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("-")))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split("-")))


_SHAPE: Mapping[str, Callable[[str], Any]] = {
    "stem": int, "depths": _integers, "widths": _integers, "expand": _numbers,
}  # fmt: skip
_DECODER = {"levels": "levels", "neck": "width", "repeats": "repeats", "act": "act", "resize": "resize"}
"""Options of the decoder, and what they are called behind other networks' names."""

__all__ = ["PREFIX", "default_decoder", "member_name", "parse_options"]

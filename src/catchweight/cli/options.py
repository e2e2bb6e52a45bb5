"""Options that several commands share, and the readers of their values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError

DataPath = Annotated[Path, typer.Argument(metavar="DATA", help="Folder of a data set; its format is found by looking.")]
Format = Annotated[
    str, typer.Option("--format", help="Format of the data set, when looking is not enough; a wrong one lists all.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads of the runtime. Default: the physical cores.")
]
Target = Annotated[
    str,
    typer.Option(
        "--target", help="Where latency counts, runtime:device[:precision]; `catchweight targets` lists them."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, e.g. train.lr=0.002. May be repeated."),
]
Size = Annotated[
    str | None,
    typer.Option(
        "--size",
        metavar="HxW",
        help="Input height x width in pixels, e.g. 180x240. Default: that of the images or the file.",
    ),
]
Weights = Annotated[
    str,
    typer.Option("--weights", help="Backbone weights: auto, none, offline (pip packages), hub (download), or a file."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="One seed for split, order, augmentation, initial weights.")]
Split = Annotated[str, typer.Option("--split", help="Which split of the data set.")]


def parse_size(text: str | None) -> tuple[int, int] | None:
    """``180x240`` to (180, 240): height first, as everywhere here.

    Raises:
        UsageError: not two whole numbers, or below 64.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d{1,6})\s*[xX,]\s*(\d{1,6})\s*", text)
    if match is None:
        raise UsageError(f'"{text}" is not a size: write height x width, e.g. --size 180x240')
    height, width = int(match.group(1)), int(match.group(2))
    if min(height, width) < 64 or max(height, width) > 8192:
        raise UsageError(f"size {height}x{width} is out of range: each side must have 64 to 8192 pixels")
    return height, width


def parse_minutes(text: str | None) -> float | None:
    """``20m``, ``1.5h``, ``90s`` or a bare number of minutes.

    Raises:
        UsageError: anything else, or not positive.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h)?\s*", text)
    minutes = float(match.group(1)) * {"s": 1 / 60, "h": 60.0}.get(match.group(2) or "m", 1.0) if match else 0.0
    if minutes <= 0:
        raise UsageError(f'"{text}" is not a time: write for example --time 20m, 1.5h or 90s')
    return minutes

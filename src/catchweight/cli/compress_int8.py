"""The int8 step of ``catchweight compress``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..compress.quantize import QuantizeResult, QuantizeSettings
    from ..data import SegmentationData
    from ..train import Recipe

Tolerance = Annotated[
    float | None,
    typer.Option(
        "--tolerance",
        min=0.0,
        help="Points of val mIoU that a step may cost; 0.5 is 0.005 of mIoU. Default: 0.5 for int8, any for --prune, "
        "which says what it cost.",
    ),
]


def int8(
    network: Path,
    data: SegmentationData | Path,
    out: Path,
    *,
    tolerance: float = 0.5,
    target: str = "onnxruntime:cpu",
    threads: int | None = None,
    size: tuple[int, int] | None = None,
    settings: QuantizeSettings | None = None,
    recipe: Recipe | None = None,
    say: Callable[[str], None] = print,
) -> QuantizeResult:
    """Quantise a checkpoint or an exported file; int8 is kept only if it is faster here and within the tolerance.

    Args:
        network: a checkpoint (.pt) or an exported file (.onnx).
        data: the data set it was trained on, opened as it was then, or its path.
        out: the step's own run folder; the same request goes on in it.
        tolerance: points of val mIoU.
        target, threads: where latency counts.
        size: (H, W) to export a checkpoint for; default: its own.
        recipe: of a fine-tuning.
        say: receives progress lines, the verdict last.

    Returns:
        The verdict; a refusal is a result like any other: ``file`` is then the float file.
    """
    from ..compress.quantize import quantize
    from ..targets import Target

    place = Target.parse(target, threads=threads)
    return quantize(
        network, data, target=place, tolerance=tolerance, folder=out, size=size, settings=settings, recipe=recipe,
        say=say,
    )  # fmt: skip

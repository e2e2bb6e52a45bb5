"""The int8 graph as NNCF makes it, beside our own: https://github.com/openvinotoolkit/nncf (Apache 2.0)."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
import onnx

from ...errors import CatchweightError, UsageError
from ...targets.runtimes.quantized import saturates

NNCF = "nncf"
"""The name among the ways to choose ranges; it also decides where to round, and corrects biases itself."""


class NncfError(CatchweightError):
    """NNCF cannot quantise a graph; other ways of choosing ranges may."""


def require_nncf() -> None:
    """Raises UsageError where NNCF is not installed."""
    if importlib.util.find_spec("nncf") is None:
        raise UsageError('int8.methods names "nncf", which is not installed: pip install "catchweight[nncf]"')


def nncf_graph(
    model: onnx.ModelProto, images: Iterable[np.ndarray], left_float: Collection[str] = ()
) -> onnx.ModelProto:  # fmt: skip
    """Post-training quantisation by NNCF: weights for each channel, activations with a zero point, biases corrected.

    Args:
        model: float, prepared; stays as it is.
        images: (B, 3, H, W) float32, normalised: what it is calibrated on.
        left_float: names of nodes that stay float.

    Raises:
        UsageError: NNCF is not installed.
        NncfError: NNCF cannot quantise the graph.
    """
    require_nncf()
    os.environ.setdefault("NNCF_CI", "1")  # it would report its use over the network
    with _silence():
        import nncf
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

        entry = model.graph.input[0].name
        items: list[Any] = [{entry: image} for image in images]
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        try:
            return nncf.quantize(
                copy,
                nncf.Dataset(items),
                subset_size=len(items),
                preset=nncf.QuantizationPreset.MIXED,
                ignored_scope=nncf.IgnoredScope(names=sorted(left_float), validate=False) if left_float else None,
                advanced_parameters=AdvancedQuantizationParameters(
                    overflow_fix=OverflowFix.ENABLE if saturates() else OverflowFix.DISABLE
                ),
            )
        except Exception as error:  # NNCF's errors have no common base
            reason = (str(error).splitlines() or [""])[0]
            raise NncfError(f"NNCF cannot quantise this graph ({type(error).__name__}: {reason})") from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Neither progress bars nor the notes of NNCF and of what it imports."""
    known = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(known)


__all__ = ["NNCF", "NncfError", "nncf_graph", "require_nncf"]

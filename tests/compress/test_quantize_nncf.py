"""int8 graphs by NNCF go through the same trials, checks and verdicts as ours."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from quantize_files import colour_model, stripe_data, write
from test_quantize_run import QUICK, pace

from catchweight.compress.quantize import nncf_graph, quantize
from catchweight.data import SegmentationData
from catchweight.deploy.export import read_meta
from catchweight.errors import UsageError
from catchweight.targets.runtimes.quantized import is_quantized

NNCF = QUICK.model_copy(update={"methods": ("nncf",), "equalise": False})


@pytest.fixture
def data(tmp_path: Path) -> SegmentationData:
    return stripe_data(tmp_path / "data")


@pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason='needs NNCF: pip install "catchweight[nncf]"')
def test_a_graph_by_nncf_is_accepted_checked_and_partly_float(tmp_path: Path, data: SegmentationData) -> None:
    path = write(colour_model(), tmp_path / "float.onnx")
    found = quantize(path, data, timer=pace(1.0), folder=tmp_path / "run", settings=NNCF, say=lambda line: None)
    assert found.accepted, found.reason
    assert is_quantized(found.file)
    assert read_meta(found.file)["int8"]["ranges"] == "nncf"
    assert found.check is not None
    assert found.check["passed"]
    blunt = write(colour_model(blunt=3000), tmp_path / "blunt.onnx")
    hard = NNCF.model_copy(update={"most_float": 1.0})
    found = quantize(blunt, data, timer=pace(1.0), folder=tmp_path / "hard", settings=hard, say=lambda line: None)
    assert found.accepted, found.reason
    assert found.kept_float, "eight bits destroy one of its layers, which goes back to float"


def test_without_nncf_it_is_said_before_anything_is_done(
    tmp_path: Path, data: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nncf_graph.importlib.util, "find_spec", lambda name: None)
    path = write(colour_model(), tmp_path / "float.onnx")
    with pytest.raises(UsageError, match=r"pip install \"catchweight\[nncf\]\""):
        quantize(path, data, folder=tmp_path / "run", settings=NNCF)
    assert not (tmp_path / "run").exists()

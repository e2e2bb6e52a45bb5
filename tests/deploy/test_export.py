"""The shipped file: metadata inside and beside it, and a file a device can serve."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from exported import CLASSES, SIZE, tiny_net

from catchweight import __version__
from catchweight.data.classes import ClassSet
from catchweight.deploy.export import export, git_commit, read_meta
from catchweight.deploy.segmenter import Segmenter
from catchweight.errors import CatchweightError
from catchweight.targets import to_onnx


def test_metadata_round_trip_inside_and_beside(tmp_path: Path) -> None:
    net = tiny_net()
    path = export(net, tmp_path / "model.onnx", size=SIZE, classes=CLASSES, meta={"score": 0.61, "classes": "no"})
    facts = read_meta(path)
    assert facts == json.loads((tmp_path / "model.json").read_text())
    assert [entry["name"] for entry in facts["classes"]] == list(CLASSES.names)
    assert [tuple(entry["color"]) for entry in facts["classes"]] == list(CLASSES.colors)
    assert facts["mean"] == pytest.approx(net.mean.tolist())
    assert facts["std"] == pytest.approx(net.std.tolist())
    assert facts["network"] == net.spec.to_json()
    assert (facts["size"], facts["size_policy"], facts["batch"]) == ([64, 72], {"fixed": [64, 72]}, 1)
    assert (facts["score"], facts["version"], facts["ignore_index"]) == (0.61, __version__, 255)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.json", "model.onnx"]


def test_a_device_can_serve_it(tmp_path: Path) -> None:
    path = export(tiny_net(), tmp_path / "model.onnx", size=SIZE, classes=CLASSES, dynamic=True)
    assert read_meta(path)["size_policy"] == {"dynamic": {"multiple": 1}}
    assert read_meta(path)["batch"] is None
    segmenter = Segmenter(path)
    assert segmenter.names == CLASSES.names
    assert segmenter(np.zeros((50, 40, 3), np.uint8)).shape == (50, 40)


def test_classes_must_be_those_it_was_trained_on(tmp_path: Path) -> None:
    with pytest.raises(CatchweightError, match="predicts 4 classes, but the class set names 2"):
        export(tiny_net(), tmp_path / "model.onnx", size=SIZE, classes=ClassSet(("a", "b")))
    assert not list(tmp_path.iterdir())


def test_files_without_metadata_are_named(tmp_path: Path) -> None:
    path = to_onnx(tiny_net(), tmp_path / "bare.onnx", SIZE)
    with pytest.raises(CatchweightError, match="bare.onnx.*without Catchweight metadata"):
        read_meta(path)


def test_git_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit() is None
    (tmp_path / "a").write_text("1")
    who = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "a"], [*who, "commit", "-qm", "a"]):
        subprocess.run(["git", *arguments], check=True)
    clean = git_commit()
    assert clean is not None
    assert len(clean) == 40
    (tmp_path / "a").write_text("2")
    assert git_commit() == f"{clean}+changes"

"""Scoring files: the exported one and the checkpoint through the same evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from colour_file import CLASSES, stripes, stripes_mask, write_colour_file
from PIL import Image
from rich.console import Console

from catchweight.data import ClassSet, SegmentationData, open_data
from catchweight.data.loading import EvalLoader
from catchweight.deploy.evaluate import evaluate_file, table
from catchweight.deploy.export import export
from catchweight.errors import CatchweightError, UsageError
from catchweight.nets import build_network, save_network
from catchweight.train.evaluate import eager_predict, evaluate
from conftest import CAMVID, needs_camvid

NAMES = tuple(str(entry["name"]) for entry in CLASSES)


@pytest.fixture
def data(tmp_path: Path) -> SegmentationData:
    """Striped pictures of several sizes; in two of five masks a third of the pixels is mislabelled."""
    root = tmp_path / "data"
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        (root / "masks" / split).mkdir(parents=True)
        for index in range(5):
            height, width = 60 + 12 * index, 66 + 6 * index
            Image.fromarray(stripes(height, width)).save(root / "images" / split / f"{index}.png")
            mask = stripes_mask(height, width)
            if index >= 3:
                mask[mask == 0] = 2
            Image.fromarray(mask).save(root / "masks" / split / f"{index}.png")
    (root / "classes.json").write_text(json.dumps({"classes": NAMES}))
    return open_data(root)


@pytest.mark.parametrize("batch", [1, 4, "batch"])
def test_an_exported_file_is_scored_on_any_split(data: SegmentationData, tmp_path: Path, batch: int | str) -> None:
    path = write_colour_file(tmp_path / "m.onnx", size=(120, 132), batch=batch)
    for split in ("train", "val"):
        score = evaluate_file(path, data, split, batch=3, threads=1)
        pixels = [mask.size for mask in (data.read(record).mask for record in data.splits[split])]
        right = (sum(pixels) - sum(pixels[3:]) / 3) / sum(pixels)
        assert score.pixel_accuracy == pytest.approx(right, abs=0.02)
        assert score.per_class["green"] > 0.95 > score.per_class["red"]
        assert len(score.per_image) == 5


def test_a_checkpoint_scores_as_its_network_does(data: SegmentationData, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = build_network("ffnet_22s_bcc_mobile", 3, width=0.25)
    save_network(tmp_path / "m.pt", net, {"classes": data.classes.to_json(), "size": [64, 64]})
    expected = evaluate(eager_predict(net), EvalLoader(data, "val", (64, 64), 5), data.classes)
    score = evaluate_file(tmp_path / "m.pt", data, batch=2, boundary=True)
    np.testing.assert_array_equal(score.confusion, expected.confusion)
    assert score.boundary_f is not None


def test_a_size_the_file_does_not_take_is_refused(data: SegmentationData, tmp_path: Path) -> None:
    path = write_colour_file(tmp_path / "m.onnx", size=(64, 64))
    with pytest.raises(UsageError, match="takes images of 64x64 only, not 80x64"):
        evaluate_file(path, data, size=(80, 64))


def test_other_classes_are_refused(data: SegmentationData, tmp_path: Path) -> None:
    path = write_colour_file(tmp_path / "m.onnx")
    other = open_data(data.root)
    object.__setattr__(other, "classes", ClassSet(("green", "red", "blue <b>")))
    with pytest.raises(CatchweightError, match="classes"):
        evaluate_file(path, other)


def test_unknown_kinds_and_splits_are_usage_errors(data: SegmentationData, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.onnx or \.pt"):
        evaluate_file(tmp_path / "m.h5", data)
    with pytest.raises(UsageError, match="tset"):
        evaluate_file(write_colour_file(tmp_path / "m.onnx"), data, "tset")


def test_a_checkpoint_without_notes_says_what_is_missing(data: SegmentationData, tmp_path: Path) -> None:
    save_network(tmp_path / "m.pt", build_network("ffnet_22s_bcc_mobile", 3, width=0.25))
    with pytest.raises(CatchweightError, match="does not say its classes"):
        evaluate_file(tmp_path / "m.pt", data)


def test_the_table_names_every_class_literally(data: SegmentationData, tmp_path: Path) -> None:
    score = evaluate_file(write_colour_file(tmp_path / "m.onnx"), data)
    console = Console(width=60, record=True, file=(tmp_path / "out").open("w"))
    console.print(table(score, "val of [data]"))
    text = console.export_text()
    assert all(name in text for name in (*NAMES, "mIoU", "pixel accuracy", "val of [data]"))
    order = sorted(NAMES, key=lambda name: -score.per_class[name])
    assert [text.index(name) for name in order] == sorted(text.index(name) for name in order)


@pytest.mark.slow
@needs_camvid
def test_exported_and_eager_score_the_same_on_camvid(tmp_path: Path) -> None:
    """mIoU of the file within 0.05 points of the network's, as served and as trained."""
    data = open_data(CAMVID)
    torch.manual_seed(0)
    net = build_network("ffnet_22s_bcc_mobile", len(data.classes), width=0.25)
    size = (180, 240)
    path = export(net, tmp_path / "m.onnx", size=size, classes=data.classes)
    save_network(tmp_path / "m.pt", net, {"classes": data.classes.to_json(), "size": list(size)})
    served, trained = (evaluate_file(file, data, "val") for file in (path, tmp_path / "m.pt"))
    assert served.miou == pytest.approx(trained.miou, abs=5e-4)

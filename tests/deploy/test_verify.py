"""A good file passes on real pixels, a wrong one fails and names the layer, and nothing is deleted."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from exported import CLASSES, SIZE, TinyNet, batches, tiny_net
from test_bisect import corrupt

from catchweight.data import ClassSet, open_data
from catchweight.data.loading import EvalLoader
from catchweight.deploy.export import export
from catchweight.deploy.verify import verify
from catchweight.errors import CatchweightError, UsageError
from catchweight.nets import build_network
from catchweight.train.evaluate import eager_predict, evaluate
from conftest import CAMVID, needs_camvid


@pytest.fixture(scope="module")
def net() -> TinyNet:
    return tiny_net()


@pytest.fixture(scope="module")
def good(net: TinyNet, tmp_path_factory) -> Path:
    return export(net, tmp_path_factory.mktemp("onnx") / "a.onnx", size=SIZE, classes=CLASSES)


def test_a_good_file_passes(net: TinyNet, good: Path) -> None:
    result = verify(good, net, batches(), CLASSES)
    assert result.passed
    assert result.departure is None
    assert result.max_rel_diff < 1e-5
    assert result.changed_share < 1e-3
    assert result.images == 5
    expected = evaluate(eager_predict(net), batches(), CLASSES).miou
    assert result.miou_eager == expected
    assert result.miou_onnx == pytest.approx(expected, abs=5e-4)
    assert "computes what was trained" in result.message
    assert json.loads(json.dumps(result.to_json()))["passed"] is True


def test_a_corrupted_layer_fails_and_is_named(net: TinyNet, good: Path, tmp_path: Path) -> None:
    path = corrupt(good, tmp_path / "bad.onnx", "neck.x.weight", 3.0)
    result = verify(path, net, batches(), CLASSES)
    assert not result.passed
    assert result.departure is not None
    assert result.departure.module == "neck.x"
    assert 'layer "neck.x" (Conv2d) departs first' in result.message
    assert "logits differ" in result.message
    assert path.exists()
    assert json.loads(json.dumps(result.to_json()))["departure"]["module"] == "neck.x"


def test_a_file_of_other_weights_fails_from_the_first_layer(good: Path) -> None:
    result = verify(good, tiny_net(seed=1), batches(), CLASSES)
    assert result.departure is not None
    assert result.departure.module == "stem.0"
    assert result.changed_share > 1e-3


def test_not_a_number_fails(net: TinyNet, good: Path, tmp_path: Path) -> None:
    result = verify(corrupt(good, tmp_path / "bad.onnx", "head.weight", float("nan")), net, batches(), CLASSES)
    assert not result.passed
    assert result.departure is not None
    assert result.departure.module == "head"


def test_limits_are_the_callers(net: TinyNet, good: Path, tmp_path: Path) -> None:
    path = corrupt(good, tmp_path / "bad.onnx", "head.weight", 1.01)
    assert not verify(path, net, batches(), CLASSES).passed
    assert verify(path, net, batches(), CLASSES, rel=0.1, pixels=1, miou=1).passed


def test_free_files_are_tried_at_odd_sizes_too(net: TinyNet, tmp_path: Path) -> None:
    path = export(net, tmp_path / "a.onnx", size=SIZE, classes=CLASSES, dynamic=True)
    result = verify(path, net, batches(per_batch=3), CLASSES)
    assert result.passed, result.message
    assert result.images == 8  # five of the loader, one at each odd size


def test_a_fixed_batch_larger_than_the_loaders(net: TinyNet, tmp_path: Path) -> None:
    path = export(net, tmp_path / "a.onnx", size=SIZE, classes=CLASSES, batch=4)
    assert verify(path, net, batches(), CLASSES).passed
    bad = corrupt(path, tmp_path / "bad.onnx", "down.weight", 2.0)
    assert 'layer "down"' in verify(bad, net, batches(), CLASSES).message


def test_a_network_or_data_of_other_classes_is_refused(good: Path, net: TinyNet) -> None:
    with pytest.raises(CatchweightError, match="predicts 4 classes, the network 3"):
        verify(good, build_network("timm/test_efficientnet+fpn:width=8", 3), batches(), CLASSES)
    with pytest.raises(CatchweightError, match=r"but the data set has 4 \(road, sky, tree, cat"):
        verify(good, net, batches(), ClassSet(("road", "sky", "tree", "cat")))


def test_no_images_and_images_of_another_size(net: TinyNet, good: Path) -> None:
    with pytest.raises(UsageError, match="no image"):
        verify(good, net, [], CLASSES)
    with pytest.raises(UsageError, match="64x72.*but got 64x64"):
        verify(good, net, batches(size=(64, 64)), CLASSES)


def test_the_network_is_unchanged(net: TinyNet, good: Path) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    verify(good, net, batches(), CLASSES)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.slow
@needs_camvid
def test_a_whole_network_on_real_images(tmp_path: Path) -> None:
    data = open_data(CAMVID)
    torch.manual_seed(0)
    net = build_network("eseg_lite_s", len(data.classes), weights="offline")
    path = export(net, tmp_path / "a.onnx", size=(180, 240), classes=data.classes)
    images = list(islice(EvalLoader(data, "val", (180, 240), 4), 5))
    result = verify(path, net, images, data.classes)
    assert result.passed, result.message
    bad = corrupt(path, tmp_path / "bad.onnx", "backbone.net.blocks.2.1.conv_pw.weight")
    wrong = verify(bad, net, images, data.classes)
    assert wrong.departure is not None
    assert wrong.departure.module == "backbone.net.blocks.2.1.conv_pw"

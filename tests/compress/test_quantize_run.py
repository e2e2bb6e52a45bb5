"""The verdict on int8: kept where it is faster and within tolerance, refused with the figures where it is not."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from quantize_files import SIZE, colour_model, stripe_data, stripes, write

import catchweight.compress.quantize.trials as trials_module
from catchweight.cli.compress_int8 import int8 as int8_step
from catchweight.compress.quantize import Latency, QuantizeResult, QuantizeSettings, Recipe, Timer, quantize
from catchweight.compress.quantize.check import FileCheck, check_file
from catchweight.compress.quantize.images import Images, spaced
from catchweight.compress.quantize.trials import PLAIN, Trials
from catchweight.data import SegmentationData, open_data
from catchweight.deploy.bench import bench
from catchweight.deploy.evaluate import evaluate_file
from catchweight.deploy.export import read_meta
from catchweight.deploy.segmenter import Segmenter
from catchweight.errors import CatchweightError, UsageError
from catchweight.files import read_json, write_json
from catchweight.nets import build_network, save_network
from catchweight.targets import Target
from catchweight.targets.runtimes.quantized import is_quantized

QUICK = QuantizeSettings(methods=("minmax",), images=3, probe=2, seconds=0.5)


def pace(int8_ms: float, float_ms: float = 3.0) -> Timer:
    """Verdicts must not depend on what this machine does meanwhile: every int8 file takes the same time."""

    def timer(plain: Path, int8: Path) -> Latency:
        assert is_quantized(int8)
        assert not is_quantized(plain)
        speedup = float_ms / int8_ms
        return Latency(float_ms, int8_ms, speedup, 0.9 * speedup, 1.1 * speedup)

    return timer


@pytest.fixture
def data(tmp_path: Path) -> SegmentationData:
    return stripe_data(tmp_path / "data")


def attempt(
    tmp_path: Path, data: SegmentationData, *, blunt: float = 1.0, folder: str = "run", int8_ms: float = 1.0,
    settings: QuantizeSettings = QUICK, tolerance: float = 0.5,
) -> QuantizeResult:  # fmt: skip
    path = write(colour_model(blunt=blunt), tmp_path / f"float{blunt:g}.onnx")
    return quantize(
        path, data, timer=pace(int8_ms), tolerance=tolerance, folder=tmp_path / folder, settings=settings,
        say=lambda line: None,
    )  # fmt: skip


def test_int8_is_kept_where_it_is_faster_and_as_good(tmp_path: Path, data: SegmentationData) -> None:
    result = attempt(tmp_path, data)
    assert result.accepted, result.reason
    assert result.file == tmp_path / "run" / "int8.onnx"
    assert is_quantized(result.file)
    assert result.latency is not None
    assert 1.5 < result.latency.low <= result.latency.speedup <= result.latency.high
    assert result.float_score > 0.9
    assert result.int8_score == pytest.approx(evaluate_file(result.file, data).miou)
    assert result.kept_float == ()
    assert "accepted" in result.reason
    told = json.loads((tmp_path / "run" / "int8.verdict.json").read_text())
    assert told["accepted"] is True
    assert told["check"]["passed"] is True
    assert not (tmp_path / "run" / "attempt.onnx").exists()


def test_the_int8_file_serves_as_the_float_file_does(tmp_path: Path, data: SegmentationData) -> None:
    result = attempt(tmp_path, data)
    plain, quantised = Segmenter(result.float_file, threads=1), Segmenter(result.file, threads=1)
    assert (quantised.names, quantised.colors, quantised.size) == (plain.names, plain.colors, plain.size)
    picture = stripes(60, 66, 30)
    assert (plain(picture) == quantised(picture)).mean() > 0.97
    facts = read_meta(result.file)
    assert facts == json.loads(result.file.with_suffix(".json").read_text())
    assert facts["precision"] == "int8"
    assert facts["int8"]["ranges"] == "minmax"
    rows = bench([result.float_file, result.file], threads=1, seconds=0.1)
    assert [row.path for row in rows[:2]] == [result.float_file, result.file]


def test_int8_that_is_not_faster_is_refused_and_says_so(tmp_path: Path, data: SegmentationData) -> None:
    result = attempt(tmp_path, data, int8_ms=4.0)
    assert not result.accepted
    assert result.file == result.float_file
    assert "int8 is not faster here" in result.reason
    assert "ms float" in result.reason
    assert not (tmp_path / "run" / "int8.onnx").exists()


def test_layers_go_back_to_float_until_the_score_holds(tmp_path: Path, data: SegmentationData) -> None:
    off = QUICK.model_copy(update={"equalise": False, "correct_bias": False, "most_float": 1.0})
    coarse = attempt(tmp_path, data, blunt=3000, settings=off.model_copy(update={"search": False}))
    assert not coarse.accepted, "one channel is so large that eight bits leave nothing of the others"
    assert coarse.int8_score is not None
    assert coarse.int8_score < coarse.float_score - 0.005
    assert "points of val mIoU" in coarse.reason
    found = attempt(tmp_path, data, blunt=3000, folder="searched", settings=off)
    assert found.accepted, found.reason
    assert 0 < len(found.kept_float) < 5
    assert found.int8_score is not None
    assert found.int8_score >= found.float_score - 0.005
    assert read_meta(found.file)["int8"]["float_layers"] == list(found.kept_float)
    hopeless = attempt(
        tmp_path, data, blunt=3000, folder="hopeless", settings=off.model_copy(update={"most_float": 0.0})
    )
    assert not hopeless.accepted


def test_a_mix_that_is_accurate_and_no_longer_faster_is_too_coarse(tmp_path: Path, data: SegmentationData) -> None:
    """All in int8 it is faster, with as many layers in float as the score asks for it is not: training may help."""
    path = write(colour_model(blunt=3000), tmp_path / "float.onnx")
    speeds = iter([1.0])

    def timer(plain: Path, int8: Path) -> Latency:
        return pace(next(speeds, 5.0))(plain, int8)

    off = QUICK.model_copy(update={"equalise": False, "correct_bias": False, "most_float": 1.0})
    found = quantize(path, data, timer=timer, folder=tmp_path / "run", settings=off, say=lambda line: None)
    assert not found.accepted
    assert "layers in float, but" in found.reason
    assert found.too_coarse
    assert not attempt(tmp_path, data, folder="slow", int8_ms=5.0).too_coarse


def test_equalisation_is_taken_where_it_helps(tmp_path: Path, data: SegmentationData) -> None:
    result = attempt(tmp_path, data, blunt=3000)
    assert result.accepted, result.reason
    assert result.recipe is not None
    assert result.recipe.graph == "equalised"
    errors = json.loads((tmp_path / "run" / "attempts.json").read_text())
    plain, equalised = (errors[f"error on others, minmax ranges, {name}"]["error"] for name in ("plain", "equalised"))
    assert equalised < 0.1 * plain


def test_what_cannot_be_told_apart_is_refused_and_measured_again(tmp_path: Path, data: SegmentationData) -> None:
    unsure = attempt(tmp_path, data, int8_ms=2.9)
    assert not unsure.accepted
    assert "cannot be told apart" in unsure.reason
    assert attempt(tmp_path, data, int8_ms=1.0).accepted, "the second call was on a quieter machine"
    assert attempt(tmp_path, data, int8_ms=9.0).accepted, "what was decided stays"


class Killed(BaseException):
    """What a kill looks like from inside."""


def test_killed_at_any_line_it_goes_on_to_the_same_verdict(
    tmp_path: Path, data: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(colour_model(), tmp_path / "float.onnx")
    lines = 0

    def killing(line: str) -> None:
        nonlocal lines
        lines += 1
        raise Killed

    def call(say) -> QuantizeResult:  # noqa: ANN001
        return quantize(path, data, timer=pace(1.0), folder=tmp_path / "run", settings=QUICK, say=say)

    while lines < 4:
        with pytest.raises(Killed):
            call(killing)
        assert (tmp_path / "run" / "attempts.json").exists()
    result = call(lambda line: None)
    assert result.accepted
    # Everything has been done: nothing is read again, not even the pictures.
    monkeypatch.setattr(SegmentationData, "image", None)
    monkeypatch.setattr(SegmentationData, "read", None)
    assert call(lambda line: None).to_json() == result.to_json()


def begin(network: Path, data: SegmentationData, folder: Path) -> None:
    """A job that is accepted in ``folder`` and killed at once."""

    def killed(line: str) -> None:
        raise Killed

    with pytest.raises(Killed):
        quantize(network, data, timer=pace(1.0), folder=folder, settings=QUICK, say=killed)


def test_a_checkpoint_is_known_by_its_network(tmp_path: Path, data: SegmentationData) -> None:
    """Pruning measures again with every call and notes that in its file: the network is the same."""
    path, run, meta = tmp_path / "m.pt", tmp_path / "run", {"classes": data.classes.to_json(), "size": [64, 96]}
    net, other = (build_network("timm/test_resnet+fpn:width=8", 3) for _ in range(2))
    for latency in (5.01, 5.02):
        save_network(path, net, {**meta, "pruned": {"latency_ms": latency}})
        begin(path, data, run)
    in_older_words(run, weights=hashlib.sha256(path.read_bytes()).hexdigest())
    begin(path, data, run)
    for changed, size in ((other, [64, 96]), (net, [64, 64])):
        save_network(path, changed, {**meta, "size": size})
        with pytest.raises(CatchweightError, match="differs in: weights"):
            begin(path, data, run)


def test_other_images_are_another_request(tmp_path: Path, data: SegmentationData) -> None:
    """Which images are which decides scores; earlier versions remembered where they lie."""
    path = write(colour_model(), tmp_path / "m.onnx")
    begin(path, data, tmp_path / "run")
    train = data.splits["train"]
    other = replace(data, splits={"train": train[1:], "val": train[:1]})
    with pytest.raises(CatchweightError, match="differs in: data"):
        begin(path, other, tmp_path / "run")
    in_older_words(tmp_path / "run", data=str(data.root))
    begin(path, data, tmp_path / "run")


def in_older_words(run: Path, **words: str) -> None:
    """Let the folder be one that an earlier version began."""
    known = read_json(run / "run.json")
    known["request"] |= words
    write_json(run / "run.json", known)


def test_a_file_that_takes_several_images_is_scored_on_all(tmp_path: Path, data: SegmentationData) -> None:
    """Four images by three: the second run is filled up."""
    single = attempt(tmp_path, data)
    result = quantize(
        write(colour_model(batch=3), tmp_path / "three.onnx"), data, timer=pace(1.0), folder=tmp_path / "three",
        settings=QUICK, say=lambda line: None,
    )  # fmt: skip
    assert result.accepted, result.reason
    assert result.float_score == pytest.approx(single.float_score)
    assert result.int8_score == pytest.approx(evaluate_file(result.file, data).miou)


def test_every_file_is_checked_that_is_another(
    tmp_path: Path, data: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(colour_model(), tmp_path / "float.onnx")
    trials = Trials(file, data, Target.parse("onnxruntime:cpu", threads=1), QUICK, tmp_path)
    recipe, checked = Recipe(PLAIN, "minmax"), []

    def checking(path: Path, *others: object) -> FileCheck:
        checked.append(path.read_bytes())
        return check_file(path, *others)

    monkeypatch.setattr(trials_module, "check_file", checking)
    for kept in ([], list(trials.layers.names[:1]), []):
        path = trials.write(tmp_path / "int8.onnx", recipe, kept)
        assert trials.check(path, recipe, kept).images == 4
        assert path.read_bytes() in checked
    assert len(checked) == 2


def test_a_checkpoint_is_exported_and_quantised_and_the_verdict_follows_the_figures(
    tmp_path: Path, data: SegmentationData
) -> None:
    net = build_network("timm/resnet10t+fpn", 3, width=0.25)
    save_network(tmp_path / "m.pt", net, {"classes": data.classes.to_json(), "size": [64, 96]})
    lines: list[str] = []
    result = int8_step(
        tmp_path / "m.pt",
        tmp_path / "data",
        tmp_path / "out",
        tolerance=100,
        threads=1,
        settings=QUICK,
        say=lines.append,
    )
    assert result.latency is not None
    assert result.accepted == (result.latency.faster and result.check is not None and result.check["passed"])
    assert Segmenter(result.file, threads=1).names == data.classes.names
    assert result.float_file == tmp_path / "out" / "float.onnx"
    assert any(result.reason in line for line in lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "torch:cpu"}, "does not serve"),
        ({"tolerance": -1.0}, "0 or more"),
        ({"settings": QuantizeSettings(methods=("entropi",))}, 'did you mean "entropy"'),
        ({"settings": QuantizeSettings(methods=())}, "at least one"),
        ({"network": "model.txt"}, "cannot read"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, data: SegmentationData, change: dict[str, object], message: str
) -> None:
    arguments = {"network": write(colour_model(), tmp_path / "m.onnx"), "folder": tmp_path / "run", **change}
    with pytest.raises(CatchweightError, match=message):
        quantize(data=data, **arguments)  # type: ignore[arg-type]


def test_other_classes_and_other_requests_are_refused(tmp_path: Path, data: SegmentationData) -> None:
    path = write(colour_model(), tmp_path / "m.onnx")
    shutil.copytree(data.root, tmp_path / "other")
    (tmp_path / "other" / "classes.json").write_text(json.dumps({"classes": ["a", "b", "c"]}))
    with pytest.raises(CatchweightError, match="trained on"):
        quantize(path, open_data(tmp_path / "other"), folder=tmp_path / "wrong", settings=QUICK)
    attempt(tmp_path, data)
    with pytest.raises(CatchweightError, match="tolerance"):
        attempt(tmp_path, data, tolerance=2.0)
    free = colour_model()
    free.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(UsageError, match="fixed shapes"):
        quantize(write(free, tmp_path / "free.onnx"), data, folder=tmp_path / "free", settings=QUICK)
    with pytest.raises(UsageError, match="already"):
        quantize(tmp_path / "run" / "int8.onnx", data, folder=tmp_path / "twice", settings=QUICK)
    (tmp_path / "m.txt").write_text("")
    with pytest.raises(UsageError, match="checkpoint"):
        quantize(tmp_path / "m.txt", data, folder=tmp_path / "text", settings=QUICK)


def test_images_are_those_of_training_and_two_selections_do_not_meet(data: SegmentationData, tmp_path: Path) -> None:
    segmenter = Segmenter(write(colour_model(), tmp_path / "m.onnx"), threads=1)
    first = Images(data, segmenter, "train", 2)
    batches = list(first)
    assert len(first) == len(batches) == 2
    assert batches[0].shape == (1, 3, *SIZE)
    assert batches[0].dtype == np.float32
    assert spaced(100, 4) == [0, 25, 50, 75]
    assert spaced(3, 10) == [0, 1, 2]
    many = replace(data, splits={**data.splits, "train": data.splits["train"] * 92})
    for count, probe in ((64, 16), (360, 16), (368, 16)):
        settings = QuantizeSettings(images=count, probe=probe)
        trials = Trials(segmenter.path, many, Target.parse("onnxruntime:cpu"), settings, tmp_path)
        calibration, others = trials.calibration.indices, trials.probe.indices
        assert len(calibration) == count
        assert len(others) == min(probe, 368 - count or probe)
        assert not set(others) & set(calibration) or count == 368

"""The command line: what it offers, how it says no, and the way from data to prediction by commands alone."""

from __future__ import annotations

import json
import shutil

import pytest

from catchweight.cli.options import parse_minutes, parse_size
from catchweight.data import ClassSet
from catchweight.data.scenes import make_scenes
from catchweight.errors import UsageError
from catchweight.nets import build_network, save_network


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp("cli") / "scenes", {"train": 8, "val": 4}, size=(64, 96))


def test_help_lists_every_command(cli):
    code, out, _ = cli("--help")
    assert code == 0
    commands = ["fit", "demo", "report", "predict", "bench", "eval", "export", "verify", "train", "networks"]
    for command in [*commands, "systems", "check", "data"]:
        assert f" {command} " in out, command


def test_the_options_of_fit_are_a_decision(cli):
    _, out, _ = cli("fit", "--help")
    words = {word for word in out.replace(",", " ").split() if word.startswith("--")}
    assert words == {
        "--budget", "--target", "--run", "--size", "--time", "--compress", "--tolerance", "--threads", "--weights",
        "--seed", "--format", "--set", "--dry-run", "--help",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("fit", "nowhere", "--budget", "latency<=5ms"), 2, "nowhere"),
        (("fit", "SCENES", "--budget", "latency<5ms"), 2, "upper limit"),
        (("fit", "SCENES", "--budget", "latency<=5ms", "--size", "big"), 2, "is not a size"),
        (("fit", "SCENES", "--budget", "latency<=5ms", "--time", "soon"), 2, "is not a time"),
        (("fit", "SCENES", "--budget", "latency<=5ms", "--set", "train.epoch=1"), 2, 'did you mean "train.epochs"'),
        (("fit", "SCENES", "--budget", "latency<=5ms", "--target", "abacus"), 2, "abacus"),
        (("fit", "SCENES", "--budget", "latency<=5ms", "--run", "r" * 300), 1, "choose another --run folder"),
        (("fit", "SCENES", "--budget", "latency<=5ms", "--compress", "all", "--tolerance", "inf"), 2, "finite"),
        (("train", "SCENES", "--network", "eseg_lite_s", "--size", "64x64", "--out", "r" * 300), 1, "cannot write"),
        (("train", "SCENES", "--network", "eseg_lite_z", "--out", "out"), 2, 'did you mean "eseg_lite'),
        (("train", "SCENES", "--network", "eseg_lite_s", "--out", "out", "--recipe", "finetun"), 2, "finetune"),
        (("check", "esag"), 2, 'did you mean "eseg"'),
        (("report", "nowhere"), 1, "not a run folder"),
        (("bench", "nothing.onnx"), 1, "nothing.onnx"),
        (("eval", "model.txt", "SCENES"), 2, "model.txt"),
        (("fit",), 2, "Missing"),
    ],
)
def test_bad_input_gets_one_message_and_no_traceback(cli, scenes, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    given = [scenes if word == "SCENES" else word for word in arguments]
    found, out, err = cli(*given)
    assert (found, "Traceback" in out + err) == (code, False)
    assert message in err
    assert not any(tmp_path.iterdir())


def test_a_check_names_every_file_even_when_none_can_be_read(cli, scenes, tmp_path, monkeypatch):
    root = shutil.copytree(scenes, tmp_path / "torn")
    files = sorted((root / "images").rglob("*.png"))
    for file in files:
        file.write_bytes(b"torn")
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("data", "check", root)
    assert (code, err.strip()) == (1, "")
    assert all(f"{file}: cannot be read" in out for file in files)
    assert "training could not run" in out
    assert [path.name for path in (tmp_path / "runs/data-torn").iterdir()] == ["data.json"]


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A tiny network as bare.pt, with the note of other classes than the scenes', and without a size."""
    folder = tmp_path_factory.mktemp("networks")
    three = ClassSet(("a", "b", "c"))
    net = build_network("timm/test_efficientnet+fpn:width=8", 3)
    save_network(folder / "bare.pt", net)
    save_network(folder / "three.pt", net, {"classes": three.to_json(), "size": [64, 96]})
    save_network(folder / "sizeless.pt", net, {"classes": three.to_json()})
    return folder


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("export", "bare.pt"), 1, "does not name its classes"),
        (("export", "sizeless.pt"), 2, "--size 180x240"),
        (("export", "three.pt", "--out", "new.onnx", "--data", "SCENES"), 1, "predicts 3 classes (a, b, c...), but"),
        (("eval", "three.pt", "SCENES"), 1, "predicts 3 classes (a, b, c...), but"),
        (("eval", "bare.pt", "SCENES", "--size", "64x96"), 1, "does not say its classes"),
        (("eval", "sizeless.pt", "SCENES"), 2, "--size 180x240"),
        (("bench", "some.onnx", "--threads", "0"), 2, "--threads"),
        (("predict", "SCENES", "--model", "three.pt", "--out", "out"), 1, "`catchweight export` or `fit` wrote"),
    ],
)
def test_files_that_do_not_belong_get_one_message(cli, scenes, networks, monkeypatch, arguments, code, message):
    monkeypatch.chdir(networks)
    given = [scenes if word == "SCENES" else word for word in arguments]
    found, out, err = cli(*given)
    assert (found, "Traceback" in out + err) == (code, False)
    assert message in err
    assert not list(networks.glob("*.onnx"))


def test_a_training_writes_its_settings_into_no_folder_of_another(cli, scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("train", scenes, "--network", "timm/test_efficientnet+fpn", "--weights", "none", "--width", "0.25",
             "--set", "batch=4", "--set", "tensorboard=false")  # fmt: skip
    assert cli(*words, "--out", "net", "--set", "epochs=1")[0] == 0
    kept = (tmp_path / "net" / "recipe.yaml").read_text()
    code, _, err = cli(*words, "--out", "net", "--set", "epochs=2")
    assert (code, "belongs to another training" in err) == (1, True)
    assert (tmp_path / "net" / "recipe.yaml").read_text() == kept
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    code, _, err = cli(*words, "--out", "run", "--set", "epochs=1")
    assert (code, "is the folder of a run" in err) == (2, True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


def test_debug_shows_where(cli):
    with pytest.raises(UsageError):
        cli("check", "esag", "--debug")


def test_from_data_to_prediction_by_commands_alone(cli, scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = cli("data", "check", scenes)
    assert (code, "training can run" in out) == (0, True)
    assert (tmp_path / "runs" / "data-scenes" / "data.png").exists()

    code, out, _ = cli(
        "train", scenes, "--network", "timm/test_efficientnet+fpn", "--out", "net", "--weights", "none",
        "--width", "0.25", "--set", "epochs=1", "--set", "batch=4", "--set", "train.tensorboard=false",
    )  # fmt: skip
    assert (code, "best val mIoU" in out) == (0, True)

    code, out, _ = cli("export", "net/best.pt", "--data", scenes, "--out", "net.onnx")
    assert (code, "computes what was trained" in out) == (0, True)
    assert cli("verify", "net.onnx", "net/best.pt", scenes)[0] == 0

    code, out, _ = cli("bench", "net.onnx", "--seconds", "0.2", "--threads", "1", "--json", "bench.json")
    assert (code, "median ms" in out) == (0, True)
    assert len(json.loads((tmp_path / "bench.json").read_text())) == 2

    scores = []
    for model in ("net.onnx", "net/best.pt"):
        assert cli("eval", model, scenes, "--json", "score.json")[0] == 0
        scores.append(json.loads((tmp_path / "score.json").read_text())["miou"])
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)

    broken = tmp_path / "pictures"
    broken.mkdir()
    (broken / "bad.png").write_bytes(b"no picture")
    good = next((scenes / "images" / "val").iterdir())
    (broken / "good.png").write_bytes(good.read_bytes())
    code, out, err = cli("predict", broken, "--model", "net.onnx", "--out", "predicted")
    assert (code, "1 done" in out, "bad.png" in err) == (1, True, True)


@pytest.mark.parametrize("text", ["180", "180x", "x240", "63x64", "9000x64", "-1x64", "1e3x64"])
def test_sizes_are_read_strictly(text):
    assert parse_size("180x240") == (180, 240)
    with pytest.raises(UsageError):
        parse_size(text)


def test_times_are_read_with_their_unit():
    assert parse_minutes("20m") == parse_minutes("20") == 20
    assert parse_minutes("1.5h") == 90
    assert parse_minutes("90s") == pytest.approx(1.5)
    for text in ("", "0m", "-5m", "1 day"):
        with pytest.raises(UsageError):
            parse_minutes(text)

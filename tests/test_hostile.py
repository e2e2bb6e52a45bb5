"""Files that somebody made to do harm: nothing in them runs, nothing is written outside, and one clear message comes.

More hostile checkpoints are in ``nets/test_network_file.py``, data sets in ``data/``, graphs in
``targets/test_graph.py``, and pages in ``report/``; a run folder with spaces and Unicode also in ``faults/``; pictures
in ``test_hostile_pictures.py``.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import stat
import struct
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from catchweight.cli import main
from catchweight.config import Config, load_yaml, override
from catchweight.data import check_data, open_data
from catchweight.data.readers.classes_file import read_classes_file
from catchweight.data.scenes import make_scenes
from catchweight.deploy.segmenter import Segmenter
from catchweight.errors import CatchweightError, UsageError
from catchweight.files import read_json
from catchweight.nets import load_network
from catchweight.train.checkpoints import load_state

LONGEST_MESSAGE = 3000


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


class Settings(Config):
    """Something to configure."""

    lr: float = 0.1
    names: tuple[str, ...] = ()


@pytest.fixture
def mark(tmp_path) -> Path:
    """A folder that exists once something was run that must not be."""
    path = tmp_path / "harmed"
    yield path
    assert not path.exists()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("hostile") / "scenes", {"train": 3, "val": 2}, size=(64, 96))


@pytest.fixture
def cli(monkeypatch, capsys):
    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["catchweight", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), capsys.readouterr().err

    return run


def refused(message: str) -> None:
    assert len(message) < LONGEST_MESSAGE
    assert "Traceback" not in message


# --- checkpoints and networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [load_network, load_state])
@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_checkpoint_with_code_is_refused(load, save, mark, tmp_path):
    for value in (Harm(mark), {"format": 1, "net": Harm(mark)}, [torch.zeros(1), Harm(mark)]):
        save(value, tmp_path / "model.pt")
        with pytest.raises(CatchweightError, match=r"model\.pt"):
            load(tmp_path / "model.pt")


def test_the_command_line_refuses_it_in_one_line(cli, mark, tmp_path, scenes):
    torch.save({"format": 1, "spec": Harm(mark)}, tmp_path / "model.pt")
    code, message = cli("eval", tmp_path / "model.pt", scenes)
    assert code == 1
    assert message.count("\n") == 1
    refused(message)


# --- archives ----------------------------------------------------------------------------------------------------


def archive(path: Path, kind: str) -> Path:
    """A tar or zip file with entries above and outside the folder it is unpacked in, and a link that leads there."""
    if kind == "tar":
        with tarfile.open(path, "w") as file:
            for name in ("../above", "/tmp/absolute", "data.pkl"):
                file.addfile(tarfile.TarInfo(name), io.BytesIO())
            link = tarfile.TarInfo("images")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc"
            file.addfile(link)
        return path
    with zipfile.ZipFile(path, "w") as file:
        for name in ("../above", "/tmp/absolute", "archive/data.pkl", "archive/../../above"):
            file.writestr(name, b"nothing")
        link = zipfile.ZipInfo("archive/data/0")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
    return path


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("command", ["data", "fit", "eval", "bench", "predict"])
def test_an_archive_is_not_unpacked(kind, command, cli, tmp_path, scenes, monkeypatch):
    inside = tmp_path / "deep" / "inside"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    name = {"eval": "model.pt", "bench": "model.onnx", "predict": "model.onnx"}.get(command, "data.zip")
    path = archive(inside / name, kind)
    code, message = cli(*{
        "data": ("data", "check", path),
        "fit": ("fit", path, "--budget", "latency<=9s", "--run", inside / "run"),
        "eval": ("eval", path, scenes),
        "bench": ("bench", path),
        "predict": ("predict", scenes / "images" / "val", "--model", path, "--out", inside / "out"),
    }[command])  # fmt: skip
    assert code in (1, 2)
    assert name in message
    assert message.count("\n") == 1
    refused(message)
    assert sorted(found.relative_to(tmp_path).as_posix() for found in tmp_path.rglob("*")) == [
        "deep", "deep/inside", f"deep/inside/{name}",
    ]  # fmt: skip
    assert not Path("/tmp/absolute").exists()


def external(folder: Path, location: str) -> Path:
    """An ONNX file whose weights are said to lie in another file."""
    folder.mkdir(exist_ok=True)
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4], np.zeros(4, np.float32).tobytes(), raw=True)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])], [weights],
    )  # fmt: skip
    path = folder / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    return path


@pytest.mark.parametrize("kind", ["above", "absolute", "link"])
def test_external_data_outside_the_models_folder_is_not_read(kind, tmp_path, cli):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(struct.pack("4f", 1.5, 2.5, 3.5, 4.5))
    location = {"above": "../secret.bin", "absolute": str(secret), "link": "link.bin"}[kind]
    path = external(tmp_path / "models", location)
    if kind == "link":
        (path.parent / "link.bin").symlink_to(secret)
    with pytest.raises(CatchweightError, match=r"model\.onnx") as refusal:
        Segmenter(path)
    refused(str(refusal.value))
    code, message = cli("bench", path)
    assert code == 1
    refused(message)


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"ONNX", os.urandom(400)])
def test_what_is_no_onnx_file_is_refused(content, tmp_path):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(CatchweightError, match=r"model\.onnx"):
        Segmenter(tmp_path / "model.onnx")


# --- text files --------------------------------------------------------------------------------------------------


def test_a_million_classes_are_refused_briefly(tmp_path):
    names = [f"class {k}" for k in range(1_000_000)]
    for content in ({"classes": names}, {"classes": names, "values": [0] * len(names)}):
        (tmp_path / "classes.json").write_text(json.dumps(content))
        with pytest.raises(UsageError) as refusal:
            read_classes_file(tmp_path / "classes.json")
        refused(str(refusal.value))
    (tmp_path / "classes.txt").write_text("\n".join(names))
    with pytest.raises(UsageError, match="1 to 254 classes, but 1000000 were given"):
        read_classes_file(tmp_path / "classes.txt")


TAGS = (
    "!!python/object/apply:os.mkdir ['{mark}']",
    "!!python/object/new:os.mkdir ['{mark}']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!<tag:yaml.org,2002:python/object/apply:os.mkdir> ['{mark}']",
)
SENSELESS = (
    "2024-13-45",
    "!!int x",
    "!!int ''",
    "!!float x",
    "!!bool x",
    "!!timestamp x",
    "0x",
    "[" * 2000,
    "&a [*a, *a]",
)
LAUGHTER = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
"""A gigabyte when it is written out (Billion laughs)."""


@pytest.mark.parametrize("tag", TAGS)
def test_yaml_tags_make_nothing(tag, mark, tmp_path, scenes):
    value = tag.format(mark=mark)
    (tmp_path / "classes.yaml").write_text(f"classes: {value}\n")
    with pytest.raises(CatchweightError, match=r"classes\.yaml"):
        read_classes_file(tmp_path / "classes.yaml")
    (tmp_path / "settings.yaml").write_text(f"lr: {value}\n")
    with pytest.raises(CatchweightError, match=r"settings\.yaml"):
        load_yaml(Settings, tmp_path / "settings.yaml")
    with pytest.raises(UsageError):
        override(Settings(), [f"lr={value}"])


@pytest.mark.parametrize("value", SENSELESS)
def test_yaml_that_makes_no_sense_is_a_message(value, tmp_path):
    for file, read in (("classes.yaml", read_classes_file), ("s.yaml", lambda path: load_yaml(Settings, path))):
        (tmp_path / file).write_text(f"classes: {value}\nlr: {value}\n")
        with pytest.raises(CatchweightError) as refusal:
            read(tmp_path / file)
        refused(str(refusal.value))
    with pytest.raises(UsageError) as refusal:
        override(Settings(), [f"lr={value}"])
    refused(str(refusal.value))


@pytest.mark.parametrize("key", ["classes", "values", "palette", "ignore_index"])
def test_laughter_is_not_written_out(key, tmp_path):
    names = "" if key == "classes" else "classes: [x, y]\n"
    (tmp_path / "classes.yaml").write_text(f"{LAUGHTER}{names}{key}: *i\n")
    with pytest.raises(CatchweightError) as refusal:
        read_classes_file(tmp_path / "classes.yaml")
    refused(str(refusal.value))
    (tmp_path / "s.yaml").write_text(f"{LAUGHTER}names: *i\n")
    with pytest.raises(CatchweightError) as refusal:
        load_yaml(Settings, tmp_path / "s.yaml")
    refused(str(refusal.value))


@pytest.mark.parametrize("key", ["path", "train", "names"])
def test_laughter_is_not_written_out_by_a_yolo_file(key, tmp_path):
    root = make_scenes(tmp_path / "s", {"train": 1, "val": 1}, size=(64, 96))
    (root / "masks").rename(root / "labels")
    lines = {"path": ".", "train": "images/train", "names": "[x]"} | {key: "[*i, *h]" if key == "train" else "*i"}
    (root / "data.yaml").write_text(LAUGHTER + "\n".join(f"{name}: {value}" for name, value in lines.items()))
    try:
        said = "\n".join(open_data(root, format="yolo").notes)
    except CatchweightError as refusal:
        said = str(refusal)
    refused(said)


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, '{"a": ' * 50_000, "\ufeff{}", "\x00", "NaN}"])
def test_json_that_makes_no_sense_is_a_message(text, tmp_path):
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(CatchweightError, match=r"x\.json is not valid JSON") as refusal:
        read_json(tmp_path / "x.json")
    refused(str(refusal.value))


def test_a_line_without_end_takes_no_time(tmp_path):
    (tmp_path / "classes.txt").write_text("a" + " " * 200_000 + "b\n")
    with pytest.raises(UsageError, match="is no class"):
        read_classes_file(tmp_path / "classes.txt")


# --- names -------------------------------------------------------------------------------------------------------

ODD_NAMES = ("a\nb", 'quo"ted', "it's", "<b>bold<b>", "&amp;", "$(touch harmed)", "`touch harmed`", "%2e%2e", "#?%",
             "\x1b[31mred", "tab\tbed", "-rf", "süß 雪 🚗")  # fmt: skip


def test_odd_file_names_are_read_and_shown_without_harm(tmp_path, monkeypatch, capsys):
    root = make_scenes(tmp_path / "s", {"train": len(ODD_NAMES) + 1, "val": 1}, size=(64, 96))
    for name, image in zip(ODD_NAMES, sorted((root / "images" / "train").iterdir()), strict=False):
        mask = root / "masks" / "train" / image.with_suffix(".png").name
        mask.rename(mask.with_name(f"{name}.png"))
        image.rename(image.with_name(f"{name}{image.suffix}"))
    data = open_data(root)
    assert {Path(record.id).name for record in data.splits["train"]} >= set(ODD_NAMES)
    assert [p for p in check_data(data).problems if p.level == "error"] == []
    broken = next(record for record in data.splits["train"] if "\x1b" in record.id)
    broken.image.write_bytes(b"nothing")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["catchweight", "fit", str(root), "--budget", "latency<=9s", "--run", "r"])
    with pytest.raises(SystemExit) as stop:
        main()
    told = capsys.readouterr()
    assert stop.value.code == 1
    assert "\\x1b[31mred" in told.err, "the terminal is shown the character, not steered by it"
    assert "\x1b[31m" not in told.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r", "s"]


def test_class_names_with_html_and_markup_pass_through_a_data_set(tmp_path):
    root = make_scenes(tmp_path / "s", {"train": 1, "val": 1}, size=(64, 96))
    classes = json.loads((root / "classes.json").read_text())
    names = ["<img src=x onerror=alert(1)>", "[bold]x[/bold]", "{{ 7*7 }}", "</script>", "'; drop table", '"', "\\"]
    classes["classes"][: len(names)] = names
    (root / "classes.json").write_text(json.dumps(classes))
    assert open_data(root).classes.names[: len(names)] == tuple(names)


def test_a_pipe_or_device_in_place_of_a_file_is_refused(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(CatchweightError, match=r"model\.onnx"):
        Segmenter(tmp_path / "model.onnx")


def test_onnx_that_promises_a_huge_tensor_is_refused(tmp_path):
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 40], raw_data=b"1234")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])], [weights],
    )  # fmt: skip
    buffer = io.BytesIO(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    (tmp_path / "model.onnx").write_bytes(buffer.getvalue())
    with pytest.raises(CatchweightError, match=r"model\.onnx"):
        Segmenter(tmp_path / "model.onnx")

"""The main job, end to end at toy size: from drawn scenes to a measured file, killed and resumed, and refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import catchweight as cw
from catchweight.budget import Budget, Cost
from catchweight.data.scenes import make_scenes
from catchweight.errors import CatchweightError, DivergedError, StorageError, UsageError
from catchweight.files import write_json
from catchweight.fitting import BudgetMissedError, FitSettings, describe_plan, fallback, prepare, race, whole
from catchweight.front import Arch, Candidate, Front
from catchweight.nets import load_network
from catchweight.spaces.whole import label

pytestmark = pytest.mark.timeout(900)  # whole jobs, some of them killed and begun again

TINY = (
    "search.strategy=whole",
    "search.networks=[timm/test_efficientnet+fpn]",
    "search.widths=[0.25, 0.125]",
    "search.scales=[1.0]",
    "train.epochs=3",
    "train.batch=4",
    "train.tensorboard=false",
    "train.accelerator=cpu",
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("fit") / "scenes", {"train": 8, "val": 3}, size=(64, 96))


def tiny_fit(scenes: Path, run: Path, budget: str = "latency<=10s", **wanted):
    settings = (*TINY, *wanted.pop("extra", ()))
    return cw.fit(scenes, budget, run=run, set_=settings, threads=1, weights="none", say=lambda _: None, **wanted)


SAID: list[str] = []
"""What the finished run told on its way."""


@pytest.fixture(scope="module")
def finished(scenes, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run with space"
    return cw.fit(scenes, "latency<=10s", run=run, set_=TINY, threads=1, weights="none", say=SAID.append)


def test_the_terminal_is_told_the_stage_the_best_so_far_and_the_time_left(finished):
    stages = ["data", "screen", "plan", "search", "train", "export", "measure"]
    told = dict.fromkeys(line.partition(":")[0] for line in SAID)  # candidates that are screened have lines as well
    assert [stage for stage in told if stage in stages] == stages
    raced = [line for line in SAID if "best so far" in line]
    scores = [float(re.search(r"has ([0-9.]+) val mIoU", line)[1]) for line in raced]
    best = [float(re.search(r"best so far ([0-9.]+)", line)[1]) for line in raced]
    assert len(scores) == 2
    assert best == list(np.maximum.accumulate(scores))
    assert re.search(r"about \d+ min$", next(line for line in SAID if line.startswith("plan:")))


def test_fit_ends_with_a_measured_file_that_segments(finished, scenes):
    folder = finished.folder
    assert finished.best.cost.latency_ms > 0
    assert 0 <= finished.best.score <= 1
    mask = cw.Segmenter(finished.file)(next((scenes / "images" / "val").iterdir()))
    assert mask.shape == (64, 96)
    assert mask.dtype == np.uint8
    assert json.loads((folder / "verification.json").read_text())["passed"] is True
    front = Front.from_json(json.loads((folder / "front.json").read_text()))
    assert finished.best in front.candidates
    assert {c.epochs for c in front.candidates} == {1, 3}
    page = (folder / "report.html").read_text()
    assert "latency&lt;=10s" in page


def test_running_again_repeats_nothing(finished, scenes):
    stages = {p: p.stat().st_mtime_ns for p in (finished.folder / "stages").iterdir()}
    again = tiny_fit(scenes, finished.folder)
    assert again.best == finished.best
    assert {p: p.stat().st_mtime_ns for p in (finished.folder / "stages").iterdir()} == stages


def test_another_request_in_the_same_folder_is_refused(finished, scenes):
    with pytest.raises(CatchweightError, match="differs in: budget"):
        tiny_fit(scenes, finished.folder, budget="latency<=9s")


def test_fit_killed_at_any_moment_ends_with_the_same_weights(finished, scenes, tmp_path):
    run = tmp_path / "killed"
    code = (
        "import catchweight as cw, sys;"
        f"cw.fit({str(scenes)!r}, 'latency<=10s', run={str(run)!r}, set_={TINY!r}, threads=1, weights='none')"
    )
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    rng = np.random.default_rng(0)
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL) as process:
            time.sleep(float(rng.uniform(4, 14)))
            process.send_signal(signal.SIGKILL)
    result = tiny_fit(scenes, run)
    assert result.best.arch == finished.best.arch
    mine, theirs = load_network(run / "model.pt")[0], load_network(finished.folder / "model.pt")[0]
    for name, value in theirs.state_dict().items():
        assert torch.equal(mine.state_dict()[name], value), name
    assert not list(run.rglob("*.part"))
    assert not (run / "run.lock").exists()


def test_a_winner_whose_file_misses_the_budget_gives_way_to_the_next(finished, scenes, tmp_path, monkeypatch):
    """Also when killed while what it made is put aside."""
    run = tmp_path / "missed"
    shutil.copytree(finished.folder, run)
    trained = (run / "model.pt").read_bytes()
    measured = json.loads((run / "stages" / "measure.json").read_text())
    measured["result"]["cost"]["latency_ms"] = 20_000.0
    (run / "stages" / "measure.json").write_text(json.dumps(measured))

    class KilledError(Exception):
        pass

    moved = []
    rename = os.rename

    def killed(source: Path, to: Path) -> None:
        moved.append(source)
        if len(moved) == 3:
            raise KilledError
        rename(source, to)

    with monkeypatch.context() as patched, pytest.raises(KilledError):
        patched.setattr(fallback.os, "rename", killed)
        tiny_fit(scenes, run)
    second = tiny_fit(scenes, run)
    assert second.best.arch != finished.best.arch
    assert second.best.cost.latency_ms < 10_000
    assert load_network(run / "model.pt")[0].spec.width == second.best.arch["width"]
    assert (run / "passed" / label(finished.best.arch) / "model.pt").read_bytes() == trained
    (passed,) = [c for c in second.front.candidates if c.note.startswith("passed over")]
    assert passed.arch == finished.best.arch
    assert "latency 20s is 100% over 10s" in passed.note
    assert passed.cost.latency_ms == 20_000


def test_a_budget_that_all_miss_fails_says_by_how_much_and_is_measured_again(finished, scenes, tmp_path, monkeypatch):
    run = tmp_path / "missed"
    shutil.copytree(finished.folder, run)
    (run / "stages" / "measure.json").unlink()
    with monkeypatch.context() as patched:
        busy = 20_000.0
        patched.setattr(race, "measured", lambda job, point, path, cost: replace(cost, latency_ms=busy))
        for _ in range(2):  # the second call begins with the best again
            with pytest.raises(BudgetMissedError, match="latency 20s is 100% over 10s"):
                tiny_fit(scenes, run)
            assert load_network(run / "model.pt")[0].spec.width == finished.best.arch["width"]
    assert "100%" in (run / "report.html").read_text()
    again = tiny_fit(scenes, run)
    assert again.best.arch == finished.best.arch
    assert again.best.score == finished.best.score
    assert not any(c.note.startswith("passed over") for c in again.front.candidates)


def test_a_winner_that_diverges_while_it_trains_on_gives_way_to_the_next(finished, scenes, tmp_path, monkeypatch):
    run = tmp_path / "diverged"
    shutil.copytree(finished.folder, run)
    for stage in ("train", "export", "measure"):
        (run / "stages" / f"{stage}.json").unlink()
    on = race._train

    def diverging(job, route, point, winner, epochs):
        if winner.arch == finished.best.arch:
            raise DivergedError("the loss became nan")
        return on(job, route, point, winner, epochs)

    monkeypatch.setattr(race, "_train", diverging)
    second = tiny_fit(scenes, run)
    assert second.best.arch != finished.best.arch
    assert any("the loss became nan" in c.note for c in second.front.candidates)


def test_an_unreachable_budget_is_told_before_training_with_the_nearest_figure(scenes, tmp_path):
    said = r"no network of the space makes the budget latency<=0.000001ms .*x the budget; allow at least latency<="
    with pytest.raises(CatchweightError, match=said):
        tiny_fit(scenes, tmp_path / "r", budget="latency<=0.000001ms")
    assert not (tmp_path / "r" / "search").exists()
    assert "makes the budget" in (tmp_path / "r" / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": "speed<=1"}, "unknown budget quantity"),
        ({"target": "tpu"}, "Available here"),
        ({"extra": ("train.lrr=1",)}, 'did you mean "train.lr"'),
        ({"extra": ("search.networks=[eseg_lite_x]",)}, 'did you mean "eseg_lite'),
        ({"minutes": -1}, "positive"),
        ({"target": "onnxruntime:cpu:int8"}, "use --target onnxruntime:cpu, with --compress int8"),
        ({"extra": ("train.seed=7",)}, "--seed decides it"),
        ({"extra": ("train.size=[64, 64]",)}, "--size decides it"),
        ({"extra": ("train={seed: 7}",)}, "--seed decides it"),
        ({"extra": ("search.scales=[.nan]",)}, "finite"),
        ({"extra": ("search.scales=[0]",)}, "greater than 0"),
        ({"extra": ("search.widths=[-1]",)}, "greater than 0"),
    ],
)
def test_bad_requests_write_nothing(scenes, tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        tiny_fit(scenes, tmp_path / "r", **changes)
    assert not (tmp_path / "r").exists()


def test_of_several_budgets_one_out_of_reach_is_told_before_a_network_is_trained_for_the_others(scenes, tmp_path):
    with pytest.raises(CatchweightError, match="no network of the space makes the budget latency<=0.000001ms"):
        tiny_fit(scenes, tmp_path / "r", budget=["latency<=10s", "latency<=0.000001ms"])
    assert not (tmp_path / "r" / "search").exists()


def test_a_point_that_fails_leaves_the_others_their_front(scenes, tmp_path, monkeypatch):
    found = Candidate(Arch(network="x", width=1.0, size=[64, 96]), Cost(latency_ms=1.0), 0.5, "chosen")
    reasons = [CatchweightError("the first is not the network that was trained"), StorageError("the disk is full")]

    def race(job, route, point):
        if point.to_come == 2 and reasons:
            raise reasons.pop()
        write_json(point.run.path("front.json"), Front((found,)).to_json())
        return found

    monkeypatch.setattr("catchweight.fitting.main.race_within", race)
    monkeypatch.setattr("catchweight.fitting.main.search_ablation", lambda *_: None)
    monkeypatch.setattr(whole.WholeRoute, "prepare", lambda route: None)
    run, budgets = tmp_path / "r", ["latency<=10s", "latency<=9s"]
    with pytest.raises(StorageError):  # it would be in the way of the others as well
        tiny_fit(scenes, run, budget=budgets)
    assert not (run / "front.json").exists()
    with pytest.raises(CatchweightError, match="is not the network that was trained"):
        tiny_fit(scenes, run, budget=budgets)
    assert Front.read(run / "front.json").candidates == (found,)
    assert "is not the network" in (run / "points" / "latency-10s" / "report.html").read_text()
    assert len(tiny_fit(scenes, run, budget=budgets).points) == 2
    assert "is not the network" not in (run / "points" / "latency-10s" / "report.html").read_text()


@pytest.mark.parametrize("error", [RuntimeError("the driver has gone"), MemoryError()])
def test_whatever_ends_it_the_report_is_written_and_the_error_stays(scenes, tmp_path, monkeypatch, error):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("catchweight.fitting.whole.screen", fail)
    with pytest.raises(type(error)):
        tiny_fit(scenes, tmp_path / "r")
    assert (str(error) or "MemoryError") in (tmp_path / "r" / "report.html").read_text()
    assert not (tmp_path / "r" / "run.lock").exists()


def test_where_no_report_can_be_written_it_is_said_what_came_first(scenes, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise CatchweightError("the disk is full")

    lines: list[str] = []
    monkeypatch.setattr("catchweight.fitting.main.write_run_report", full)
    with pytest.raises(CatchweightError, match="no network of the space makes the budget"):
        cw.fit(
            scenes, "latency<=0.000001ms", run=tmp_path / "r", set_=TINY, threads=1, weights="none", say=lines.append
        )  # fmt: skip
    assert lines[-1] == "report: not written, the disk is full"


def test_a_run_goes_on_with_the_data_that_it_was_begun_with_alone(finished, scenes, tmp_path):
    run = shutil.copytree(finished.folder, tmp_path / "run")
    mask = sorted((scenes / "masks" / "train").iterdir())[0]
    kept = mask.read_bytes()
    Image.fromarray((np.array(Image.open(mask)) + 3) % 8).save(mask)  # each class by another number
    try:
        with pytest.raises(CatchweightError, match=r"has changed since .*differs in: .*shares.*new --run folder"):
            tiny_fit(scenes, run)
    finally:
        mask.write_bytes(kept)
    assert tiny_fit(scenes, run).best == finished.best, "written anew, but the same"
    known = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps(known | {"format": "camvid"}))
    with pytest.raises(CatchweightError, match="read as camvid, not as folder: use --format camvid"):
        tiny_fit(scenes, run)
    del known["files"], known["fingerprint"]  # as of a version that kept less
    (run / "data.json").write_text(json.dumps(known))
    assert tiny_fit(scenes, run).best == finished.best


def test_data_that_cannot_be_trained_on_is_refused_by_file(tmp_path):
    folder = make_scenes(tmp_path / "s", {"train": 4, "val": 2}, size=(64, 96))
    broken = sorted((folder / "images" / "train").iterdir())[1]
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(CatchweightError, match=broken.name):
        tiny_fit(folder, tmp_path / "r")
    assert not (tmp_path / "r" / "screen").exists()


def test_the_plan_of_a_dry_run_counts_what_would_be_trained(scenes, tmp_path, monkeypatch):
    job = prepare(
        scenes, "latency<=10s", target="onnxruntime:cpu", run="unused", size=None, settings=FitSettings(),
        set_=TINY, minutes=None, threads=1, weights="none", seed=0, say=lambda _: None,
    )  # fmt: skip
    plan = describe_plan(job)
    assert plan["candidates"] == 2
    assert "the budget does not bind" in plan["reach"]
    assert plan["rungs"] == [1, 3]
    assert "time" not in plan
    with monkeypatch.context() as patch:
        patch.setattr(whole, "look_ahead", lambda *_, **__: SimpleNamespace(check=lambda target: None))
        patch.setattr(whole, "epoch_seconds", lambda *_: 60.0)  # of one epoch of either candidate
        job.request["minutes"] = 3.0  # one of them for what comes after the training
        plan = describe_plan(job)
        assert (plan["candidates"], plan["epochs"], plan["minutes"]) == (2, 1, 2.0)
        assert plan["time"] == "at most 3 minutes: enough for this plan"
    broken = tmp_path / "broken"
    shutil.copytree(scenes, broken)
    (broken / "masks" / "train" / "00001.png").write_bytes(b"no picture")
    with monkeypatch.context() as patch, pytest.raises(CatchweightError, match=r"cannot be trained on .*00001\.png"):
        patch.setattr(job, "data", cw.open_data(broken))
        describe_plan(job)
    job.budgets = (Budget.parse("latency<=0.000001ms"),)
    with pytest.raises(CatchweightError, match="allow at least latency<="):
        describe_plan(job)
    assert not Path("unused").exists()

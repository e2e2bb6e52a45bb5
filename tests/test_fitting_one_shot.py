"""The main route end to end at toy size: several budgets from one supernet, killed and resumed, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import catchweight as cw
from catchweight.data.scenes import make_scenes
from catchweight.errors import CatchweightError, UsageError
from catchweight.fitting import FitSettings, describe_plan, main, prepare
from catchweight.fitting.estimate import bounded
from catchweight.fitting.job import read_budgets
from catchweight.front import Front
from catchweight.nets import load_network
from catchweight.run import Run

pytestmark = pytest.mark.timeout(900)  # whole jobs, some of them killed and begun again

TINY = (
    "search.backbone=test_efficientnet",
    "search.scales=[1.0]",
    "search.profiled=10",
    "search.supernet_epochs=2",
    "search.evaluations=5",
    "train.epochs=3",
    "train.batch=4",
    "train.tensorboard=false",
    "train.accelerator=cpu",
)
BUDGETS = ["latency<=10s, params<=100M", "latency<=9s, params<=90k"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("fit1") / "scenes", {"train": 8, "val": 3}, size=(64, 96))


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """The device's latency table is shared between runs; tests must not write into the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CATCHWEIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def tiny_fit(scenes: Path, run: Path, budget=BUDGETS, extra=()):
    return cw.fit(
        scenes, budget, run=run, set_=(*TINY, *extra), threads=1, weights="none", say=lambda _: None
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(scenes, tmp_path_factory):
    return tiny_fit(scenes, tmp_path_factory.mktemp("runs1") / "run")


def test_every_budget_gets_a_measured_file_of_its_own(finished, scenes):
    assert [point.budget for point in finished.points] == ["latency<=10s, params<=100M", "latency<=9s, params<=90k"]
    for point in finished.points:
        assert point.file.exists()
        assert point.report.exists()
        assert json.loads((point.folder / "verification.json").read_text())["passed"] is True
        mask = cw.Segmenter(point.file)(next((scenes / "images" / "val").iterdir()))
        assert mask.shape == (64, 96)
    raced = [c.arch["network"] for c in finished.points[0].front.candidates if c.epochs and "network" in c.arch]
    assert raced == ["timm/test_efficientnet+fpn"], "a published network races beside the members"
    small = finished.points[1].best
    net, _ = load_network(finished.points[1].folder / "model.pt")
    assert sum(p.numel() for p in net.parameters()) == small.cost.params <= 90_000


def test_the_run_tells_what_it_searched_and_how_well_it_predicts(finished):
    folder = finished.folder
    assert len(Front.read(folder / "explored.json").candidates) == 5
    assert json.loads((folder / "profile.json").read_text())["networks"] >= 10
    merged = Front.read(folder / "front.json")
    assert all(point.best in merged.candidates for point in finished.points)
    assert (folder / "report.html").exists()


def test_the_report_tells_what_the_search_and_the_training_gave(finished):
    shown = 0
    for point in finished.points:
        path = point.folder / "ablation.json"
        members = {c.arch: c for c in Front.read(finished.folder / "explored.json").candidates}
        rows = {row["stage"]: row for row in json.loads(path.read_text())["rows"]} if path.exists() else {}
        assert bool(rows) == (point.best.arch in members)
        if not rows:
            continue
        assert rows["all stages"]["score"] == point.best.score
        assert rows["without training it alone"]["score"] == members[point.best.arch].score
        raced = {c.arch: c for c in Front.from_json(Run(point.folder).result("search")).candidates}
        for row in filter(None, [rows.get("without the search")]):
            assert row["score"] == max(c.score for a, c in raced.items() if "network" in a and c.score is not None)
            assert row["against"] == raced[point.best.arch].score
        assert "Stages left out" in point.report.read_text()
        shown += 1
    assert shown, "a small member is the only one within the second budget"


def test_running_again_repeats_nothing(finished, scenes):
    stages = {p: p.stat().st_mtime_ns for p in finished.folder.rglob("stages/*.json")}
    assert tiny_fit(scenes, finished.folder).best == finished.best
    assert {p: p.stat().st_mtime_ns for p in finished.folder.rglob("stages/*.json")} == stages


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_front_and_weights(finished, scenes, tmp_path):
    run = tmp_path / "killed"
    code = (
        "import catchweight as cw;"
        f"cw.fit({str(scenes)!r}, {BUDGETS!r}, run={str(run)!r}, set_={TINY!r}, threads=1, weights='none')"
    )
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    rng = np.random.default_rng(1)
    reached = []
    for _ in range(10):
        with subprocess.Popen([sys.executable, "-u", "-c", code], env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()  # at work: how long importing takes says nothing
            time.sleep(float(rng.uniform(0, 25)))
            process.send_signal(signal.SIGKILL)
        reached.append(len(list(run.rglob("stages/*.json"))))
    assert len(set(reached)) > 2, f"the kills were to hit several stages: {reached}"
    result = tiny_fit(scenes, run)
    scores = [{c.arch: c.score for c in r.points[1].front.candidates if c.epochs} for r in (finished, result)]
    assert scores[0] == scores[1]
    for mine, theirs in zip(result.points, finished.points, strict=True):
        assert mine.best.arch == theirs.best.arch
        weights = [load_network(point.folder / "model.pt")[0].state_dict() for point in (mine, theirs)]
        assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


def test_an_unreachable_budget_is_told_before_the_supernet_is_trained(scenes, tmp_path):
    with pytest.raises(CatchweightError, match=r"no network of the space makes the budget"):
        tiny_fit(scenes, tmp_path / "r", budget="latency<=0.000001ms")
    assert not (tmp_path / "r" / "supernet").exists()


def test_a_dry_run_tells_the_minutes_of_every_stage(scenes):
    job = prepare(
        scenes, "latency<=10s", target="onnxruntime:cpu", run="unused", size=None, settings=FitSettings(),
        set_=TINY, minutes=None, threads=1, weights="none", seed=0, say=lambda _: None,
    )  # fmt: skip
    plan = describe_plan(job)
    assert set(plan["minutes"]) == {"supernet", "profile", "explore", "training"}
    assert "does not bind" in plan["reach"]
    assert bounded(plan | {"minutes in all": 8.0}, 2.0)["time"].endswith("every stage is shortened, to about 25%")
    assert bounded(plan, None) == {}
    assert not Path("unused").exists()


def test_a_budget_that_limits_nothing_predictable_is_refused_before_anything_is_written(scenes, tmp_path):
    for strategy in ("one-shot", "random"):
        with pytest.raises(UsageError, match="size<=10MB limits nothing that can be predicted.*strategy=whole"):
            tiny_fit(scenes, tmp_path / "r", budget="size<=10MB", extra=(f"search.strategy={strategy}",))
    assert not (tmp_path / "r").exists()


def test_without_a_strategy_such_a_budget_is_raced_for_by_known_networks(scenes, tmp_path, monkeypatch):
    class TakenError(Exception):
        """What would be done next is what other tests are about."""

    def stop(route) -> None:
        raise TakenError(type(route).__name__)

    monkeypatch.setattr(main.WholeRoute, "prepare", stop)
    with pytest.raises(TakenError, match="WholeRoute"):
        tiny_fit(scenes, tmp_path / "r", budget="size<=10MB")
    assert Run(tmp_path / "r").result("strategy") == {"strategy": "whole"}


def test_budgets_are_ordered_by_one_quantity_however_they_are_written():
    limits = {
        "latency<=5ms, params<=9M": ["latency<=5ms, params<=9M", "params<=1M, latency<=10ms"],
        "params<=9M, latency<=5ms": ["params<=9M, latency<=5ms", "params<=1M, latency<=10ms"],
    }
    found = [[str(b) for b in read_budgets(several)] for several in limits.values()]
    assert found == [
        ["params<=1M, latency<=10ms", "latency<=5ms, params<=9M"],  # by latency: the first by name
        ["params<=9M, latency<=5ms", "params<=1M, latency<=10ms"],  # as all of them are written
    ]
    with pytest.raises(UsageError, match="named twice"):
        read_budgets(["latency<=5ms, params<=9M", "params<=9M, latency<=5ms"])


@pytest.mark.parametrize(
    ("budgets", "message"),
    [
        ([], "at least one budget"),
        (["latency<=5ms", "latency<=5ms"], "twice"),
        (["latency<=5ms", "macs<=1G"], "same quantities"),
    ],
)
def test_budgets_that_make_no_front_are_refused(budgets, message):
    with pytest.raises(UsageError, match=message):
        read_budgets(budgets)


def test_a_space_that_does_not_exist_is_named(scenes, tmp_path):
    with pytest.raises(UsageError, match='did you mean "elastic"'):
        tiny_fit(scenes, tmp_path / "r", extra=("search.space=elastik",))
    assert not (tmp_path / "r").exists()

"""``fit`` with compression at toy size, where latency is a formula: chosen, refused, killed, out of time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_chain import NETWORK, SIZE, SMALL, profiled, settings, toy_fit, toy_scenes

import catchweight as cw
from catchweight.budget import Budget
from catchweight.compress import HalpSettings
from catchweight.data import open_data
from catchweight.errors import CatchweightError, StorageError, UsageError
from catchweight.files import read_json
from catchweight.fitting import BudgetMissedError, FitResult, FitSettings, describe_plan, prepare
from catchweight.fitting.chain import ENDS, Chain
from catchweight.fitting.estimate import int8_seconds
from catchweight.fitting.job import Job, relaxed
from catchweight.fitting.steps import delivered_params
from catchweight.front import Front
from catchweight.nets import build_network, load_network
from catchweight.run import Run, find_runs
from catchweight.targets import Target
from catchweight.targets.runtimes.quantized import is_quantized
from formula_target import INT8, file_ms, formula

pytestmark = pytest.mark.timeout(900)  # whole jobs, some of them killed and begun again


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_scenes(tmp_path_factory.mktemp("chain") / "scenes")


@pytest.fixture(scope="module", autouse=True)
def device(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> Iterator[None]:
    """The formula device, with a latency table that is not the user's."""
    with formula() as patch:
        patch.setenv("CATCHWEIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        profiled(len(open_data(scenes).classes))
        yield


@pytest.fixture(scope="module")
def whole_ms(scenes: Path) -> tuple[float, float]:
    """Latency of the network at its two sizes."""
    target, net = Target.parse("onnxruntime:cpu", threads=1), build_network(NETWORK, len(open_data(scenes).classes))
    large, small = (target.measure(net, size).median_ms for size in (SIZE, SMALL))
    return large, small


@pytest.fixture(scope="module")
def budget(whole_ms: tuple[float, float]) -> str:
    """Within it is the small input; the large one needs both int8 and pruning."""
    return f"latency<={0.5 * whole_ms[0]:.6f}ms"


@pytest.fixture(scope="module")
def finished(scenes: Path, budget: str, tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    return toy_fit(scenes, tmp_path_factory.mktemp("runs") / "run", budget, ablation="full")


def chain(run: Path) -> dict[str, Any]:
    """``chain.json`` with its rows by step; those of the races by the first words alone."""
    told = read_json(run / "chain.json")
    return {**told, "rows": {row["step"].split(" under")[0]: row for row in told["rows"]}}


def test_every_step_is_measured_and_told(finished: FitResult, budget: str) -> None:
    told = read_json(finished.folder / "chain.json")
    limit = Budget.parse(budget)
    assert [row["step"] for row in told["rows"]] == [
        f"search and train under {limit}", f"search and train under {relaxed(limit, 1.6 * 1.4)}",
        "int8 without pruning", "prune and fine-tune", "int8",
    ]  # fmt: skip
    direct, trained, as_trained, pruned, ended = told["rows"]
    assert all(row["accepted"] and row["seconds"] > 0 for row in told["rows"])
    assert trained["latency_ms"] > as_trained["latency_ms"] > limit.limits[0].value >= ended["latency_ms"]
    assert trained["latency_ms"] > pruned["latency_ms"] > ended["latency_ms"]
    assert trained["params"] > pruned["params"] == ended["params"]
    assert as_trained["file_bytes"] < trained["file_bytes"] / 2
    assert told["chosen"] == ("compressed" if ended["score"] > direct["score"] else "direct")


def test_the_ablation_leaves_out_one_thing_at_a_time(finished: FitResult) -> None:
    told = chain(finished.folder)["rows"]
    rows = {row["stage"]: row for row in read_json(finished.folder / "ablation.json")["rows"]}
    assert list(rows) == [
        "all steps", "without compression", "without pruning", "without int8", "without distillation"
    ]  # fmt: skip
    assert rows["all steps"]["latency_ms"] == told["int8"]["latency_ms"]
    assert rows["without pruning"]["latency_ms"] == told["int8 without pruning"]["latency_ms"]
    assert rows["without int8"]["latency_ms"] == told["prune and fine-tune"]["latency_ms"]
    assert rows["without distillation"]["latency_ms"] == pytest.approx(rows["all steps"]["latency_ms"], rel=0.01)
    assert "over" in rows["without pruning"]["note"]
    assert "over" in rows["without int8"]["note"]
    assert rows["all steps"]["note"] == rows["without compression"]["note"] == "makes the budget"
    assert all(row["seconds"] > 0 for row in rows.values())


def test_the_point_holds_the_chosen_network_proven(finished: FitResult, budget: str, scenes: Path) -> None:
    run, best = finished.folder, finished.best
    assert Budget.parse(budget).allows(best.cost)
    assert best in Front.read(run / "front.json").candidates
    assert best.cost.latency_ms == pytest.approx(file_ms(finished.file))
    assert is_quantized(finished.file) == ("int8" in best.arch.get("compressed", ()))
    assert read_json(run / "verification.json")["passed"] is True
    assert read_json(run / "train" / "score.json")["miou"] == pytest.approx(best.score, abs=1e-3)
    assert cw.Segmenter(finished.file)(next((scenes / "images" / "val").iterdir())).shape == SIZE
    assert load_network(run / "model.pt")[1]["size"] == list(best.arch["size"])
    assert delivered_params(load_network(run / "model.pt")[0]) == best.cost.params
    assert [summary.folder for summary in find_runs(run.parent)] == [run], (
        "its races and steps are not runs of the user"
    )
    assert Run(run).finished


def test_the_report_shows_steps_and_ablation(finished: FitResult) -> None:
    page = finished.report.read_text()
    for words in ("Compression, step by step", "prune and fine-tune", "without distillation", "Stages left out"):
        assert words in page
    assert "not reached" not in page
    assert "could not be read" not in page


def test_running_again_repeats_nothing(finished: FitResult, scenes: Path, budget: str) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.folder.rglob("stages/*.json")}
    assert toy_fit(scenes, finished.folder, budget, ablation="full").best == finished.best
    assert {p: p.stat().st_mtime_ns for p in finished.folder.rglob("stages/*.json")} == before


class Killed(BaseException):
    """What a kill looks like from inside."""


def same_weights(one: Path, other: Path) -> bool:
    mine, theirs = (load_network(path)[0].state_dict() for path in (one, other))
    return all(torch.equal(mine[name], value) for name, value in theirs.items())


def again(finished: FitResult, run: Path, *stages: str) -> Path:
    """A copy of the finished run that has these stages before it, and all that follow the steps."""
    shutil.copytree(finished.folder, run)
    for stage in (*stages, *ENDS):
        Run(run).forget(stage)
    return run


def test_a_full_disk_or_a_busy_folder_is_no_verdict(
    finished: FitResult, scenes: Path, budget: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("the disk is full")

    for step, module_and_name in (("int8", "quantize"), ("prune", "prune")):
        run = again(finished, tmp_path / step, step)
        with monkeypatch.context() as patch:
            patch.setattr(f"catchweight.fitting.steps.{module_and_name}", full)
            with pytest.raises(StorageError):
                toy_fit(scenes, run, budget, ablation="full")
        assert Run(run).result(step) is None
        assert toy_fit(scenes, run, budget, ablation="full").best == finished.best
    job = replace(asked(scenes, budget, settings()), folder=tmp_path / "race")
    with pytest.raises(StorageError):
        _ = Chain(job, SimpleNamespace(candidates=full), job.points[0]).direct
    assert job.run.result("direct") is None


def test_the_trainings_after_the_races_end_with_the_time(
    finished: FitResult, scenes: Path, budget: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fine-tuning leaves int8 its time; the training for the ablation alone is left out where there is none."""
    ends: list[float | None] = []

    def stopped(*_: object, deadline: float | None = None, **__: object) -> SimpleNamespace:
        ends.append(deadline)
        return SimpleNamespace(status="stopped", epochs=0)

    def failed(*_: object, deadline: float | None = None, **__: object) -> None:
        ends.append(deadline)
        raise CatchweightError("looked at")

    monkeypatch.setattr(Job, "deadline", lambda job, share: 1e6)
    with monkeypatch.context() as patch:
        patch.setattr("catchweight.fitting.ablation.train", stopped)
        run = again(finished, tmp_path / "ablation", "undistilled")
        toy_fit(scenes, run, budget, ablation="full")
    *rows, left_out = read_json(run / "ablation.json")["rows"]
    assert [row["stage"] for row in rows] == ["all steps", "without compression", "without pruning", "without int8"]
    assert left_out["stage"] == "without distillation"
    assert "not trained" in left_out["note"]
    with monkeypatch.context() as patch:
        patch.setattr("catchweight.compress.halp.train", failed)
        toy_fit(scenes, again(finished, tmp_path / "prune", "prune", "int8", "undistilled"), budget, ablation="full")
    relaxed_ms = chain(finished.folder)["rows"]["search and train"]["latency_ms"]
    reserved = int8_seconds(asked(scenes, budget, settings()), relaxed_ms)
    assert reserved > 0
    assert ends == [1e6, pytest.approx(1e6 - reserved, abs=1)]


@pytest.mark.slow
def test_killed_in_every_stage_it_ends_with_the_same_networks(
    finished: FitResult, scenes: Path, budget: str, tmp_path: Path
) -> None:
    waiting = ["direct, export:", "relaxed, train:", "int8: the float", "prune: step 1", "land:", "fine-tune:",
               "verdict:", "measure:", "choose:"]  # fmt: skip

    def say(line: str) -> None:
        if waiting and waiting[0] in line:
            waiting.pop(0)
            raise Killed

    while waiting:
        left = len(waiting)
        with pytest.raises(Killed):
            toy_fit(scenes, tmp_path / "run", budget, say)
        assert len(waiting) == left - 1
    result = toy_fit(scenes, tmp_path / "run", budget, say)
    assert result.best == finished.best
    for name in ("compress/direct/model.pt", "compress/relaxed/model.pt", "compress/prune/model.pt", "model.pt"):
        assert same_weights(result.folder / name, finished.folder / name), name
    assert [row["score"] for row in chain(result.folder)["rows"].values()] == [
        row["score"] for row in chain(finished.folder)["rows"].values()
    ]


@pytest.mark.slow
def test_killed_by_the_system_it_ends_with_the_same_networks(
    finished: FitResult, scenes: Path, budget: str, tmp_path: Path
) -> None:
    run, script = tmp_path / "run", Path(__file__).with_name("tiny_chain.py")
    source = Path(cw.__file__).parents[1]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(source)}
    rng, command = np.random.default_rng(0), [sys.executable, str(script), str(scenes), str(run), budget]
    for _ in range(6):
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
            time.sleep(float(rng.uniform(6, 20)))
            process.send_signal(signal.SIGKILL)
    result = toy_fit(scenes, run, budget)
    assert result.best == finished.best
    assert same_weights(run / "compress/prune/model.pt", finished.folder / "compress/prune/model.pt")
    assert not list(run.rglob("*.part"))


@pytest.mark.slow
def test_int8_that_is_slower_here_is_refused_and_pruning_goes_the_whole_way(
    scenes: Path, budget: str, tmp_path: Path
) -> None:
    with formula(int8=5 * INT8):
        toy_fit(scenes, tmp_path / "run", budget)
    told = chain(tmp_path / "run")["rows"]
    assert not told["int8 without pruning"]["accepted"]
    assert "int8 is not faster here" in told["int8 without pruning"]["note"]
    assert told["int8 without pruning"]["latency_ms"] == told["search and train"]["latency_ms"]
    assert told["prune and fine-tune"]["accepted"]
    assert Budget.parse(budget).limits[0].value >= told["prune and fine-tune"]["latency_ms"]
    assert "not needed" in told["int8"]["note"]


def test_pruning_that_cannot_reach_the_budget_leaves_the_direct_network(
    scenes: Path, whole_ms: tuple[float, float], tmp_path: Path
) -> None:
    between = f"latency<={0.75 * whole_ms[0]:.6f}ms"  # the large input is within it only when relaxed
    result = toy_fit(
        scenes, tmp_path / "run", between, steps="prune", prune=HalpSettings(steps=2, interval=1, least=0.98)
    )
    told = read_json(tmp_path / "run" / "chain.json")
    assert told["chosen"] == "direct"
    assert "over" in told["why"]
    pruned = told["rows"][-1]
    assert not pruned["accepted"]
    assert "pruning alone cannot reach" in pruned["note"]
    assert "compressed" not in result.best.arch
    assert read_json(tmp_path / "run" / "ablation.json")["rows"][0]["stage"] == "all steps"


@pytest.mark.slow
def test_a_budget_that_only_compression_can_make(scenes: Path, whole_ms: tuple[float, float], tmp_path: Path) -> None:
    """Nothing is within it as trained; without enough compression it is missed, and said by how much."""
    tight = f"latency<={0.8 * whole_ms[1]:.6f}ms"
    result = toy_fit(scenes, tmp_path / "met", tight, steps="int8")
    assert result.best.arch["compressed"] == ["int8"]
    assert "no network of the space makes the budget" in json.dumps(read_json(tmp_path / "met" / "chain.json"))
    least = HalpSettings(steps=2, interval=1, least=0.98)
    with pytest.raises(BudgetMissedError, match=r"latency .* is 2\d% over"):
        toy_fit(scenes, tmp_path / "missed", tight, steps="prune", prune=least)
    assert (
        "MISSED" in (tmp_path / "missed" / "report.html").read_text()
        or "over the limit" in (tmp_path / "missed" / "report.html").read_text()
    )
    with pytest.raises(BudgetMissedError):
        toy_fit(scenes, tmp_path / "missed", tight, steps="prune", prune=least)
    with pytest.raises(CatchweightError, match="no network of the space makes the budget"):
        toy_fit(scenes, tmp_path / "never", "latency<=0.000001ms", steps="int8")


def test_out_of_time_the_direct_network_stands(scenes: Path, budget: str, tmp_path: Path) -> None:
    result = toy_fit(scenes, tmp_path / "run", budget, minutes=1)
    told = read_json(tmp_path / "run" / "chain.json")
    assert told["chosen"] == "direct"
    assert "time was up" in told["rows"][-1]["note"]
    assert Budget.parse(budget).allows(result.best.cost)


def asked(scenes: Path, budget: str | list[str], values: FitSettings, set_: tuple[str, ...] = (), **more: Any) -> Job:
    return prepare(
        scenes, budget, target=more.pop("target", "onnxruntime:cpu"), run="unused", size=None, settings=values,
        set_=set_, minutes=None, threads=1, weights="none", seed=0, say=lambda _: None,
    )  # fmt: skip


def test_a_request_without_compression_is_that_of_versions_without_it(scenes: Path, tmp_path: Path) -> None:
    values = settings(steps="none").model_copy(update={"compress": FitSettings().compress})
    job = asked(scenes, "latency<=10s", values)
    assert list(job.request) == ["data", "budget", "target", "threads", "size", "weights", "minutes", "settings"]
    before = {"search": values.search.model_dump(mode="json"), "train": values.train.model_dump(mode="json")}
    del before["search"]["storage"], before["search"]["gradient"], before["search"]["sandwich"]["rule"]  # came later
    assert json.dumps(job.request["settings"]) == json.dumps(before)
    Run(tmp_path / "old", job.request | {"settings": before})  # as a version without compression left it
    assert Run(tmp_path / "old", job.request).request["settings"] == before
    more = asked(scenes, "latency<=10s", settings())
    with pytest.raises(CatchweightError, match="differs in: settings"):
        Run(tmp_path / "old", more.request)


@pytest.mark.parametrize(
    ("budget", "set_", "target", "message"),
    [
        ("params<=1M", (), "onnxruntime:cpu", "compression works towards a latency"),
        ("latency<=9ms", (), "torch:cpu", "use --compress prune"),
        ("latency<=9ms", (), "onnxruntime:cpu:int8", "use --target onnxruntime:cpu, with --compress int8"),
        ("latency<=9ms", ("compress.steps=none", "compress.tolerance=1"), "onnxruntime:cpu", "add --compress"),
        ("latency<=9ms", ("compress.step=all",), "onnxruntime:cpu", 'did you mean "compress.steps"'),
    ],
)
def test_what_makes_no_sense_is_refused(
    scenes: Path, budget: str, set_: tuple[str, ...], target: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        asked(scenes, budget, settings(), set_, target=target)


def test_a_dry_run_tells_the_stages_that_are_added(scenes: Path, budget: str) -> None:
    plain = describe_plan(asked(scenes, budget, settings().model_copy(update={"compress": FitSettings().compress})))
    plan = describe_plan(asked(scenes, budget, settings(ablation="full")))
    assert not any("compression" in key for key in plain)
    assert set(plan["minutes of compression"]) == {
        "second race", "profile prunings", "prune", "fine-tune", "int8", "fine-tune without distillation"
    }  # fmt: skip
    assert plan["minutes in all"] >= sum(plan["minutes of compression"].values()) > 0


def test_the_command_names_the_nearest_compression(
    cli: Callable[..., tuple[int, str, str]], scenes: Path, tmp_path: Path
) -> None:
    code, _, err = cli("fit", scenes, "--budget", "latency<=9ms", "--run", tmp_path / "r", "--compress", "prun")
    assert code == 2
    assert 'did you mean "prune"' in err


def test_relaxed_budgets_keep_what_is_not_latency() -> None:
    assert str(relaxed(Budget.parse("latency<=4.7ms, params<=2M"), 2.24)) == "latency<=10.528ms, params<=2M"
    tight = Budget.parse("latency<=4.7ms")
    assert relaxed(tight, 1) is tight

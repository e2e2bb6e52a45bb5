"""The benchmark of the search against random members: its costs by hand, and both arms at toy size."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from catchweight.budget import Budget, Cost
from catchweight.data.scenes import make_scenes
from catchweight.files import read_json
from catchweight.front import Arch, Candidate, Front
from catchweight.train.supernet import Sandwich
from conftest import REPOSITORY
from formula_target import exact, formula


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("against", REPOSITORY / "benchmarks" / "search_against_random.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["against"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["against"]


@pytest.mark.parametrize(
    ("how", "passes"),
    [
        (Sandwich(), 4),
        (Sandwich(members=0), 2),
        (Sandwich(members=8, share_batch=True), 3),
        (Sandwich(rule="uniform", members=1), 1),
        (Sandwich(rule="uniform", members=4, share_batch=True), 1),
    ],
)
def test_a_step_costs_what_goes_through_it(bench: ModuleType, how: Sandwich, passes: int) -> None:
    assert bench.passes_of_a_step(how) == passes


def test_fronts_are_compared_below_the_loosest_budget(bench: ModuleType) -> None:
    def front(*points: tuple[float, float]) -> Front:
        return Front(tuple(Candidate(Arch(n=ms), Cost(latency_ms=ms), score) for ms, score in points))

    budgets = [Budget.parse("latency<=10ms"), Budget.parse("latency<=3ms")]
    found = bench.compare(front((2, 0.5), (4, 0.6)), front((5, 0.5), (12, 0.9)), budgets, bench.Cost(8, 1, 3), 4)
    assert found["hypervolume"] == {"search": pytest.approx(8 * 0.5 + 6 * 0.1), "random": pytest.approx(2.5)}
    assert found["ratio"] == pytest.approx(4.6 / 2.5)
    assert found["cost"]["search"] == 12
    assert found["cost"]["random"] == 8
    assert found["best"]["latency<=3ms"] == {"search": {"miou": 0.5, "ms": 2}, "random": None}


@pytest.mark.timeout(900)
def test_both_arms_at_toy_size_cost_the_same_and_go_on(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = make_scenes(tmp_path / "scenes", {"train": 8, "val": 2}, size=(64, 96))
    settings = {
        "search.backbone": "test_efficientnet", "search.scales": "[1.0]", "search.profiled": 10,
        "search.supernet_epochs": 1, "search.evaluations": 3, "search.finalists": 1, "search.sandwich.members": 0,
        "train.batch": 4, "train.tensorboard": "false", "train.accelerator": "cpu",
    }  # fmt: skip
    words = [
        str(scenes), "--out", str(tmp_path / "out"), "--seeds", "0", "--budget", "latency<=10s",
        "--epochs", "1", "--threads", "1", "--weights", "none", "--beside", "timm/test_efficientnet+fpn",
        *(part for key, value in settings.items() for part in ("--set", f"{key}={value}")),
    ]  # fmt: skip
    monkeypatch.setattr(bench, "interleaved", exact)
    with formula():
        done = bench.run(bench.parsed(words))
        row = done["rows"]["seed 0"]
        # 1 epoch x 2 members, 3 scored on 8 + 2 of 8 images at a third of the cost, 1 finalist x 1 epoch.
        assert row["cost"]["search"] == pytest.approx(2 + 3 * 10 / 8 / 3 + 1)
        assert row["cost"]["random"] == row["members"]["random"] == 5
        assert done["beside"][0]["network"] == "timm/test_efficientnet+fpn"
        table = (tmp_path / "out" / "search_against_random.md").read_text()
        assert "Mean ratio" in table
        assert read_json(tmp_path / "out" / "search_against_random.json")["rows"].keys() == {"seed 0"}
        monkeypatch.setattr(bench, "train", lambda *a, **k: pytest.fail("trained twice"))
        again = bench.run(bench.parsed(words))
        assert again == done
        (job,) = bench.jobs(bench.parsed(["--run", str(tmp_path / "out" / "search-0")])).values()
        assert bench.search_arm(job, 1)[0].to_json() == row["fronts"]["search"]

"""Compression behind the main route: two budgets, both races of each from one supernet."""

from __future__ import annotations

import pytest
from tiny_chain import toy_scenes

import catchweight as cw
from catchweight.budget import Budget
from catchweight.compress.quantize import QuantizeSettings
from catchweight.files import read_json
from catchweight.fitting import CompressionSettings, FitResult, FitSettings, SearchSettings, prepare
from catchweight.fitting.main import route_of
from catchweight.fitting.one_shot import OneShotRoute
from catchweight.front import Front
from catchweight.train import Recipe
from formula_target import formula

SETTINGS = FitSettings(
    search=SearchSettings(
        space="elastic", backbone="test_efficientnet", scales=(1.0,), profiled=10, supernet_epochs=1, evaluations=6,
        finalists=1,
    ),
    train=Recipe(epochs=1, batch=4, lr=2e-3, warmup=0.0, tensorboard=False, workers=0, accelerator="cpu"),
    compress=CompressionSettings(
        steps="int8", tolerance=100,
        int8=QuantizeSettings(methods=("minmax",), images=2, probe=1, equalise=False, correct_bias=False),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    scenes = toy_scenes(tmp_path_factory.mktemp("one") / "scenes")
    with formula() as patch:
        patch.setenv("CATCHWEIGHT_CACHE", str(tmp_path_factory.mktemp("cache1")))
        job = prepare(
            scenes, "latency<=1ms", target="onnxruntime:cpu", run="unused", size=None, settings=SETTINGS, set_=(),
            minutes=None, threads=1, weights="none", seed=0, say=lambda _: None,
        )  # fmt: skip
        route = route_of(job)
        assert isinstance(route, OneShotRoute)
        space = route.space
        low, high = (
            job.target.measure(space.subnet(a), job.base).median_ms for a in (space.smallest(), space.largest())
        )
        budgets = [f"latency<={value:.5f}ms" for value in (0.9 * high, 0.9 * low)]
        return cw.fit(
            scenes, budgets, run=tmp_path_factory.mktemp("runs1") / "run", settings=SETTINGS, threads=1, weights="none",
            say=lambda _: None,
        )  # fmt: skip


def test_each_budget_has_its_races_and_the_better_network(finished: FitResult) -> None:
    wide, narrow = finished.points
    for point in (wide, narrow):
        assert Budget.parse(point.budget).allows(point.best.cost)
        told = read_json(point.folder / "chain.json")
        assert told["chosen"] == ("compressed" if point.best.arch.get("compressed") else "direct")
    assert narrow.best.arch["compressed"] == ["int8"], "no member is so fast as trained"
    assert "no network of the space" in read_json(narrow.folder / "chain.json")["rows"][-1]["note"]
    merged = Front.read(finished.folder / "front.json")
    assert all(point.best in merged.candidates for point in finished.points)


def test_members_were_looked_for_under_the_relaxed_budgets(finished: FitResult) -> None:
    limits = [Budget.parse(point.budget).limits[0].value for point in finished.points]
    found = [c.cost.latency_ms for c in Front.read(finished.folder / "explored.json").candidates]
    assert found
    assert max(found) <= 1.6 * limits[0]
    assert (finished.folder / "report.html").exists()

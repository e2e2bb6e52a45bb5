"""The gradient route end to end on the formula device: two budgets, a teacher, killed and resumed, refused."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import catchweight as cw
from catchweight.data.scenes import make_scenes
from catchweight.errors import CatchweightError, UsageError
from catchweight.fitting import FitSettings, describe_plan, gradient_route, prepare
from catchweight.fitting.gradient_route import PRETRAIN_SHARE, SEARCH_SHARE, TEACHER_SHARE
from catchweight.fitting.job import OVERTIME, Job, latency_limit
from catchweight.fitting.random_route import RandomRoute
from catchweight.fitting.settings import defaults
from catchweight.front import Front
from catchweight.nets import load_network, save_network
from catchweight.search.gradient import co_search
from catchweight.search.screen import Screening
from catchweight.spaces.fasterseg import Part
from catchweight.train import scratch
from catchweight.train.checkpoints import load_state
from catchweight.train.distill import network_hash
from formula_target import formula

pytestmark = pytest.mark.timeout(600)

TINY = (
    "search.strategy=gradient",
    "search.gradient={layers: 5, base: 1, widths: [8, 12], pretrain_epochs: 1, search_epochs: 2, batch: 2}",
    "search.finalists=1",
    "train.epochs=2",
    "train.batch=4",
    "train.tensorboard=false",
    "train.accelerator=cpu",
)
BUDGET = "latency<=10s"


def made_up_ms(wanted: Sequence[Part]) -> list[float]:
    """Milliseconds by multiply-adds."""
    return [0.001 + 1e-7 * p.inp * p.out * p.height * p.width * (2 if "2x" in p.op else 1) for p in wanted]


@pytest.fixture(scope="module", autouse=True)
def _device():
    """Files have the latency of a formula, and operators one by their multiply-adds."""
    with formula() as patch:
        patch.setattr(gradient_route, "MeasuredTimes", lambda target, file: made_up_ms)
        yield


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("fit2") / "scenes", {"train": 8, "val": 2}, size=(64, 96))


def tiny_fit(scenes: Path, run: Path, budget=BUDGET, extra=(), say=lambda _: None, **more):
    return cw.fit(scenes, budget, run=run, set_=(*TINY, *extra), threads=1, weights="none", say=say, **more)


def prepared(scenes: Path, run: Path, *extra: str) -> Job:
    return prepare(
        scenes, BUDGET, target="onnxruntime:cpu", run=run, size=None, settings=None, set_=(*TINY, *extra),
        minutes=None, threads=1, weights="none", seed=0, say=lambda _: None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(scenes, tmp_path_factory):
    return tiny_fit(scenes, tmp_path_factory.mktemp("runs2") / "run")


def test_the_student_is_trained_by_its_teacher_exported_and_measured(finished, scenes):
    folder = finished.folder / "co-search" / "10000ms"
    found = json.loads((folder / "result.json").read_text())
    net, meta = load_network(finished.folder / "model.pt")
    assert finished.best.arch["network"] == net.spec.name == found["student"]
    assert load_network(folder / "teacher.pt")[0].spec.name == found["teacher"]
    assert json.loads((finished.folder / "verification.json").read_text())["passed"] is True
    about = load_state(finished.folder / "train" / "last.pt")["identity"]["objective"]
    assert about["kind"] == "distillation"
    assert about["teacher"]["network"] == found["teacher"]
    mask = cw.Segmenter(finished.file)(next((scenes / "images" / "val").iterdir()))
    assert mask.shape == (64, 96)


def test_what_was_read_off_is_on_the_front(finished):
    front = Front.read(finished.folder / "front.json")
    assert finished.best in front.candidates
    others = [c for c in front.candidates if "not trained alone" in c.note]
    assert all(c.score is not None and c.cost.latency_ms for c in others)
    read_off = json.loads((finished.folder / "co-search" / "10000ms" / "result.json").read_text())["history"]
    names = {row["name"] for record in read_off for row in record["student"]["candidates"].values()}
    assert {c.arch["network"] for c in front.candidates} == names


def test_running_again_repeats_nothing(finished, scenes):
    stages = {p: p.stat().st_mtime_ns for p in finished.folder.rglob("stages/*.json")}
    assert tiny_fit(scenes, finished.folder).best == finished.best
    assert {p: p.stat().st_mtime_ns for p in finished.folder.rglob("stages/*.json")} == stages


class Killed(BaseException):
    """What a kill looks like from inside."""


def test_killed_in_every_stage_it_ends_with_the_same_network(finished, scenes, tmp_path):
    words = ["pretrain:", "pretrain epoch", "co-search:", "teacher:", "screen:", "train:"]

    def killing(line: str) -> None:
        if words and line.startswith(words[0]):
            words.pop(0)
            raise Killed

    while words:
        with pytest.raises(Killed):
            tiny_fit(scenes, tmp_path / "run", say=killing)
    result = tiny_fit(scenes, tmp_path / "run")
    assert result.best.arch == finished.best.arch
    mine, theirs = (load_network(folder / "model.pt")[0].state_dict() for folder in (result.folder, finished.folder))
    assert all(torch.equal(mine[name], value) for name, value in theirs.items())


def test_students_begin_at_the_recipe_for_random_weights() -> None:
    mine = defaults(["search.strategy=gradient"]).train
    assert mine == scratch().model_copy(update={"loss": mine.loss})
    assert mine.loss.aux == 0.2
    assert defaults(["search.strategy=random", "search.space=fasterseg"]).train == mine
    assert defaults(["search.strategy=random"]) == FitSettings()


def test_each_budget_has_a_search_of_its_own_and_time_is_shared(scenes, tmp_path):
    result = tiny_fit(
        scenes, tmp_path / "run", ["latency<=10s", "latency<=5s"], extra=["search.gradient.distill=0"], minutes=3
    )
    assert [p.name for p in sorted((tmp_path / "run" / "co-search").iterdir())] == ["10000ms", "5000ms"]
    assert len(result.points) == 2
    assert not list((tmp_path / "run").rglob("teacher.pt"))
    windows = [
        json.loads((tmp_path / "run" / "co-search" / name / "about.json").read_text())["window_ms"][1]
        for name in ("10000ms", "5000ms")
    ]
    assert windows == pytest.approx([9600, 4800])


def test_each_budget_has_a_teacher_of_its_own(scenes, tmp_path, monkeypatch):
    """Also where both searches read off one student: it is trained for each, by the teacher found with it."""
    run, train_teacher = tmp_path / "run", gradient_route.GradientRoute._train_teacher

    def told_apart(self, point, result):
        """At toy size both searches end with one teacher; here each has a weight that tells its budget."""
        train_teacher(self, point, result)
        file = self._folder(point.budget) / "teacher.pt"
        net, meta = load_network(file)
        with torch.no_grad():
            next(net.parameters()).view(-1)[0] = latency_limit(point.budget) / 1e5
        save_network(file, net, meta)

    monkeypatch.setattr(gradient_route.GradientRoute, "_train_teacher", told_apart)
    tiny_fit(scenes, run, ["latency<=20s", "latency<=15s"], extra=["search.gradient.search_epochs=1"])
    teachers = {
        name: network_hash(load_network(run / "co-search" / f"{name}000ms" / "teacher.pt")[0]) for name in ("20", "15")
    }
    assert len(set(teachers.values())) == 2
    for name, teacher in teachers.items():
        about = load_state(run / "points" / f"latency-{name}s" / "train" / "last.pt")["identity"]["objective"]
        assert about["teacher"]["hash"] == teacher
    fronts = {path: path.read_text() for path in run.rglob("front.json")}
    tiny_fit(scenes, run, ["latency<=20s", "latency<=15s"], extra=["search.gradient.search_epochs=1"])
    assert {path: path.read_text() for path in run.rglob("front.json")} == fronts


def test_where_no_student_makes_the_budget_the_smallest_network_stands_in(finished, scenes, monkeypatch):
    job = prepared(scenes, finished.folder)
    monkeypatch.setattr(gradient_route.GradientRoute, "screened", lambda *_, **__: Screening((), ()))
    route = gradient_route.GradientRoute(job)
    (found,) = route.candidates(job.points[0]).allowed
    assert found.arch["network"] == route.space.network_name(route.space.smallest())
    assert found.cost.latency_ms


def test_an_unreachable_budget_is_told_before_anything_is_trained(scenes, tmp_path):
    with pytest.raises(CatchweightError, match="no network of the space makes the budget"):
        tiny_fit(scenes, tmp_path / "run", "latency<=0.000001ms")
    assert not (tmp_path / "run" / "pretrain").exists()


def test_a_dry_run_tells_the_minutes_of_every_stage(scenes, tmp_path):
    plan = describe_plan(prepared(scenes, Path("unused")))
    assert set(plan["minutes"]) == {"profile", "pretrain", "search", "teacher", "training"}
    assert not Path("unused").exists()
    assert describe_plan(prepared(scenes, tmp_path))["minutes"].keys() == plan["minutes"].keys()
    assert not list(tmp_path.iterdir())


def test_a_phase_whose_time_is_up_ends_with_what_its_epoch_found(scenes, tmp_path):
    data, route = cw.open_data(scenes), gradient_route.GradientRoute(prepared(scenes, tmp_path / "unused"))
    planned, said = route._settings(pretrained=3, limit_ms=10.0, epochs=3), []
    found = co_search(data, planned, tmp_path / "run", made_up_ms, deadline=time.monotonic(), say=said.append)
    assert [line for line in said if "time was up" in line] == [
        f"{phase}: stopped after epoch 1 of 3, its time was up" for phase in ("pretrain", "search")
    ]
    (epoch,) = found.history
    assert all(c["miou"] is not None for c in epoch["student"]["candidates"].values()), "the last epoch is validated"
    assert co_search(data, planned, tmp_path / "run", made_up_ms) == found


def test_the_stages_are_given_their_share_of_the_time(scenes, tmp_path, monkeypatch):
    ends = {}

    def noted(name):
        def stage(*_, deadline, **__):
            ends[name] = deadline
            raise CatchweightError(name)

        return stage

    for name in ("pretrain", "co_search", "train"):
        monkeypatch.setattr(gradient_route, name, noted(name))
    job = prepared(scenes, tmp_path / "run")
    job.end = time.monotonic() + 1000
    job.run.stage("pretrain-plan", lambda: {"epochs": 1, "search_epoch_seconds": 1.0})
    route, point = gradient_route.GradientRoute(job), job.points[0]
    network = route.space.network_name(route.space.smallest())
    for work in (route._pretrain, lambda: route._searched(point),
                 lambda: route._train_teacher(point, SimpleNamespace(teacher=network))):  # fmt: skip
        with pytest.raises(CatchweightError):
            work()
    left = {name: (deadline - time.monotonic()) / 1000 for name, deadline in ends.items()}
    shares = {"pretrain": PRETRAIN_SHARE, "co_search": SEARCH_SHARE, "train": TEACHER_SHARE}
    assert left == pytest.approx({name: OVERTIME * share for name, share in shares.items()}, abs=0.1)


@pytest.mark.parametrize(
    ("budget", "extra", "message"),
    [
        ("params<=5M", (), "works towards a latency"),
        (BUDGET, ("search.strategy=one-shot", "search.space=fasterseg"), "search.strategy=gradient"),
        (BUDGET, ("search.gradient.layer=3",), "search.gradient.layers"),
    ],
)
def test_what_cannot_be_searched_by_gradient_is_refused(scenes, tmp_path, budget, extra, message):
    with pytest.raises(UsageError, match=message):
        tiny_fit(scenes, tmp_path / "run", budget, extra)


def test_random_members_of_the_published_space_race_from_random_weights(scenes, tmp_path):
    job = prepared(scenes, tmp_path / "unused", "search.strategy=random", "search.space=fasterseg")
    route = RandomRoute(job)
    arch = route.space.smallest()
    first, again = (route.network(arch).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], value) for name, value in again.items())

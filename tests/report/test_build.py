"""From a run folder to its report: finished, stopped, damaged, of several budgets; and the examples it draws."""

from __future__ import annotations

import html
import json
import math
import shutil

import pytest
from finished_run import HTML, candidates, hostile_scenes, make_run
from PIL import Image

from catchweight.budget import Cost
from catchweight.errors import CatchweightError
from catchweight.files import write_json
from catchweight.front import Arch, Candidate, Front
from catchweight.report.build import report_data, write_run_report
from catchweight.report.compare import run_names, write_comparison
from catchweight.report.examples import ensure_examples
from catchweight.report.history import front_so_far, search_history
from catchweight.report.html import interactive
from catchweight.run import Run
from catchweight.search import successive_halving


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Run:
    return make_run(tmp_path_factory.mktemp("built"))


@pytest.fixture
def run(made, tmp_path) -> Run:
    """A copy, to be damaged."""
    shutil.copytree(made.folder, tmp_path / "run")
    return Run(tmp_path / "run")


def test_a_finished_run_is_read_whole(made):
    data = report_data(made, draw=True)
    assert data.notes == ()
    assert data.verdict == "passed"
    assert "38% below the limit" in data.verdicts[0].note
    assert "measured 2 times: 4.90, 5.00 ms" in data.verdicts[0].note
    assert "it is the median that keeps it" in data.verdicts[0].note, "p90 is over the limit"
    assert [stage.name for stage in data.stages][-1] == "measure"
    assert data.environment["seed"] == "3"
    assert {source.file for source in data.sources} >= {"latency.json", "front.json", "study.db", "model.onnx"}


def test_the_history_is_that_of_the_study(made):
    found = search_history(made)
    assert [(e.epochs, round(e.score, 2)) for e in found] == [
        (1, 0.32), (1, 0.37), (1, 0.22), (1, 0.42), (2, 0.39), (2, 0.44),
    ]  # fmt: skip


def test_a_history_that_the_run_wrote_goes_first(run):
    write_json(run.path("history.json"), {"evaluations": [{"score": 0.5, "name": "a", "later": 1}]})
    assert [e.score for e in search_history(run)] == [0.5]


def test_of_a_search_under_way_the_scores_so_far_are_known(run):
    for name in ("front.json", "stages/search.json", "stages/measure.json"):
        run.path(*name.split("/")).unlink()
    found = front_so_far(run)
    assert [c.score and round(c.score, 2) for c in found.candidates] == [0.32, 0.39, 0.22, 0.44, None, None]
    assert report_data(run).verdict == "open"


def test_a_candidate_that_diverged_has_no_score_in_a_search_under_way(run):
    for name in ("front.json", "stages/search.json", "stages/measure.json", "study.db", "history.json"):
        run.path(*name.split("/")).unlink(missing_ok=True)
    allowed = candidates()[:3]
    successive_halving(
        allowed, lambda c, epochs: -math.inf if c == allowed[1] else 0.5, rungs=[1, 2],
        storage=f"sqlite:///{run.path('study.db')}",
    )  # fmt: skip
    found = front_so_far(run).candidates
    assert [c.score for c in found[:3]] == [0.5, None, 0.5]
    assert found[1].note == "its training diverged"
    assert [e.score for e in search_history(run)] == [0.5, 0.5]
    assert report_data(run).notes == ()


def test_the_reason_of_a_stop_is_kept_for_later_reports(run):
    write_run_report(run, stopped="the disk is full")
    assert "the disk is full" in write_run_report(run).read_text(encoding="utf-8")
    with run.locked():
        assert run.stopped == ""


def test_examples_are_the_worst_and_the_best_and_drawn_once(run):
    found = ensure_examples(run)
    worst = [e["miou"] for e in found["examples"] if e["kind"] == "worst"]
    best = [e["miou"] for e in found["examples"] if e["kind"] == "best"]
    assert len(worst) == len(best) == 3
    assert worst == sorted(worst)
    assert best == sorted(best, reverse=True)
    assert max(worst) <= min(best)
    assert len({e["id"] for e in found["examples"]}) == 6
    for example in found["examples"]:
        sizes = {Image.open(run.path("examples", name)).size for name in example["files"].values()}
        assert sizes == {(96, 64)}
    before = run.path("examples", "examples.json").stat().st_mtime_ns
    assert ensure_examples(run) == found
    assert run.path("examples", "examples.json").stat().st_mtime_ns == before


def test_without_the_data_the_report_says_why_there_are_no_examples(run):
    known = json.loads(run.path("run.json").read_text(encoding="utf-8"))
    known["request"]["data"] = "/no/such/data"
    shutil.rmtree(run.path("examples"), ignore_errors=True)
    write_json(run.path("run.json"), known)
    assert "/no/such/data" in report_data(Run(run.folder), draw=True).examples_note


def test_an_examples_file_leads_to_no_other_folder(run):
    write_json(run.path("examples", "examples.json"), {"scored": 1, "examples": [
        {"kind": "worst", "id": "a", "miou": 0.1, "files": {"image": "../../../../etc/passwd"}}]})  # fmt: skip
    images = [path for example in report_data(run).examples for path in example.images.values()]
    assert images[0] == run.path("examples", "passwd")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("front.json", "{"), ("front.json", '{"candidates": 1}'), ("latency.json", "[]"),
        ("latency.json", '{"used": {}}'), ("train/score.json", '{"per_class": 3}'),
        ("train/score.json", '{"miou": 1}'), ("train/metrics.csv", "epoch,val_miou\na,b\n"),
        ("study.db", "no database"),
        ("blocks.json", '{"rows": [{"name": "a"}]}'), ("predictions.json", '{"points": [{"predicted_ms": -1}]}'),
        ("ablation.json", "3"), ("baselines.json", "[1]"), ("history.json", '{"evaluations": [{}]}'),
        ("examples/examples.json", '{"examples": [{}]}'), ("model.json", '{"classes": 3}'), ("data.json", "\udcff"),
        ("verification.json", "nonsense"), ("sessions.json", "{}"),
    ],
)  # fmt: skip
def test_a_damaged_file_costs_its_section_not_the_report(run, file, text):
    path = run.path(*file.split("/"))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    if file == "study.db":
        run.path("history.json").unlink(missing_ok=True)
    data = report_data(run)
    if file != "sessions.json":
        assert data.notes, "what could not be read is said"
    assert len(write_run_report(run).read_text(encoding="utf-8")) > 100_000


def test_baselines_stand_beside_the_front(run):
    write_json(run.path("baselines.json"), {"a paper": Front(candidates(2)).to_json()})
    assert [len(found) for found in report_data(run).baselines.values()] == [2]


def test_published_networks_that_raced_beside_members_are_baselines(run):
    member = Candidate(Arch(width=24, size=[64, 96]), Cost(latency_ms=3.0), 0.5, "chosen", 4)
    published = Candidate(Arch(network="timm/plain+fpn", size=[64, 96], width=1.0), Cost(latency_ms=4.0), 0.45, "", 2)
    write_json(run.path("front.json"), Front((member, published)).to_json())
    data = report_data(run)
    assert data.baselines == {"published network": (published,)}
    trace = next(t for t in drawn_front(data) if t["name"] == "published network")
    assert (trace["x"], trace["y"]) == ([4.0], [0.45])
    write_json(run.path("front.json"), Front((published,)).to_json())
    assert report_data(run).baselines == {}, "where all are published there is nothing to tell apart"


def drawn_front(data) -> list:
    return interactive(data.front, data.budgets, data.baselines)["figures"]["latency"]["data"]


def test_class_names_with_html_are_text_in_the_report_and_nothing_is_written_elsewhere(tmp_path):
    folder = tmp_path / "süß & 雪, <b>spaced</b> 'quoted'"
    hostile_scenes(folder)
    made = make_run(folder)
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(made.folder)}
    text = write_run_report(made).read_text(encoding="utf-8")
    assert report_data(made).class_names[: len(HTML)] == HTML
    for name in HTML:
        assert html.escape(name, quote=False) in text.replace("&#39;", "'").replace("&#34;", '"')
    assert "<img src=x" not in text
    assert "<script>harmed" not in text
    assert "<b>spaced" not in text
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(made.folder)} == before


def test_several_budgets_share_a_page_and_have_their_own(run, tmp_path):
    whole = Run(tmp_path / "whole", run.request | {"budget": ["latency<=8ms", "latency<=1ms"]})
    shutil.copytree(run.folder, whole.path("points", "latency-8ms"))
    (whole.path("points", "latency-8ms") / "data.json").rename(whole.path("data.json"))
    point = whole.points[0]
    assert point.parent is not None
    assert report_data(point).data["format"] == "folder", "the data is described in the parent's folder"
    write_run_report(point)
    data = report_data(whole)
    assert [row.verdict for row in data.points] == ["passed"]
    assert data.points[0].link == "points/latency-8ms/report.html"
    assert data.verdict == "open", "the second budget is not reached"
    assert not whole.finished
    assert len(data.front.candidates) == 6


def test_runs_on_other_data_do_not_compare(run, tmp_path):
    other = Run(tmp_path / "other", run.request | {"data": "elsewhere"})
    with pytest.raises(CatchweightError, match="do not compare: data is"):
        write_comparison([run, other], tmp_path / "c.html")
    assert not (tmp_path / "c.html").exists()


def test_runs_are_named_by_what_tells_them_apart(tmp_path):
    runs = [Run(tmp_path / name / "run", {"budget": "latency<=1ms"}) for name in ("a", "b")]
    assert run_names(runs) == ["a/run", "b/run"]
    with pytest.raises(CatchweightError, match="named twice"):
        run_names([runs[0], runs[0]])

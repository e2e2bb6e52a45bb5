"""The report: complete, partial and hostile runs each give one page that stands alone."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catchweight.budget import Budget, Cost
from catchweight.errors import CatchweightError
from catchweight.front import Arch, Candidate, Front
from catchweight.report import (
    Example,
    PointRow,
    ReportData,
    Snippet,
    Source,
    StageRow,
    Verdict,
    render_report,
    write_report,
)
from catchweight.report.html import MOST_ROWS, amount, duration, plotly_js
from catchweight.report.inputs import Ablated, Ablation, Block, Blocks, Evaluation, Peak, Prediction, Predictions

HOSTILE = """<script>alert(1)</script> "quoted" & 'more' $x_{ {{ 7*7 }}"""
CLASSES = ("road", "sky", HOSTILE, "a class with a very long name indeed")


class _Page(HTMLParser):
    """Tags with their attributes, the text, and whether every opened tag is closed in order."""

    VOID = frozenset({"meta", "link", "img", "br", "input"})
    PLOTLY = "the plotting library's script"

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text.replace(plotly_js(), self.PLOTLY))
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def text(full: ReportData) -> str:
    """The full run's page, drawn once for all tests that only look."""
    return render_report(full)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    tmp_path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    images = {}
    for label in ("image", "truth", "prediction"):
        images[label] = tmp_path / f"{label}.png"
        Image.fromarray(rng.integers(0, 255, (90, 1600, 3), np.uint8)).save(images[label])
    rows = tuple(
        Candidate(
            Arch(network=f"net{k}", size=[180, 240], width=0.5),
            Cost(latency_ms=3.0 + k, params=1e6 * k + 1, macs=2e8),
            0.4 + 0.03 * k if k < 5 else None, "chosen" if k == 4 else "", 10,
        )
        for k in range(7)
    )  # fmt: skip
    history: list[dict[str, Any]] = [
        {"epoch": e, "lr": 1e-3 / e, "train_loss": 2 / e, "val_miou": 0.1 * e if e % 2 else None, "pixel_accuracy": 0.5}
        for e in range(1, 7)
    ]
    return ReportData(
        title="street", subtitle="today",
        verdicts=(Verdict(budget="latency<=8ms", measured="7.1 ms", ok=True, note="spread 3%"),),
        budgets=(Budget.parse("latency<=8ms"),), front=Front(rows), chosen=rows[4],
        baselines={"a paper": (Candidate(Arch(network="theirs"), Cost(latency_ms=5.0), 0.45),)},
        evaluations=tuple(Evaluation(score=s, phase=p) for s, p in ((0.2, "supernet"), (0.3, "race"), (0.5, "race"))),
        blocks=Blocks(peak=Peak(gflops=90, gbs=12), rows=(
            Block(name="stem", kind="conv", ms=0.7, share=0.7, macs=1e8, bytes=2e6, efficiency=0.9, bound="compute"),
            Block(name="head", ms=0.3, share=0.3, efficiency=1.2),
        )),
        predictions=Predictions(points=tuple(Prediction(predicted_ms=k + 0.2, measured_ms=k) for k in range(1, 6))),
        ablation=Ablation(rows=(Ablated(stage="all", score=0.52, latency_ms=7), Ablated(stage="no search", score=0.5),
                                Ablated(stage="half as long", score=0.3, against=0.25))),
        file_bytes=4.2e6, history=tuple(history), miou=0.52,
        pixel_accuracy=0.9, boundary_f=0.4, per_class=dict(zip(CLASSES[:3], (0.9, 0.4, 0.26), strict=True)),
        absent=CLASSES[3:], class_names=CLASSES, class_colors=((1, 2, 3), (40, 50, 60), (70, 80, 90), (9, 9, 9)),
        confusion=((90, 5, 5, 0), (1, 60, 3, 0), (2, 2, 9, 0), (0, 0, 0, 0)),
        examples=(Example(caption="worst: a.png", images=images),),
        latency={"median_ms": 7.1, "p10_ms": 7.0, "p90_ms": 7.3, "n": 99, "threads": 2, "batch": 1,
                 "runtime": "onnxruntime", "notes": ["the machine was noisy"]},
        target="onnxruntime:cpu",
        verification={"max_rel_diff": 1e-6, "changed_share": 0.0, "miou_eager": 0.52, "miou_onnx": 0.52, "images": 9,
                      "passed": True, "message": "fine"},
        data={"root": "data", "format": "folder", "classes": list(CLASSES), "sizes": {"480x360": 20},
              "counts": {"train": {"images": 20, "labelled": 20}},
              "shares": {"train": dict.fromkeys(CLASSES, 0.25)},
              "problems": [{"level": "warning", "file": f"{k}.png", "message": HOSTILE} for k in range(20)]},
        stages=(StageRow(name="screen", seconds=75), StageRow(name="train")),
        snippets=(Snippet(title="Python", text=f"name = {HOSTILE!r}"),),
        config_yaml="train:\n  lr: 0.1\n", environment={"seed": "0"},
        sources=(Source(figure="mIoU", file="train/score.json", how="all images"),), notes=("one file was damaged",),
        examples_note="picked by the file",
    )  # fmt: skip


def test_a_full_run_shows_every_section(text: str) -> None:
    page = _Page(text)
    said = " ".join(page.text)
    assert "It makes weight" in said
    assert "Not reached" not in said
    assert len(page.all("svg")) == 8
    for words in (
        "on 5 networks kept out",
        "-0.0200",
        "+0.0500",
        "a paper",
        "one file was damaged",
        "all images",
        "picked by the file",
        "0.520",
        "7.10",
        "latency<=8ms",
        "1 min 15 s",
        "net4",
        "the machine was noisy",
        "verified",
    ):
        assert words in said, words


def test_an_empty_run_says_what_was_not_reached() -> None:
    page = _Page(render_report(ReportData(title="begun", stopped="the disk is full")))
    text = " ".join(page.text)
    assert "Not finished" in text
    assert "the disk is full" in text
    assert text.count("Not reached") >= 8
    assert page.all("svg") == []


@pytest.mark.parametrize("turn", range(5))
def test_any_part_may_be_missing(full: ReportData, turn: int) -> None:
    fields = sorted(set(ReportData.model_fields) - {"title"})[turn::5]
    defaults = {name: ReportData.model_fields[name].get_default(call_default_factory=True) for name in fields}
    _Page(render_report(full.model_copy(update=defaults)))


def test_candidates_without_any_score_are_drawn(full: ReportData) -> None:
    rows = tuple(dataclasses.replace(c, score=None) for c in full.front.candidates)
    page = _Page(render_report(full.model_copy(update={"front": Front(rows), "chosen": None, "baselines": {}})))
    assert "No candidate has a score yet." in " ".join(page.text)
    assert not [attributes for attributes in page.all("div") if attributes.get("id") == "front-plot"]


def test_the_front_is_drawn_for_every_cost_and_every_candidate_has_a_card(text: str) -> None:
    drawn = front_data(text)
    assert set(drawn["figures"]) == {"latency", "params"}  # all have the same MACs: that is no front
    assert {card["title"] for card in drawn["cards"].values()} == {
        *(f"net{k}-w0.5-180x240" for k in range(7)), "theirs",
    }  # fmt: skip
    for figure in drawn["figures"].values():
        for trace in figure["data"]:
            assert set(trace["ids"]) <= set(drawn["cards"]), "a click finds a card"
    card = next(card for card in drawn["cards"].values() if card["title"].startswith("net4"))
    assert ["score", "0.5200"] in card["result"]
    assert ["width", "0.5"] in card["choices"]


def test_a_long_table_is_cut_and_nothing_lost(full: ReportData) -> None:
    many = tuple(Candidate(Arch(depth=k), Cost(latency_ms=1.0 + k), k / 100) for k in range(MOST_ROWS + 9))
    page = _Page(render_report(full.model_copy(update={"front": Front(many), "chosen": None})))
    assert "9 more candidates" in " ".join(page.text)
    assert len([a for a in page.all("button") if a.get("class") == "name"]) == MOST_ROWS + 9


def test_a_run_of_several_budgets_leads_to_their_reports(full: ReportData) -> None:
    budgets = tuple(map(Budget.parse, ("latency<=8ms", "latency<=4ms")))
    points = [PointRow(budget="latency<=8ms", verdict="passed", network="net4", score=0.5, link="points/a/report.html")]
    data = ReportData(title="t", budgets=budgets, points=tuple(points), front=full.front)
    assert data.verdict == "open", "the second is not reached"
    points.append(PointRow(budget="latency<=4ms", verdict="failed", network="net1", score=0.4))
    data = data.model_copy(update={"points": tuple(points)})
    page = _Page(render_report(data))
    assert "It does not make weight" in " ".join(page.text)
    assert "points/a/report.html" in [a.get("href") for a in page.all("a")]
    assert "has not been scored" not in " ".join(page.text)


def front_data(text: str) -> dict[str, Any]:
    """What the page's script is given."""
    found = re.search(r'<script type="application/json" id="front-data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


@pytest.mark.parametrize(
    ("oks", "passed", "stopped", "expected"),
    [
        ([True, True], True, "", "passed"), ([True, False], True, "", "failed"), ([True, None], True, "", "open"),
        ([], True, "", "open"), ([True], False, "", "failed"), ([True], True, "killed", "open"),
    ],
)  # fmt: skip
def test_the_verdict(oks: list[bool | None], passed: bool, stopped: str, expected: str) -> None:
    verdicts = tuple(Verdict(budget="b", ok=ok) for ok in oks)
    data = ReportData(title="t", verdicts=verdicts, verification={"passed": passed}, stopped=stopped)
    assert data.verdict == expected


def test_user_text_is_text_everywhere(full: ReportData) -> None:
    hostile = full.model_copy(update={
        "title": HOSTILE, "subtitle": HOSTILE, "stopped": HOSTILE, "config_yaml": HOSTILE, "target": HOSTILE,
        "environment": {HOSTILE: HOSTILE}, "absent": (HOSTILE,),
        "verdicts": (Verdict(budget=HOSTILE, measured=HOSTILE, ok=False, note=HOSTILE),),
        "front": Front((Candidate(Arch(network=HOSTILE, **{HOSTILE: HOSTILE}), Cost(latency_ms=1.0), 0.5, HOSTILE),)),
        "baselines": {HOSTILE: full.front.candidates[:1]}, "notes": (HOSTILE,), "examples_note": HOSTILE,
        "evaluations": (Evaluation(score=0.1, phase=HOSTILE, name=HOSTILE),),
        "blocks": Blocks(rows=(Block(name=HOSTILE, kind=HOSTILE, ms=1, share=1, efficiency=1, bound=HOSTILE),)),
        "ablation": Ablation(rows=(Ablated(stage=HOSTILE, note=HOSTILE),)),
        "sources": (Source(figure=HOSTILE, file=HOSTILE, how=HOSTILE),),
    })  # fmt: skip
    text = render_report(hostile)
    page = _Page(text)
    assert len(page.all("script")) == 3, "the front's figures, the plotting library, and the page's own"
    assert "alert(1)</script>" not in text
    assert front_data(text)["cards"]
    assert html.escape(HOSTILE, quote=False)[:20] in text
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "{{ 7*7 }}" in "".join(page.text)


def test_nothing_is_loaded_from_outside(text: str) -> None:
    page = _Page(text)
    addresses = [
        value or ""
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in {"src", "href", "xlink:href", "action", "data"}
    ]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    own = text.replace(plotly_js(), "")
    assert "url(http" not in own
    assert "@import" not in own


def test_the_page_is_below_eight_megabytes(text: str) -> None:
    assert len(text.encode()) < 8_000_000


def test_only_the_pages_own_scripts_may_run(text: str) -> None:
    policy = next(m["content"] for m in _Page(text).all("meta") if m.get("http-equiv"))
    assert policy is not None
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 2
    allowed = {f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts}
    assert set(policy.partition("script-src ")[2].split()) == allowed
    assert policy.startswith("default-src 'none'")
    assert "connect-src" not in policy


def test_pictures_and_plots_have_alt_texts(text: str) -> None:
    page = _Page(text)
    assert all(image.get("alt") for image in page.all("img"))
    for svg in page.all("svg"):
        assert svg["role"] == "img"
        assert svg["aria-label"]


def test_ids_are_unique_and_links_lead_somewhere(text: str) -> None:
    page = _Page(text)
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for link in [*page.all("a"), *page.all("use")]:
        address = link.get("href") or link.get("xlink:href") or ""
        assert address[1:] in ids, address


def test_plots_follow_the_theme(text: str) -> None:
    text = text.replace(plotly_js(), "")
    plots = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert not re.search(r"#0101\d\d", plots)
    used = set(re.findall(r"var\((--[a-z-]+)\)", plots))
    defined = re.findall(r"(--[a-z-]+):", text)
    assert {"--ink", "--blue", "--grid"} <= used
    assert all(defined.count(name) >= 2 for name in used), "each has a light and a dark value"


def test_text_stands_out_from_its_ground_in_both_themes(text: str) -> None:
    """Contrast as the WCAG counts it; 4.5 is what it asks of small text."""
    light, dark = re.findall(r":root \{(.*?)\}", text.replace(plotly_js(), ""), re.DOTALL)[:2]
    for theme in (light, dark):
        colors = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", theme))
        for ink, ground in [
            *((ink, ground) for ink in ("ink", "muted", "blue") for ground in ("card", "paper")),
            *(("green", ground) for ground in ("card", "good-bg")), *(("red", ground) for ground in ("card", "bad-bg")),
            ("muted", "open-bg"), ("ink", "code"),
        ]:  # fmt: skip
            high, low = sorted((luminance(colors[ink]), luminance(colors[ground])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground, colors[ink], colors[ground])


def luminance(color: str) -> float:
    """Relative luminance of ``#rrggbb``, 0..1."""
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_large_pictures_are_shrunk(text: str) -> None:
    source = _Page(text).all("img")[0]["src"]
    assert source is not None
    data = base64.b64decode(source.split(",")[1])
    assert len(data) < 400_000
    with Image.open(io.BytesIO(data)) as image:
        assert image.width == 1400


def test_writing_keeps_the_old_page_until_the_new_one_is_whole(full: ReportData, tmp_path: Path) -> None:
    path = write_report(tmp_path / "run", full)
    assert path == tmp_path / "run" / "report.html"
    before = path.read_text(encoding="utf-8")
    broken = full.model_copy(update={"examples": (Example(caption="x", images={"": tmp_path / "absent.png"}),)})
    with pytest.raises(CatchweightError, match=r"absent\.png"):
        write_report(tmp_path / "run", broken)
    assert path.read_text(encoding="utf-8") == before


def test_the_same_facts_give_the_same_page(full: ReportData, text: str) -> None:
    assert render_report(full) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0.42, "0.4 s"), (59.4, "59 s"), (60, "1 min 00 s"), (9060, "2 h 31 min")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_amounts_have_units() -> None:
    assert amount(4_380_000, "params") == "4.38M"
    assert amount(None, "params") == "–"

"""The report: complete, partial and hostile runs each give one page that stands alone."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catchweight.errors import CatchweightError
from catchweight.report import (
    CandidateRow,
    Example,
    ReportData,
    Snippet,
    StageRow,
    Verdict,
    render_report,
    write_report,
)
from catchweight.report.html import amount, duration

HOSTILE = """<script>alert(1)</script> "quoted" & 'more' $x_{ {{ 7*7 }}"""
CLASSES = ("road", "sky", HOSTILE, "a class with a very long name indeed")


class _Page(HTMLParser):
    """Tags with their attributes, the text, and whether every opened tag is closed in order."""

    VOID = frozenset({"meta", "link", "img", "br", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
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


@pytest.fixture
def full(tmp_path: Path) -> ReportData:
    rng = np.random.default_rng(0)
    images = {}
    for label in ("image", "truth", "prediction"):
        images[label] = tmp_path / f"{label}.png"
        Image.fromarray(rng.integers(0, 255, (90, 1600, 3), np.uint8)).save(images[label])
    rows = [
        CandidateRow(
            name=f"net{k}", size=(180, 240), width=0.5, latency_ms=3.0 + k, params=1e6 * k + 1, macs=2e8, epochs=10,
            score=0.4 + 0.03 * k if k < 5 else None, on_front=k < 5, chosen=k == 4, status="chosen" if k == 4 else "",
        )
        for k in range(7)
    ]  # fmt: skip
    history: list[dict[str, Any]] = [
        {"epoch": e, "lr": 1e-3 / e, "train_loss": 2 / e, "val_miou": 0.1 * e if e % 2 else None, "pixel_accuracy": 0.5}
        for e in range(1, 7)
    ]
    return ReportData(
        title="street", subtitle="today",
        verdicts=(Verdict(budget="latency<=8ms", measured="7.1 ms", ok=True, note="spread 3%"),),
        candidates=tuple(rows), latency_limit_ms=8.0, file_bytes=4.2e6, history=tuple(history), miou=0.52,
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
    )  # fmt: skip


def test_a_full_run_shows_every_section(full: ReportData) -> None:
    page = _Page(render_report(full))
    text = " ".join(page.text)
    assert "It makes weight" in text
    assert "Not reached" not in text
    assert len(page.all("svg")) == 5
    for words in ("0.520", "7.10", "latency<=8ms", "1 min 15 s", "net4", "the machine was noisy", "verified"):
        assert words in text, words


def test_an_empty_run_says_what_was_not_reached() -> None:
    page = _Page(render_report(ReportData(title="begun", stopped="the disk is full")))
    text = " ".join(page.text)
    assert "Not finished" in text
    assert "the disk is full" in text
    assert text.count("Not reached") >= 8
    assert page.all("svg") == []


@pytest.mark.parametrize("field", sorted(set(ReportData.model_fields) - {"title"}))
def test_any_part_may_be_missing(full: ReportData, field: str) -> None:
    default = ReportData.model_fields[field].get_default(call_default_factory=True)
    _Page(render_report(full.model_copy(update={field: default})))


def test_candidates_without_any_score_are_drawn(full: ReportData) -> None:
    rows = tuple(row.model_copy(update={"score": None, "chosen": False}) for row in full.candidates)
    page = _Page(render_report(full.model_copy(update={"candidates": rows})))
    assert "No candidate has a score yet." in " ".join(page.text)


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
        "candidates": tuple(row.model_copy(update={"name": HOSTILE, "status": HOSTILE}) for row in full.candidates),
    })  # fmt: skip
    text = render_report(hostile)
    page = _Page(text)
    assert len(page.all("script")) == 1, "only the page's own"
    assert "alert(1)</script>" not in text
    assert html.escape(HOSTILE, quote=False)[:20] in text
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "{{ 7*7 }}" in "".join(page.text)


def test_nothing_is_loaded_from_outside(full: ReportData) -> None:
    text = render_report(full)
    page = _Page(text)
    addresses = [
        value or ""
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in {"src", "href", "xlink:href", "action", "data"}
    ]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "url(http" not in text
    assert "@import" not in text


def test_only_the_pages_own_script_may_run(full: ReportData) -> None:
    text = render_report(full)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = next(m["content"] for m in _Page(text).all("meta") if m.get("http-equiv"))
    assert policy is not None
    assert f"'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_pictures_and_plots_have_alt_texts(full: ReportData) -> None:
    page = _Page(render_report(full))
    assert all(image.get("alt") for image in page.all("img"))
    for svg in page.all("svg"):
        assert svg["role"] == "img"
        assert svg["aria-label"]


def test_ids_are_unique_and_links_lead_somewhere(full: ReportData) -> None:
    page = _Page(render_report(full))
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for link in [*page.all("a"), *page.all("use")]:
        address = link.get("href") or link.get("xlink:href") or ""
        assert address[1:] in ids, address


def test_plots_follow_the_theme(full: ReportData) -> None:
    text = render_report(full)
    plots = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert not re.search(r"#0101\d\d", plots)
    used = set(re.findall(r"var\((--[a-z-]+)\)", plots))
    defined = re.findall(r"(--[a-z-]+):", text)
    assert {"--ink", "--blue", "--grid"} <= used
    assert all(defined.count(name) >= 2 for name in used), "each has a light and a dark value"


def test_large_pictures_are_shrunk(full: ReportData) -> None:
    source = _Page(render_report(full)).all("img")[0]["src"]
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


def test_the_same_facts_give_the_same_page(full: ReportData) -> None:
    assert render_report(full) == render_report(full)


def test_facts_survive_json(full: ReportData) -> None:
    assert ReportData.model_validate_json(full.model_dump_json()) == full


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0.42, "0.4 s"), (59.4, "59 s"), (60, "1 min 00 s"), (9060, "2 h 31 min")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_amounts_have_units() -> None:
    assert amount(4_380_000, "params") == "4.38M"
    assert amount(None, "params") == "–"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed: apt-get install chromium")
def test_a_browser_shows_it_at_phone_width_without_complaint(full: ReportData, tmp_path: Path) -> None:
    """390 px wide the page does not scroll sideways, and the console stays silent."""
    page = html.escape(render_report(full))
    probe = "document.title = f.contentDocument.documentElement.scrollWidth + ' ' + f.contentDocument.links.length"
    outer = tmp_path / "outer.html"
    outer.write_text(
        f'<title>none</title><iframe id="f" style="width:390px;height:800px;border:0" srcdoc="{page}"></iframe>'
        f'<script>const f = document.getElementById("f"); f.onload = () => {{ {probe} }}</script>',
        encoding="utf-8",
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--dump-dom"]  # fmt: skip
    done = subprocess.run(["chromium", *flags, outer.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>(\d+) (\d+)</title>", done.stdout)
    assert title is not None, done.stdout[:300]
    assert int(title[1]) <= 390
    assert int(title[2]) == 10
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

"""The report and the comparison in a real browser: silent, offline, and a click shows a card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from finished_run import HTML, hostile_scenes, make_run, on_front
from headless_chrome import Chrome, needs_chromium

from catchweight.front import Front
from catchweight.report.build import write_run_report
from catchweight.report.compare import write_comparison
from catchweight.run import Run

pytestmark = needs_chromium

WIDTHS = (390, 1280)
POINTS = "[...document.querySelectorAll('#front-plot .scatterlayer .trace')]"
OF_FRONT = """document.getElementById('front-plot').data.find((trace) => trace.name === 'front')"""
PLACE = """(() => {
  const node = document.getElementById("front-plot"), trace = node.data.findIndex((t) => t.name === "dominated");
  node.scrollIntoView({ block: "center", behavior: "instant" });
  const box = node.getBoundingClientRect(), x = node._fullLayout.xaxis, y = node._fullLayout.yaxis;
  const { x: xs, y: ys, ids } = node.data[trace];
  return { x: box.left + x._offset + x.l2p(xs[0]), y: box.top + y._offset + y.l2p(ys[0]), id: ids[0] };
})()"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    made = make_run(tmp_path_factory.mktemp("a run's folder, spaced & süß"))
    write_run_report(made)
    return made


@pytest.fixture(scope="module")
def chrome(tmp_path_factory):
    with Chrome(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def opened(chrome: Chrome, page: Path, width: int, scheme: str = "light") -> None:
    chrome.complaints.clear()
    chrome.requests.clear()
    chrome.window(width, scheme=scheme)
    chrome.open(page.as_uri())
    chrome.until(f"{POINTS}.length > 0")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_is_silent_offline_and_no_wider_than_the_window(chrome, run, width, scheme):
    page = run.path("report.html")
    opened(chrome, page, width, scheme)
    assert chrome.complaints == []
    assert {address for address in chrome.requests if not address.startswith("data:")} == {page.as_uri()}
    assert chrome.value("document.documentElement.scrollWidth") <= width
    assert chrome.value("[...document.images].every((i) => i.complete && i.naturalWidth > 0 && i.alt)")
    background = chrome.value("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) == (scheme == "dark")


def test_on_a_phone_the_verdicts_reason_has_the_whole_width(chrome, run):
    opened(chrome, run.path("report.html"), 390)
    assert chrome.value("document.querySelector('.limits small').getBoundingClientRect().width") > 300
    opened(chrome, run.path("report.html"), 1280)
    assert chrome.value("document.querySelector('.limits thead').getBoundingClientRect().height") > 10


def test_the_budgets_line_has_the_colour_of_the_theme(chrome, run):
    found = []
    for scheme in ("light", "dark"):
        opened(chrome, run.path("report.html"), 1280, scheme)
        drawn = "document.getElementById('front-plot').layout"
        red = chrome.value("getComputedStyle(document.documentElement).getPropertyValue('--red').trim()")
        assert chrome.value(f"{drawn}.annotations[0].font.color") == red
        assert chrome.value(f"{drawn}.shapes[0].line.color") == red
        found.append(red)
    assert len(set(found)) == 2


def test_the_front_has_as_many_points_as_front_json(chrome, run):
    opened(chrome, run.path("report.html"), 1280)
    assert chrome.value(f"{OF_FRONT}.ids.length") == on_front(run) > 1
    drawn = chrome.value(f"{POINTS}.map((t) => t.querySelectorAll('.point').length).reduce((a, b) => a + b)")
    scored = [c for c in Front.read(run.path("front.json")).candidates if c.score is not None]
    overlays = chrome.value("document.getElementById('front-plot').data.filter("
                            "(t) => ['knee', 'best in budget'].includes(t.name)).map((t) => t.ids.length)")  # fmt: skip
    assert drawn == len(scored) + sum(overlays)


@pytest.mark.parametrize("width", WIDTHS)
def test_clicking_a_point_shows_its_card(chrome, run, width):
    opened(chrome, run.path("report.html"), width)
    place = chrome.value(PLACE)
    assert chrome.value("document.getElementById('card').dataset.key") != place["id"]
    chrome.click(place["x"], place["y"])
    chrome.until(f"document.getElementById('card').dataset.key === {place['id']!r}", 10)
    shown = chrome.value("document.getElementById('card').innerText")
    title = chrome.value(f"JSON.parse(document.getElementById('front-data').textContent).cards[{place['id']!r}].title")
    assert title in shown
    assert "latency" in shown


def test_the_cards_are_reached_by_keyboard(chrome, run):
    opened(chrome, run.path("report.html"), 390)
    for _ in range(120):
        chrome.key("Tab")
        if chrome.value("document.activeElement.dataset.card ?? ''") not in (
            "", chrome.value("document.getElementById('card').dataset.key"),
        ):  # fmt: skip
            break
    wanted = chrome.value("document.activeElement.dataset.card ?? ''")
    assert wanted, "no candidate's name takes the focus"
    chrome.key("Enter")
    chrome.until(f"document.getElementById('card').dataset.key === {wanted!r}", 10)


def test_another_cost_can_be_chosen(chrome, run):
    opened(chrome, run.path("report.html"), 1280)
    chrome.value("[...document.querySelectorAll('#front-axes button')].find((b) => b.textContent === 'params').click()")
    chrome.until("document.getElementById('front-plot').layout.xaxis.title.text.startsWith('parameters')", 10)
    assert chrome.complaints == []


def test_class_names_with_html_run_nothing_in_a_browser(chrome, tmp_path):
    hostile_scenes(tmp_path)
    page = write_run_report(make_run(tmp_path))
    opened(chrome, page, 390)
    assert chrome.complaints == [], "the page's policy would complain of what it had to stop"
    assert chrome.value("typeof harmed") == "undefined"
    assert chrome.value(f"document.body.innerText.includes({json.dumps(HTML[0])})")
    assert chrome.value("document.querySelectorAll('img[src=x]').length") == 0


def test_the_comparison_shows_every_run(chrome, run, tmp_path):
    other = make_run(run.folder.parent, "other run")
    page = write_comparison([run, other], tmp_path / "comparison.html")
    opened(chrome, page, 390)
    assert chrome.value("document.getElementById('front-plot').data.map((t) => t.name)") == ["run", "other run"]
    assert chrome.complaints == []
    assert chrome.value("document.documentElement.scrollWidth") <= 390

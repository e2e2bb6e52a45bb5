"""The front's plots: every candidate is in them with its figures, names cannot break the page, the picture is one."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from catchweight.budget import Budget, Cost
from catchweight.errors import UsageError
from catchweight.front import Arch, Candidate, Front
from catchweight.report.front_plot import BLUE, ORANGE, RED, arch_words, front_html, front_page, front_png

HOSTILE = "</script><script>alert(1)</script>"


def candidate(name: str, ms: float | None, score: float | None, params: float = 1e6) -> Candidate:
    return Candidate(Arch(network=name, size=[180, 240], width=0.5), Cost(latency_ms=ms, params=params), score, "", 3)


FRONT = Front(
    (
        candidate("fast", 1.0, 0.2),
        candidate("bend", 2.0, 0.6),
        candidate("slow", 9.0, 0.7),
        candidate("beaten", 5.0, 0.3),
        candidate("untrained", 4.0, None),
        candidate("unmeasured", None, 0.9),
    )
)
BUDGET = Budget.parse("latency<=5ms, params<=2M")


def traces(text: str) -> dict[str, dict]:
    """The plot's series by name, read from the call in the page."""
    start = re.search(r'Plotly\.newPlot\(\s*"[^"]*",\s*', text).end()
    found, _ = json.JSONDecoder().raw_decode(text[start:])
    return {trace["name"]: trace for trace in found}


def test_every_drawable_candidate_is_shown_with_its_figures():
    found = traces(front_html(FRONT, budgets=[BUDGET]))
    assert set(found) == {"dominated", "front", "knee", "best in budget"}
    assert (found["front"]["x"], found["front"]["y"]) == ([1.0, 2.0, 9.0], [0.2, 0.6, 0.7])
    assert (found["dominated"]["x"], found["dominated"]["y"]) == ([5.0], [0.3])
    assert found["knee"]["x"] == found["best in budget"]["x"] == [2.0]
    hover = found["front"]["customdata"][1]
    for figure in ("bend, size 180x240, width 0.5", "score 0.6000 after 3 epochs", "latency 2ms", "params 1M"):
        assert figure in hover
    assert "untrained" not in str(found)
    assert "unmeasured" not in str(found)


def test_estimated_candidates_are_drawn_beside_the_front():
    guess = replace(candidate("guess", 0.5, 0.9), estimated=True)
    found = traces(front_html(Front((*FRONT.candidates, guess)), budgets=[BUDGET]))
    assert found["estimated, not trained alone"]["y"] == [0.9]
    assert 0.5 not in found["front"]["x"]
    assert found["best in budget"]["x"] == [2.0]


def test_the_budget_is_a_line_and_axes_have_units():
    text = front_html(FRONT, budgets=[BUDGET, Budget.parse("params<=1M")])
    assert re.findall(r'"text":"(budget [^"]*)"', text) == ["budget 5 ms"]
    assert "latency on the target, ms" in text
    assert "parameters, M" in front_html(FRONT, quantity="params")


def test_baselines_have_their_own_name_colour_and_shape():
    published = {f"paper {i}": [candidate("other", i, 0.4)] for i in range(1, 7)}
    found = traces(front_html(FRONT, baselines=published))
    looks = {(t["marker"]["color"], t["marker"]["symbol"]) for name, t in found.items() if name in published}
    assert len(looks & {(t["marker"]["color"], t["marker"]["symbol"]) for t in (found["front"],)}) == 0
    assert len(looks) == 4
    assert found["paper 6"]["x"] == [6.0]


def test_plotly_is_brought_along_only_when_asked():
    assert len(front_html(FRONT)) < 20_000
    assert len(front_html(FRONT, inline=True)) > 1_000_000
    assert 'id="second"' in front_html(FRONT, div_id="second")
    assert re.search(r"<(script|link|img)[^>]*(src|href)=", front_html(FRONT)) is None


def test_names_cannot_break_the_page():
    text = front_html(Front((candidate(HOSTILE, 1.0, 0.5),)), baselines={HOSTILE: [candidate("a", 2.0, 0.4)]})
    assert text.count("</script>") == 1
    found = traces(text)
    assert html.escape(HOSTILE) in found["front"]["customdata"][0]
    assert html.escape(HOSTILE) in found


def test_a_page_stands_alone(tmp_path):
    text = front_page(FRONT, tmp_path / "new" / "front.html", title="a <b> title").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "<title>a &lt;b&gt; title</title>" in text
    assert len(text) > 1_000_000


def pixels(path, color: str) -> int:
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(image - wanted).max(-1) < 8).sum())


def test_the_picture_shows_front_budget_and_best(tmp_path):
    path = front_png(FRONT, tmp_path / "front.png", budgets=[BUDGET], baselines={"a $x_{paper}": [FRONT.candidates[3]]})
    assert Image.open(path).size[0] == 1110
    for color in (BLUE, ORANGE, RED):
        assert pixels(path, color) > 50, color
    plain = front_png(Front(FRONT.candidates[:1]), tmp_path / "plain.png")
    assert pixels(plain, BLUE) > 50
    assert pixels(plain, ORANGE) == pixels(plain, RED) == 0


def test_the_same_front_gives_the_same_bytes(tmp_path):
    pictures = [front_png(FRONT, tmp_path / name, budgets=[BUDGET]).read_bytes() for name in ("a.png", "b.png")]
    assert pictures[0] == pictures[1]
    assert front_html(FRONT) == front_html(FRONT)


def test_a_front_without_points_says_so(tmp_path, recwarn):
    assert "no candidate has a score and a measured latency" in front_html(Front())
    assert front_png(Front((candidate("a", 1.0, None),)), tmp_path / "e.png").exists()
    assert [str(w.message) for w in recwarn] == []


def test_an_unknown_quantity_writes_nothing(tmp_path):
    for draw in (front_page, front_png):
        with pytest.raises(UsageError, match='did you mean "latency"'):
            draw(FRONT, tmp_path / "x", quantity="latancy")
    assert list(tmp_path.iterdir()) == []


def test_architectures_are_written_for_the_eye():
    assert arch_words(Arch(network="timm/a+fpn", width=0.5, size=[64, 96])) == "a+fpn, size 64x96, width 0.5"
    assert arch_words(Arch(depth=3, kernel=5)) == "depth 3, kernel 5"

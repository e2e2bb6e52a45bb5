"""What is made when the site is built: the table of systems, the list of commands. ``make docs`` builds it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import typer
from markdown_it import MarkdownIt
from pages import DOCS

from catchweight.cli.app import app
from catchweight.systems import SYSTEMS


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "hooks" / "site_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rendered(hooks, page: str) -> str:
    return hooks.on_page_markdown((DOCS / page).read_text(encoding="utf-8"))


def test_the_systems_page_has_a_row_for_every_system(hooks):
    page = rendered(hooks, "systems.md")
    tokens = MarkdownIt("commonmark").enable("table").parse(page)
    cells = [tokens[i + 1] for i, token in enumerate(tokens) if token.type == "td_open"]
    rows = [cells[start : start + 5] for start in range(0, len(cells), 5)]
    assert [row[0].children[0].content for row in rows] == list(SYSTEMS)
    for row, system in zip(rows, SYSTEMS.values(), strict=True):
        text = "".join(part.content for part in row[2].children)
        assert text == " ".join(system.claim.split())


def test_what_means_something_to_markdown_is_shown_as_it_is(hooks):
    text = "a|b *c* _d_ <e> [f](g) `h`"
    tokens = MarkdownIt("commonmark").enable("table").parse(f"| x |\n| --- |\n| {hooks._cell(text)} |\n")
    cell = [tokens[i + 1] for i, token in enumerate(tokens) if token.type == "td_open"]
    assert "".join(part.content for part in cell[0].children) == text


def test_the_last_result_is_the_one_of_the_command(hooks, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no results of a user's own
    row = next(line for line in rendered(hooks, "systems.md").splitlines() if line.startswith("| `eseg` "))
    assert "void" in row


def test_every_command_has_its_section(hooks):
    page = rendered(hooks, "commands.md")
    for name in typer.main.get_command(app).commands:
        assert f"## `catchweight {name}`" in page


def test_other_pages_stay_as_they_are(hooks):
    text = (DOCS / "budgets.md").read_text(encoding="utf-8")
    assert hooks.on_page_markdown(text) == text


def test_names_in_docstrings_are_shown_as_code(hooks):
    html = "<p>see :meth:<code>.Decisions.sample</code> and :func:<code>fit</code>, <code>:x:</code></p>"
    wanted = "<p>see <code>Decisions.sample</code> and <code>fit</code>, <code>:x:</code></p>"
    assert hooks.on_page_content(html) == wanted

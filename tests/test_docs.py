"""The pages of ``docs``: their Python runs, their commands exist with these options, and their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.glob("*.md"))
NEEDS_A_RUN = "# needs: a run"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_on_the_pages_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "docs"}
    for code in blocks(page, "python"):
        compiled = compile(code, str(page), "exec")
        if NEEDS_A_RUN not in code:
            exec(compiled, names)


def commands() -> list[tuple[str, list[str]]]:
    found = []
    for page in PAGES:
        for block in blocks(page, "console"):
            lines = [shlex.split(line, comments=True) for line in block.splitlines()]
            found += [(page.stem, line[1:]) for line in lines if line[:1] == ["catchweight"]]
    return found


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda value: value if isinstance(value, str) else value[0])
def test_commands_on_the_pages_are_understood(page, words):
    from catchweight.cli.app import app

    command = typer.main.get_command(app)
    context = command.make_context("catchweight", list(words), resilient_parsing=True)
    name, inner, rest = command.resolve_command(context, list(words))
    while hasattr(inner, "resolve_command"):
        name, inner, rest = inner.resolve_command(context, rest)
    assert inner.make_context(name, rest, parent=context).args == [], "an unknown option or a missing argument raises"


def test_every_page_is_in_the_navigation_and_every_link_leads_somewhere():
    site = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = {page for entry in site["nav"] for page in entry.values()}
    assert listed == {page.name for page in PAGES}
    for page in PAGES:
        prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", prose):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"

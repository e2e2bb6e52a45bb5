"""The pages of the project, the code on them, and the one way in which it is run.

Python on a page runs from top to bottom in one namespace and one folder, in which ``path/to/dataset``, ``photos`` and
the finished run ``runs/street`` exist at toy size. Commands are checked for being understood. A comment above a block
says otherwise:

    <!-- run -->                 run these commands as well, in the same folder
    <!-- run with --set a=b -->  likewise; these words are added to the first command, for toy size
    <!-- run slow ... -->        likewise, in the slow tests alone
    <!-- not run: reason -->     this Python only has to compile
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.glob("*.md"))
OTHERS = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PROGRAMS = ("catchweight", "make", "pip", "python", "mkdocs")
MARK = re.compile(r"<!-- (?:(run)( slow)?(?: with (.+))?|(not run): .+) -->")


@dataclass(frozen=True)
class Block:
    """A code block, the line it begins at (from 1), and what the comment above it says."""

    page: Path
    line: int
    language: str
    code: str
    run: bool = False
    slow: bool = False
    skipped: bool = False
    extra: tuple[str, ...] = ()

    @property
    def commands(self) -> list[list[str]]:
        """The command lines of a console block as words; comments are left out."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """The code blocks of a page in order; indented ones that begin with a program's name are console blocks."""
    found = [block for block in _blocks(page) if block.language]
    return [block for block in found if language in (None, block.language)]


def _blocks(page: Path) -> Iterator[Block]:
    above = None
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            language = token.info.strip() or _language(token.content)
            yield Block(page, token.map[0] + 1, language, token.content, **_marks(above))
        above = token.content.strip() if token.type == "html_block" else None


def _language(code: str) -> str:
    return "console" if code.split(maxsplit=1)[0] in PROGRAMS else ""


def _marks(comment: str | None) -> dict[str, object]:
    found = MARK.fullmatch(comment or "")
    if found is None:
        assert not re.match(r"<!-- (not )?run\b", comment or ""), f"not a mark: {comment}"
        return {}
    run, slow, extra, skipped = found.groups()
    return {"run": bool(run), "slow": bool(slow), "skipped": bool(skipped), "extra": tuple(shlex.split(extra or ""))}


def run_page(page: Path, patch: pytest.MonkeyPatch, *, slow: bool) -> dict[str, object]:
    """Run the code of a page in the current folder, its slow parts only if asked; returns what Python defined."""
    names: dict[str, object] = {"__name__": "docs"}
    for block in blocks(page):
        if block.skipped or (block.slow and not slow):
            continue
        if block.language == "python":
            # Blank lines in front, so that a traceback names the page's own line.
            exec(compile("\n" * block.line + block.code, str(page), "exec"), names)
        elif block.language == "console" and block.run:
            run_commands(block, patch)
    return names


def run_commands(block: Block, patch: pytest.MonkeyPatch) -> None:
    """Run the commands of a block in this process; each must end well."""
    from catchweight.cli import main

    for number, words in enumerate(block.commands):
        assert words[0] == "catchweight", f"{block.page.name}:{block.line}: only catchweight is run, not {words[0]}"
        patch.setattr(sys, "argv", [*words, *(block.extra if number == 0 else ())])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        assert not code, f"{block.page.name}:{block.line}: {shlex.join(sys.argv)} ended with {code}"

"""Everything that was tried, in one file that survives a kill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...files import read_json, write_json


class Ledger:
    """Named results in ``attempts.json``; what is in it is not done again.

    Args:
        path: the file; read if it is there. It is rewritten in one step after each result.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: dict[str, Any] = read_json(path) if path.exists() else {}

    def once(self, name: str, work: Callable[[], Any]) -> Any:
        """The result called ``name``: the stored one, or that of ``work``, which must be JSON-able."""
        if name not in self.results:
            self.results[name] = work()
            write_json(self.path, self.results)
        return self.results[name]

    def forget(self, name: str) -> None:
        """Let ``name`` be done again."""
        if self.results.pop(name, None) is not None:
            write_json(self.path, self.results)

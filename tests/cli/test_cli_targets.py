"""``catchweight targets``."""

from __future__ import annotations

import sys

import pytest

from catchweight.cli import main
from catchweight.targets import listing


def test_targets_lists_all_with_reasons(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr(sys, "argv", ["catchweight", "targets"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    rows = {
        cells[1].strip(): cells for line in capsys.readouterr().out.splitlines() if len(cells := line.split("│")) > 3
    }
    for name, missing in listing().items():
        assert rows[name][2].strip() == ("no" if missing else "yes")
        assert (missing or "") in rows[name][3]

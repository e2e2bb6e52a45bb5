"""Tensors are written whole or not at all, and what stopped the writing is told as what it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from catchweight.errors import CatchweightError
from catchweight.nets.tensor_file import write_tensors

CONTENT = {"weights": {"a": torch.arange(100_000.0)}, "step": 3}


class Failing:
    """A file in which something happens once it has this many bytes."""

    def __init__(self, file: Any, event: BaseException) -> None:
        self.file, self.event, self.written = file, event, 0

    def write(self, part: Any) -> int:
        self.written += len(part)
        if self.written > 50_000:
            raise self.event
        return int(self.file.write(part))

    def __enter__(self) -> Failing:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make every file that is written meet an event."""
    plain = Path.open

    def meet(event: BaseException) -> None:
        def opened(path: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
            file = plain(path, mode, *more, **options)
            return Failing(file, event) if mode == "wb" else file

        monkeypatch.setattr(Path, "open", opened)

    return meet


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_tensors(tmp_path / "t.pt", CONTENT)
    again = torch.load(tmp_path / "t.pt", weights_only=True)
    assert torch.equal(again["weights"]["a"], CONTENT["weights"]["a"])  # type: ignore[index]
    assert again["step"] == 3


@pytest.mark.parametrize(
    ("event", "told", "words"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, ""),
        (OSError(28, "No space left on device"), CatchweightError, "No space"),
    ],
    ids=["interrupted", "full disk"],
)
def test_what_stops_it_is_told_as_what_it_is(
    tmp_path: Path, meeting: Callable[[BaseException], None], event: BaseException, told: type, words: str | None
) -> None:
    """Torch's writer makes a RuntimeError of both."""
    write_tensors(tmp_path / "t.pt", {"step": 1})
    meeting(event)
    with pytest.raises(told, match=words):
        write_tensors(tmp_path / "t.pt", CONTENT)
    assert torch.load(tmp_path / "t.pt", weights_only=True) == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["t.pt"]

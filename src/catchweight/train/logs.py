"""``metrics.csv`` and TensorBoard events of a training."""

from __future__ import annotations

import csv
import io
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import CatchweightError
from ..files import write_text


class Logs:
    """Writes every finished epoch; made again after a kill, it carries on without gaps or repeats.

    ``metrics.csv`` is written anew from the history at each epoch, so it never holds more than the checkpoint;
    epochs that a kill kept from it are made up for at once.
    """

    def __init__(self, folder: Path, history: list[dict[str, Any]], tensorboard: bool, enabled: bool = True) -> None:
        self.path, self.enabled = folder / "metrics.csv", enabled
        self._written = min(len(history), _rows(self.path))
        self._events: Any = None
        if tensorboard and enabled:
            # Imported late: it costs a second that short trainings would rather not pay.
            from torch.utils.tensorboard.writer import SummaryWriter

            try:
                self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=self._written + 1)
            except OSError as error:
                raise CatchweightError(f"cannot write {folder}: {error.strerror or error}") from error
        if len(history) > self._written:
            self.write(history)

    def write(self, history: list[dict[str, Any]]) -> None:
        """Store the history, some rows of which are new.

        Raises:
            CatchweightError: disk full or folder read-only.
        """
        if not self.enabled:
            return
        write_text(self.path, to_csv(history))
        if self._events is not None:
            self._add_events(history[self._written :])
        self._written = len(history)

    def _add_events(self, rows: list[dict[str, Any]]) -> None:
        try:
            for row in rows:
                for key, value in row.items():
                    if key != "epoch" and value is not None:
                        self._events.add_scalar(key, value, row["epoch"])
            self._events.flush()
        except OSError as error:
            raise CatchweightError(
                f"cannot write {self.path.parent / 'tensorboard'}: {error.strerror or error}. The checkpoint is "
                "safe: free some space, then run the same command again"
            ) from error

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, *_: object) -> None:
        if self._events is not None:
            with suppress(OSError):  # whatever is wrong with the disk has been said
                self._events.close()


def _rows(path: Path) -> int:
    """Epochs in a ``metrics.csv``; 0 when there is none."""
    return max(0, len(path.read_text(encoding="utf-8").splitlines()) - 1) if path.is_file() else 0


def to_csv(history: list[dict[str, Any]]) -> str:
    """Rows of one history as CSV; a value that was not measured stays empty."""
    columns = list(dict.fromkeys(key for row in history for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in history:
        writer.writerow({key: _cell(value) for key, value in row.items()})
    return text.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value

"""``metrics.csv`` and TensorBoard events of a training."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from ..errors import CatchweightError
from ..files import write_text


class Logs:
    """Writes every finished epoch; made again after a kill, it carries on without gaps or repeats.

    ``metrics.csv`` is written anew from the history at each epoch, so it always agrees with the checkpoint.
    """

    def __init__(self, folder: Path, epochs_done: int, tensorboard: bool, enabled: bool = True) -> None:
        self.folder, self.enabled = folder, enabled
        self._events: Any = None
        if tensorboard and enabled:
            # Imported late: it costs a second that short trainings would rather not pay.
            from torch.utils.tensorboard.writer import SummaryWriter

            try:
                self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=epochs_done + 1)
            except OSError as error:
                raise CatchweightError(f"cannot write {folder}: {error.strerror or error}") from error

    def write(self, history: list[dict[str, Any]]) -> None:
        """Store the history, the last row of which is new."""
        if not self.enabled:
            return
        write_text(self.folder / "metrics.csv", to_csv(history))
        if self._events is not None and history:
            row = history[-1]
            for key, value in row.items():
                if key != "epoch" and value is not None:
                    self._events.add_scalar(key, value, row["epoch"])
            self._events.flush()

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, *_: object) -> None:
        if self._events is not None:
            self._events.close()


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

"""Writing tensors to a file in one step; reading them back never runs code (``weights_only``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..files import written_aside


def write_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """``torch.save`` beside and rename.

    Raises:
        CatchweightError: the folder is read-only or the disk is full; whatever stood at ``path`` stays.
    """
    with written_aside(path) as temporary:
        try:
            with temporary.open("wb") as file:
                torch.save(dict(content), file)
        except RuntimeError as error:
            raise _met(error) from error


def _met(error: RuntimeError) -> BaseException:
    """What happened: torch's writer makes a RuntimeError of all that meets it, of a full disk and of Ctrl-C alike."""
    cause: BaseException | None = error.__context__
    while cause is not None:
        if isinstance(cause, (OSError, KeyboardInterrupt)):
            return cause
        cause = cause.__context__
    return OSError(None, f"torch could not write it ({str(error).splitlines()[0]})")


__all__ = ["write_tensors"]

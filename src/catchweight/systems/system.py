"""A published system as this project knows it: a row of a table and a check of its claim."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from ..data import SegmentationData
from ..data.cache import PixelCache
from ..run import Run
from .result import Verdict


class CheckData(Protocol):
    """What the runner asks of any data set."""

    @property
    def root(self) -> Path:
        """Its folder."""
        ...

    def fingerprint(self) -> str:
        """A hash that changes when the data do."""
        ...


@dataclass(frozen=True)
class DataSource:
    """Where a check gets data of another kind than segmentation.

    Attributes:
        open: the folder that ``--data`` names to a data set.
        draw: makes a tiny one in a folder, for quick runs.
    """

    open: Callable[[Path], CheckData]
    draw: Callable[[Path], CheckData]


@dataclass(frozen=True)
class CheckContext:
    """What a check works with.

    Attributes:
        run: its working folder; what ``stage`` returned once is not done again when the check is continued.
        data: the data set, or ``None`` for checks that need none.
        quick: sizes so small that everything runs in seconds and nothing is proven.
    """

    run: Run
    data: CheckData | None
    quick: bool

    def stage(self, name: str, work: Callable[[], Any]) -> Any:
        """The stored result of ``name``, or that of ``work`` (JSON-able), stored at once."""
        return self.run.stage(name, work)

    def need_data(self) -> SegmentationData:
        """The data set of a check that was declared with ``needs_data`` and no ``source`` of its own."""
        assert isinstance(self.data, SegmentationData), "run_check opens the data of a system with needs_data"
        return self.data

    @property
    def folder(self) -> Path:
        return self.run.folder

    @property
    def cache(self) -> PixelCache:
        """Decoded pixels, shared by all trainings of the check."""
        return PixelCache(self.folder / "pixels")


@dataclass(frozen=True)
class System:
    """A published system.

    Attributes:
        name: as in ``catchweight check <name>``.
        title: as people say it.
        paper: authors and venue.
        year: of publication.
        where: modules, or ``module:name``, of which it is made here.
        claim: what the check shows, in one sentence.
        check: the experiment; ``None`` while there is none.
        needs_data: whether the check trains on a data set.
        source: of data that are not for segmentation.
        protocols: the sizes of the experiment, in full and when quick: a check that was begun with others is refused.
    """

    name: str
    title: str
    paper: str
    year: int
    where: tuple[str, ...]
    claim: str
    check: Callable[[CheckContext], Verdict] | None = None
    needs_data: bool = False
    source: DataSource | None = None
    protocols: tuple[Any, Any] = (None, None)

    def protocol(self, quick: bool) -> Any:
        """The sizes as plain values."""
        return plain(self.protocols[1 if quick else 0])


def plain(value: Any) -> Any:
    """Data classes and settings as dicts, functions by their names: what two runs of a check must have in common."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value.__qualname__ if callable(value) else value

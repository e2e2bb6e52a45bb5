"""Where a study is kept: memory, a journal file, or a database."""

from __future__ import annotations

import os
import time
from pathlib import Path

import filelock
import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from ...errors import CatchweightError, UsageError

CREATION_TRIES = 5
SQLITE_TIMEOUT_S = 60


def without_password(where: str | Path | None) -> str:
    """The storage for messages, without the password of a URL."""
    if where is None or "://" not in str(where):
        return str(where)
    from sqlalchemy.engine import make_url

    return make_url(str(where)).render_as_string(hide_password=True)


def open_storage(where: str | Path | None) -> optuna.storages.BaseStorage:
    """Optuna storage at a path (journal file) or URL (database); ``None``: in memory.

    Raises:
        UsageError: no database of that kind, or its Python driver is not installed.
        CatchweightError: the database or the file cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if where is None:
        return optuna.storages.InMemoryStorage()
    return _database(str(where)) if "://" in str(where) else _journal(Path(where))


def require_storage(where: str | Path) -> None:
    """Open a storage and leave it again.

    Raises: as :func:`open_storage`.
    """
    storage = open_storage(where)
    if isinstance(storage, optuna.storages.RDBStorage):
        storage.engine.dispose()


class _KernelLock(JournalFileOpenLock):
    """Of a journal. Unlike Optuna's own locks, released by the operating system when its holder is killed.

    Whoever gets it, to append, finds whole lines only.
    """

    def __init__(self, journal: Path) -> None:
        path = journal.with_name(f".{journal.name}.lock")
        super().__init__(str(path))
        self._lock = filelock.FileLock(path)
        self._journal = journal

    def acquire(self) -> bool:
        self._lock.acquire()
        try:
            _cut_unfinished_line(self._journal)
        except BaseException:
            self._lock.release()
            raise
        return True

    def release(self) -> None:
        self._lock.release()


def _journal(path: Path) -> optuna.storages.BaseStorage:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _KernelLock(path)
        lock.acquire()  # what cannot be written is told now
        lock.release()
        return optuna.storages.JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except OSError as error:
        raise CatchweightError(f"cannot open the search's journal {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise CatchweightError(f"{path} is not a journal of a search ({error}): move it away to start anew") from error


def _cut_unfinished_line(path: Path) -> None:
    """A full disk or a power cut can leave half a line, to which the next entry would be glued."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        if not file.seek(0, os.SEEK_END):
            return
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _database(url: str) -> optuna.storages.BaseStorage:
    from sqlalchemy import exc
    from sqlalchemy.engine import make_url

    try:
        shown = make_url(url).render_as_string(hide_password=True)
    except exc.ArgumentError:
        raise UsageError(
            f'cannot read the storage "{url.partition("://")[0]}://...": write a path for a journal file, or a URL '
            "as sqlite:///file.db or postgresql+psycopg://user@host/name"
        ) from None
    options = {"connect_args": {"timeout": SQLITE_TIMEOUT_S}} if url.startswith("sqlite") else {}
    for attempt in range(1, CREATION_TRIES + 1):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
        except (ImportError, exc.NoSuchModuleError) as error:
            raise UsageError(f"no driver for {shown}: {error}; install it, e.g. pip install psycopg[binary]") from error
        except (exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            # Two workers may make the tables at the same time; the second try finds them made.
            if attempt == CREATION_TRIES:
                reason = str(error.__cause__ or error).strip().splitlines()[0]
                raise CatchweightError(f"cannot open the storage {shown}: {reason}") from error
            time.sleep(0.1 * 2**attempt)
    raise AssertionError("the loop returns or raises")

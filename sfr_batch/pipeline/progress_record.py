"""Says on storage where a run is, while it goes on, for whoever watches it from elsewhere.

A run that ends in order takes it away again: its report or end says more. It never holds up a run and never ends one.
"""

import contextlib
import threading
from types import TracebackType
from typing import Self

from sfr_batch.format import names
from sfr_batch.pipeline.progress import Progress
from sfr_batch.storage.store import Store

EVERY_S = 5.0
"""Seconds between two looks at the progress, each of which is written if something but the time has changed."""
_KEPT = 2
"""Objects that stay, so that whoever lists and then reads finds what was listed."""
_PATIENCE_S = 2.0
"""Seconds that the end of a run waits for the store."""


class ProgressRecord:
    """The objects in `names.RUN_PROGRESS` of one run. A context manager: they are written until it is left."""

    def __init__(self, store: Store, run_id: str, progress: Progress) -> None:
        self._store = store
        self._run_id = run_id
        self._progress = progress
        self._number = 0
        self._written: object = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name="sfr-progress-record", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(_PATIENCE_S)

    def _keep_writing(self) -> None:
        while not self._stop.wait(EVERY_S):
            with contextlib.suppress(Exception):  # not worth ending a run; the next one may succeed
                self.write()
        with contextlib.suppress(Exception):
            self._store.delete(self._keys(self._number))

    def write(self) -> None:
        """Write where the run is, unless that stands there. Raises StorageError."""
        state = self._progress.state()
        if state.moved == self._written:
            return
        number = self._number + 1
        created = self._store.create(names.run_key(self._run_id, names.run_progress(number)), state.to_json().encode())
        self._number = number  # if it exists, it is our own, whose reply was lost
        self._written = state.moved if created else None
        if number > _KEPT:
            self._store.delete(self._keys(number)[:1])

    def _keys(self, number: int) -> list[str]:
        """Of all that may be there under this number and those before it, oldest first."""
        first = max(1, number - _KEPT)
        return [names.run_key(self._run_id, names.run_progress(n)) for n in range(first, number + 1)]

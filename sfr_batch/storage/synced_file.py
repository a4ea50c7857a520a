"""A new file on a local disk that is synced while it is being written.

A large one would otherwise wait in the page cache until it is complete: the disk is idle while its content is made, and
then the CPU while the disk writes it.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any

_SYNCED_AT_ONCE = 32 * 2**20
"""Bytes that are written before a sync of them begins, at least."""


@contextlib.contextmanager
def new_synced_file(path: str) -> Iterator[IO[bytes]]:
    """For writing. When the block has ended without an exception, the disk has all of it. Raises OSError."""
    raw = _SyncedFile(path)
    # Buffered, because a raw file may write less than it is given, and Arrow does not look at how much it was.
    with io.BufferedWriter(raw) as file:
        yield file
        file.flush()
        raw.wait()
        os.fsync(raw.fileno())


class _SyncedFile(io.FileIO):
    """Syncs itself in a thread, one sync at a time."""

    def __init__(self, path: str) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._sync: Future[None] | None = None
        self._not_synced = 0
        super().__init__(path, "xb")

    def write(self, data: Any) -> int:
        written = super().write(data)
        self._not_synced += written
        if self._not_synced >= _SYNCED_AT_ONCE and (self._sync is None or self._sync.done()):
            self.wait()
            self._sync, self._not_synced = self._thread.submit(os.fsync, self.fileno()), 0
        return written

    def wait(self) -> None:
        """Raises OSError if a sync that has begun failed: the kernel tells an error once, the next one succeeds."""
        if self._sync is not None:
            self._sync.result()

    def close(self) -> None:
        """Not before a sync has ended: the number of the open file may be another one's then."""
        self._thread.shutdown()
        super().close()

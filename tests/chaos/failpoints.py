"""Where a writer kills itself: at a store operation, before it, half-way through it or after it took effect.

`FailpointStore` stands around the real store, on disk or on S3; nothing in the package knows of it. The death is real,
`kill -9` of the own process: no `finally`, no destructor, no goodbye to the server.
"""

import contextlib
import os
import re
import signal
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

from sfr_batch.storage.local import LocalStore
from sfr_batch.storage.s3 import S3Store
from sfr_batch.storage.store import Content, Store, whole

WHEN = ("before", "torn", "unnamed", "after")
"""torn: half of the bytes are on the disk, under a temporary name, or in an upload that is not completed; unnamed: all
of them. Both only of what is created."""

_KINDS = [
    (r"data/.*", "data file"),
    (r"_rejects/duplicates-.*", "duplicates"),
    (r"_rejects/.*", "rejects"),
    (r"_sfr/table\.json", "card"),
    (r"_sfr/snapshots/\d+\.json", "manifest"),
    (r"_sfr/snapshots/.*\.(\w+)\.parquet", r"side \1"),
    (r"_sfr/leases/.*", "lease"),
    (r"_sfr/runs/[^/]+/receipts/.*", "receipts"),
    (r"_sfr/runs/[^/]+/progress/.*", "progress"),
    (r"_sfr/runs/[^/]+/([\w.]+)", r"run \1"),
]


@dataclass(frozen=True)
class Failpoint:
    """Death at the ``nth`` operation (from 1) that is called so, ``when`` of WHEN."""

    operation: str
    nth: int
    when: str

    @property
    def kind(self) -> str:
        """Moment and operation."""
        return f"{self.when} {self.operation}"

    def __str__(self) -> str:
        return f"{self.kind} #{self.nth}"


def name_of(method: str, key: str = "") -> str:
    """What an operation is called, such as ``create data file``."""
    for pattern, kind in _KINDS:
        if match := re.fullmatch(pattern, key):
            return f"{method} {match.expand(kind)}"
    return f"{method} {key}".rstrip()


def die() -> None:
    """As `kill -9`. Returns never."""
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def die_instead(*_: object) -> None:
    die()


class FailpointStore:
    """The real store; each call of one of its methods is an operation that is counted and may be the last one."""

    def __init__(
        self,
        store: Store,
        failpoint: Failpoint | None,
        seen: Counter[str],
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """before: called before each operation."""
        self._store, self._failpoint, self._seen, self._before = store, failpoint, seen, before
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._store, name)
        return (lambda *arguments: self._do(name, value, *arguments)) if callable(value) else value

    def _do(self, method: str, call: Any, *arguments: Any) -> Any:
        operation = name_of(method, *[a if isinstance(a, str) else "several" for a in arguments[:1]])
        with self._lock:
            self._before()
            self._seen[operation] += 1
            here = self._failpoint == Failpoint(operation, self._seen[operation], when := self._when())
        if here and when == "before":
            die()
        with self._dying_inside(*arguments, when=when) if here and when != "after" else contextlib.nullcontext():
            result = call(*arguments)
            if method == "list":
                result = list(result)
        if here:
            die()
        return iter(result) if method == "list" else result

    def _when(self) -> str:
        return self._failpoint.when if self._failpoint else ""

    @contextlib.contextmanager
    def _dying_inside(self, key: str, content: Content, when: str) -> Iterator[None]:
        data = whole(content)
        if isinstance(self._store, S3Store):
            _leave_upload(self._store, key, data if when == "unnamed" else data[: len(data) // 2])
            die()
        assert isinstance(self._store, LocalStore)
        if when == "unnamed":
            with mock.patch("sfr_batch.storage.local.os.link", side_effect=die_instead):
                yield
            return
        sync = os.fsync

        def tear(handle: int) -> None:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return sync(handle)  # a folder that was made on the way
            os.ftruncate(handle, len(data) // 2)
            die()

        with mock.patch("sfr_batch.storage.local.os.fsync", tear):
            yield


def _leave_upload(store: S3Store, key: str, data: bytes) -> None:
    """Begin a multipart upload and send its only part."""
    bucket, name = store._path(key).split("/", 1)
    upload = store._fs.call_s3("create_multipart_upload", Bucket=bucket, Key=name)["UploadId"]
    if data:
        store._fs.call_s3("upload_part", Bucket=bucket, Key=name, UploadId=upload, PartNumber=1, Body=data)

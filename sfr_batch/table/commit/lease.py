"""The lease of a table: refuses a second run and replaces a dead one.

It only avoids duplicate work: two concurrent runs can never corrupt a table, with or without it (see `publish`).

A store can only create, read, list and delete. So the lease is a series of numbered objects, and the highest number
counts. Taking over, renewing and releasing each create the next number, which only one process can do. Whoever has
created a number also checks that it is the highest one: old numbers are deleted, so a process that was paused could
create one of them again. The highest one is never deleted, so after a takeover the former holder can never believe
again that it holds the lease.

Clocks of two machines are never compared: a challenger waits until it has seen the same number for one lifetime on its
own monotonic clock. For a holder on the same machine it checks whether the process is alive. Knows no Ray: the job of a
run is only displayed.
"""

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field

from sfr_batch.errors import ObjectNotFound, TableError, TableInUse
from sfr_batch.format import names
from sfr_batch.format.names import FORMAT_VERSION
from sfr_batch.format.records import Record, user, utc_now
from sfr_batch.storage.local_files import read_text_file
from sfr_batch.storage.store import Store

_KEPT = 2
"""Number of old numbers that stay, so that a process that lists and then reads mostly finds what was listed."""
_RENEWALS = 3
"""Renewals in one lifetime."""
_LOOKS = 30
"""Looks of a waiting challenger in one lifetime."""
_LONGEST_S = 3600.0
"""Longest lifetime that is accepted from a lease: a damaged one must not block a table for ever."""
_READS = 10
_PATIENCE_S = 5.0

Clock = Callable[[], float]
ProcessState = Literal["alive", "dead", "unknown"]

_held: "dict[str, Lease | None]" = {}
"""The leases of this process by token, None while being taken. Other leases that name this process are of runs that are
over."""


class Holder(Record):
    """The holder of a lease, as shown to people and as checked by a challenger on the same machine."""

    token: str
    """A random name of this holding of the lease."""
    run_id: str
    user: str
    host: str
    machine: str | None
    """The boot of the system and the namespace of process ids; None if unknown."""
    pid: int = Field(gt=0, lt=2**31)
    started: int | None
    """Start of the process in ticks since boot, because process ids are reused; None if unknown."""
    ray_job: str | None = None
    """Submission id if the process is the driver of a Ray job."""
    ray_address: str | None = None
    since: str
    """Start of the lease by the holder's clock; only shown, never compared."""

    @classmethod
    def of_this_process(cls, run_id: str, ray_job: str | None = None, ray_address: str | None = None) -> Self:
        pid = os.getpid()
        return cls(
            token=secrets.token_hex(16),
            run_id=run_id,
            user=user(),
            host=socket.gethostname(),
            machine=_machine(),
            pid=pid,
            started=_started(pid),
            ray_job=ray_job,
            ray_address=ray_address,
            since=utc_now(),
        )

    def __str__(self) -> str:
        job = f", Ray job {self.ray_job}" if self.ray_job else ""
        cluster = f", Ray {self.ray_address}" if self.ray_address else ""
        text = f"run {self.run_id} of {self.user} on {self.host}, process {self.pid}{job}{cluster}, since {self.since}"
        return "".join(char if char.isprintable() else "?" for char in text)  # anyone may write it: no terminal codes

    def who(self) -> dict[str, Any]:
        """Who it is and where, under the names of `RunAccount`."""
        return {"user": self.user, "host": self.host, "ray_job": self.ray_job, "ray_address": self.ray_address}

    def how_to_stop(self) -> str:
        """A shell command that stops the run."""
        return f"`{self.stop_command}`" + ("" if self.ray_job else f" on {self.host}")

    @property
    def stop_command(self) -> str:
        """The same without the place: on ``host``, unless it is a Ray job."""
        return f"ray job stop {self.ray_job}" if self.ray_job else f"kill {self.pid}"

    def process_state(self) -> ProcessState:
        """State of the process: alive, dead, or unknown if it is on another machine."""
        if self.machine is None or self.machine != _machine():
            return "unknown"
        if self.pid == os.getpid() and self.started == _started(self.pid):
            return "alive" if self.token in _held else "dead"
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return "dead"
        except PermissionError:  # it exists, but belongs to another user
            pass
        started = _started(self.pid)
        if started is None:  # some systems show only the user's own processes
            return "unknown"
        return "alive" if started == self.started else "dead"


class LeaseRecord(Record):
    """The object under a number."""

    format_version: int = FORMAT_VERSION
    holder: Holder
    lifetime_s: float = Field(gt=0)
    """Seconds without a new number after which a challenger may take over."""
    released: bool = False


@dataclass(frozen=True)
class _Leases:
    numbers: list[int]
    newest: LeaseRecord | None
    """The record under the highest number; None if there is none or it cannot be read."""
    at: float = 0.0
    """When the store has got the newest object, in seconds since the epoch."""

    @property
    def top(self) -> int:
        return self.numbers[-1] if self.numbers else 0


def _read_leases(store: Store) -> _Leases:
    numbers: list[int] = []
    for _ in range(_READS):
        times = {names.number_of_lease_key(info.key): info.modified for info in store.list(names.LEASES)}
        numbers, at = sorted(number for number in times if number is not None), max(times.values(), default=0.0)
        if not numbers:
            break
        key = names.lease_key(numbers[-1])
        try:
            return _Leases(numbers, LeaseRecord.from_json(store.read(key), f"{store.root}/{key}"), at)
        except ObjectNotFound:
            continue  # renewed several times since the listing
        except TableError:
            break  # damaged, or of a newer version
    return _Leases(numbers, None)


def read_record(store: Store) -> LeaseRecord | None:
    """The lease, whose holder may be dead; None if it is free or its record cannot be read."""
    entry = _read_leases(store).newest
    return entry if entry and not entry.released else None


def read_newest(store: Store) -> tuple[LeaseRecord | None, float]:
    """The newest record, which may say that the lease is free, and when the store has got it, in seconds since the
    epoch; None if there is none or it cannot be read. Two requests."""
    leases = _read_leases(store)
    return leases.newest, leases.at


def read_holder(store: Store) -> Holder | None:
    """The holder of the lease, dead or alive; None if it is free or its record cannot be read."""
    entry = read_record(store)
    return entry.holder if entry else None


class Lease:
    """A lease held by this process. A `Challenger` takes it; `hold` also renews and releases it."""

    def __init__(self, store: Store, holder: Holder, lifetime_s: float, number: int) -> None:
        self.holder = holder
        self.waited = False
        """Whether another lease had to run out first, so that earlier knowledge of the table is outdated."""
        self._store = store
        self._lifetime_s = lifetime_s
        self._number = number
        self._lost: TableInUse | None = None
        self._over = False
        self._lock = threading.Lock()
        self._stop = threading.Event()
        _held[holder.token] = self

    def check(self) -> None:
        """Raises TableInUse if the lease is known to be lost. Does not access the store."""
        if self._lost:
            raise self._lost

    def confirm(self) -> None:
        """Like `check`, but reads the store first."""
        with self._lock:
            self._see()
        self.check()

    def renew(self) -> None:
        """Create the next number. Raises StorageError; the next attempt may succeed."""
        with self._lock:
            if not self._lost and not self._over:
                self._create(released=False)

    def release(self) -> None:
        """Release the lease, so that others need not wait; gives up if a renewal blocks it for too long."""
        if self._lock.acquire(timeout=_PATIENCE_S):
            try:
                if not self._lost and not self._over:
                    self._over = True
                    self._create(released=True)
            finally:
                self._lock.release()

    def _create(self, *, released: bool) -> None:
        """Create the next number and delete old ones. If another process has it or a higher one, the lease is lost."""
        entry = LeaseRecord(holder=self.holder, lifetime_s=self._lifetime_s, released=released)
        created = self._store.create(names.lease_key(self._number + 1), entry.to_json())
        numbers = self._see()  # even if not created it may be ours: the reply to an earlier attempt may be lost
        if self._lost is None:
            self._store.delete([names.lease_key(number) for number in numbers if number <= self._number - _KEPT])
        elif created:  # an old number, deleted before
            self._store.delete([names.lease_key(self._number + 1)])

    def _see(self) -> list[int]:
        """All existing numbers. If the highest one is not ours, the lease is lost."""
        leases = _read_leases(self._store)
        if leases.newest and leases.newest.holder.token == self.holder.token:
            self._number = leases.top
        else:
            who = f"it was taken over by {leases.newest.holder}" if leases.newest else "another run took over"
            self._lost = TableInUse(
                f"This run has lost the lease of {self._store.root}: it was paused, or could not reach the store, for "
                f"{self._lifetime_s:g} s (run.lease_s), and {who}. Committed splits are kept, and the other run reuses "
                "them. When it is done, run the same command again."
            )
        return leases.numbers

    def keep_renewing(self) -> None:
        """Start a thread that renews the lease until `close`."""

        def renew() -> None:
            while not self._stop.wait(self._lifetime_s / _RENEWALS) and not self._lost:
                with contextlib.suppress(Exception):  # not worth ending a run; the next renewal may succeed
                    self.renew()

        threading.Thread(target=renew, name="sfr-lease", daemon=True).start()

    def close(self) -> None:
        """Stop renewing, and release the lease if possible."""
        self._stop.set()
        try:
            with contextlib.suppress(Exception):
                self.release()
        finally:
            _held.pop(self.holder.token, None)


class Challenger:
    """Tries to take the lease: call `look` until it returns the lease or raises."""

    def __init__(self, store: Store, me: Holder, lifetime_s: float, clock: Clock = time.monotonic) -> None:
        self._store, self._me, self._lifetime_s, self._clock = store, me, lifetime_s, clock
        self._seen: tuple[int, float] | None = None
        self.waiting_for: Holder | None = None

    def look(self) -> Lease | float:
        """The lease, or the seconds that the present holder has left to renew it.

        Raises TableInUse if the holder is alive, and StorageError.
        """
        leases = _read_leases(self._store)
        now = self._clock()  # after the listing, so that what it shows is no older than this
        moved = self._seen is not None and self._seen[0] != leases.top
        if self._seen is None or moved:
            self._seen = leases.top, now
        entry = leases.newest
        self.waiting_for = entry.holder if entry else None
        if not leases.numbers or (entry and (entry.released or entry.holder.process_state() == "dead")):
            return self._take(leases.top)
        if moved or (entry and entry.holder.process_state() == "alive"):
            raise _in_use(self._store, self.waiting_for)
        lifetime = min(entry.lifetime_s if entry else self._lifetime_s, _LONGEST_S)
        left = lifetime - (now - self._seen[1])
        return left if left > 0 else self._take(leases.top)

    def _take(self, top: int) -> Lease | float:
        entry = LeaseRecord(holder=self._me, lifetime_s=self._lifetime_s)
        key = names.lease_key(top + 1)
        _held[self._me.token] = None  # before others can see the lease and check whether it is alive
        try:
            created = self._store.create(key, entry.to_json())
            leases = _read_leases(self._store)
            if leases.newest and leases.newest.holder.token == self._me.token:  # also after a lost reply
                return Lease(self._store, self._me, self._lifetime_s, leases.top)
            if created:  # an old number, deleted before
                self._store.delete([key])
            return 0.0
        finally:
            if _held[self._me.token] is None:
                del _held[self._me.token]


def _in_use(store: Store, holder: Holder | None) -> TableInUse:
    who, stop = (str(holder), f" ({holder.how_to_stop()})") if holder else ("an unidentified run", "")
    return TableInUse(
        f"Another run is writing to {store.root}: {who}. Two runs at once would do the same work twice. Wait until it "
        f"is done (`sfr-batch status {store.root}`) and run the same command again, stop it first{stop}, or write to "
        "another table: table.path=<another path>."
    )


@contextlib.contextmanager
def hold(
    store: Store,
    me: Holder,
    lifetime_s: float,
    say: Callable[[str], None],
    clock: Clock = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[Lease]:
    """Hold the lease: it is renewed until the context ends, and then released.

    say: called once if this has to wait for another run. Raises TableInUse if a live run holds the lease, and
    StorageError.
    """
    challenger = Challenger(store, me, lifetime_s, clock)
    waited = False
    while not isinstance(found := challenger.look(), Lease):
        if not waited and found:
            waited = True
            who = challenger.waiting_for or "an unidentified run"
            say(
                f"waiting up to {found:.0f} s for the lease of {store.root}: it is held by {who}, which may be dead; "
                "without a heartbeat until then, this run takes over"
            )
        pause(min(found, lifetime_s / _LOOKS))
    found.waited = waited
    found.keep_renewing()
    try:
        yield found
    finally:
        found.close()


def release_all() -> None:
    """Release all leases of this process, which is about to exit without unwinding."""
    for lease in filter(None, list(_held.values())):
        with contextlib.suppress(Exception):
            lease.release()


def _machine() -> str | None:
    """The boot of this machine and the namespace of process ids; containers share the boot but not the namespace."""
    try:
        boot = read_text_file(Path("/proc/sys/kernel/random/boot_id"))
        return f"{boot.strip()} {os.readlink('/proc/self/ns/pid')}" if boot else None
    except OSError:
        return None


def _started(pid: int) -> int | None:
    """Start of a process in ticks since boot; -1 for a zombie; None if unknown."""
    try:
        stat = read_text_file(Path(f"/proc/{pid}/stat"))
    except OSError:
        return None
    if not stat:
        return None
    fields = stat.rpartition(")")[2].split()  # proc_pid_stat(5): the name before it may contain anything
    return -1 if fields[0] in "ZX" else int(fields[19])

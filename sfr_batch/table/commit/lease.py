"""Who writes a table now: a second run is refused politely, and a dead one replaced.

A courtesy, so that nobody pays twice for the same vectors: no correctness rests on it. Two publishers can never both
win, lease or not (see `commit`).

A store only creates, reads, lists and deletes. So the lease is a row of numbered objects, and the highest number
counts: taking over, renewing and releasing each create the next one, which one alone can do. Whoever created a number
also looks whether it is the highest: old numbers are deleted, and one who slept meanwhile could create one of these
again. The highest is never deleted, so once somebody has taken over, the former holder can never again believe that it
holds the lease.

Clocks of two machines are never compared: a challenger waits until it has seen the same number for one lifetime on its
own monotonic clock. A holder on the same machine is asked: its process is alive or it is not. Knows no Ray; what a
run says of its job is only shown.
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
from typing import Literal, Self

from pydantic import Field

from sfr_batch.errors import ObjectNotFound, TableError, TableInUse
from sfr_batch.format import names
from sfr_batch.format.names import FORMAT_VERSION
from sfr_batch.format.records import Record, user, utc_now
from sfr_batch.storage.local_files import read_text_file
from sfr_batch.storage.store import Store

_KEPT = 2
"""Old numbers that stay, so that who lists and then reads mostly finds what was listed."""
_RENEWALS = 3
"""How often a lease is renewed in a lifetime."""
_LOOKS = 30
"""How often one who waits looks in a lifetime."""
_LONGEST_S = 3600.0
"""No lifetime that stands in a lease is believed to be longer: a damaged one must not block a table for ever."""
_READS = 10
_PATIENCE_S = 5.0

Clock = Callable[[], float]
ProcessState = Literal["alive", "dead", "unknown"]

_held: "dict[str, Lease | None]" = {}
"""The leases of this process, by token, None while it is being taken: a lease of this process that is not among them is
of a run that is over."""


class Holder(Record):
    """Who holds the lease, for people and for a challenger on the same machine."""

    token: str
    """Names this holding of the lease."""
    run_id: str
    user: str
    host: str
    machine: str | None
    """The running system and its space of process ids; None where that cannot be known."""
    pid: int = Field(gt=0, lt=2**31)
    started: int | None
    """When the process started, in ticks since boot: another process may have the same number later."""
    ray_job: str | None = None
    """Submission id, if the process is the driver of a Ray job."""
    ray_address: str | None = None
    since: str
    """By the holder's own clock; shown, and compared with nothing."""

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
        return "".join(char if char.isprintable() else "?" for char in text)  # whoever wrote it: no terminal codes

    def how_to_stop(self) -> str:
        """A command for a shell."""
        return f"`ray job stop {self.ray_job}`" if self.ray_job else f"`kill {self.pid}` on {self.host}"

    def process_state(self) -> ProcessState:
        """Of the process; unknown if it is not on this machine."""
        if self.machine is None or self.machine != _machine():
            return "unknown"
        if self.pid == os.getpid() and self.started == _started(self.pid):
            return "alive" if self.token in _held else "dead"
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return "dead"
        except PermissionError:  # it exists, and is somebody else's
            pass
        started = _started(self.pid)
        if started is None:  # some systems show only one's own processes
            return "unknown"
        return "alive" if started == self.started else "dead"


class LeaseRecord(Record):
    """What stands under a number."""

    format_version: int = FORMAT_VERSION
    holder: Holder
    lifetime_s: float = Field(gt=0)
    """Seconds without a new number after which a challenger may take over."""
    released: bool = False


@dataclass(frozen=True)
class _Leases:
    numbers: list[int]
    newest: LeaseRecord | None
    """Under the highest number; None if there is none or it cannot be understood."""

    @property
    def top(self) -> int:
        return self.numbers[-1] if self.numbers else 0


def _read_leases(store: Store) -> _Leases:
    numbers: list[int] = []
    for _ in range(_READS):
        found = (names.number_of_lease_key(info.key) for info in store.list(names.LEASES))
        numbers = sorted(number for number in found if number is not None)
        if not numbers:
            break
        key = names.lease_key(numbers[-1])
        try:
            return _Leases(numbers, LeaseRecord.from_json(store.read(key), f"{store.root}/{key}"))
        except ObjectNotFound:
            continue  # renewed several times since it was listed
        except TableError:
            break  # damaged, or of a version to come
    return _Leases(numbers, None)


def read_holder(store: Store) -> Holder | None:
    """Who holds the lease, dead or alive; None if nobody does, or none can tell."""
    entry = _read_leases(store).newest
    return entry.holder if entry and not entry.released else None


class Lease:
    """Held by this process. Made by a `Challenger`; `hold` also renews it and lets it go."""

    def __init__(self, store: Store, holder: Holder, lifetime_s: float, number: int) -> None:
        self.holder = holder
        self.waited = False
        """Whether somebody else's lease had to run out first, so that what was known of the table is old."""
        self._store = store
        self._lifetime_s = lifetime_s
        self._number = number
        self._lost: TableInUse | None = None
        self._over = False
        self._lock = threading.Lock()
        self._stop = threading.Event()
        _held[holder.token] = self

    def check(self) -> None:
        """Raises TableInUse if it is known that somebody took over. Asks nobody."""
        if self._lost:
            raise self._lost

    def confirm(self) -> None:
        """As `check`, after a look at the store."""
        with self._lock:
            self._see()
        self.check()

    def renew(self) -> None:
        """Show a sign of life. Raises StorageError; then the next try may do."""
        with self._lock:
            if not self._lost and not self._over:
                self._create(released=False)

    def release(self) -> None:
        """Tell others that they need not wait, if that works at once."""
        if self._lock.acquire(timeout=_PATIENCE_S):
            try:
                if not self._lost and not self._over:
                    self._over = True
                    self._create(released=True)
            finally:
                self._lock.release()

    def _create(self, *, released: bool) -> None:
        """The next number, and away with old ones; if somebody else has it, or a higher one, the lease is lost."""
        entry = LeaseRecord(holder=self.holder, lifetime_s=self._lifetime_s, released=released)
        created = self._store.create(names.lease_key(self._number + 1), entry.to_json())
        numbers = self._see()  # what was not created may still be ours: the reply to an earlier try may have been lost
        if self._lost is None:
            self._store.delete([names.lease_key(number) for number in numbers if number <= self._number - _KEPT])
        elif created:  # an old number that had been deleted
            self._store.delete([names.lease_key(self._number + 1)])

    def _see(self) -> list[int]:
        """All numbers there are, the highest of which must be ours."""
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
        """From a thread of its own, until `close`."""

        def renew() -> None:
            while not self._stop.wait(self._lifetime_s / _RENEWALS) and not self._lost:
                with contextlib.suppress(Exception):  # a courtesy is no reason to end a run; in a moment it may work
                    self.renew()

        threading.Thread(target=renew, name="sfr-lease", daemon=True).start()

    def close(self) -> None:
        """Stop renewing and release it, as far as that is possible."""
        self._stop.set()
        try:
            with contextlib.suppress(Exception):
                self.release()
        finally:
            _held.pop(self.holder.token, None)


class Challenger:
    """Wants the lease. `look` again and again, until it is there or refused."""

    def __init__(self, store: Store, me: Holder, lifetime_s: float, clock: Clock = time.monotonic) -> None:
        self._store, self._me, self._lifetime_s, self._clock = store, me, lifetime_s, clock
        self._seen: tuple[int, float] | None = None
        self.waiting_for: Holder | None = None

    def look(self) -> Lease | float:
        """The lease, or how many seconds the present holder has left to show a sign of life.

        Raises TableInUse if the holder is alive, and StorageError.
        """
        leases = _read_leases(self._store)
        now = self._clock()  # after the listing: what it shows may be no older than that
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
        _held[self._me.token] = None  # before others can see it: they ask whether it is alive
        try:
            created = self._store.create(key, entry.to_json())
            leases = _read_leases(self._store)
            if leases.newest and leases.newest.holder.token == self._me.token:  # also after a lost reply
                return Lease(self._store, self._me, self._lifetime_s, leases.top)
            if created:  # an old number that had been deleted
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
    """The lease, renewed as long as the context lasts and then released.

    say: is told once if this has to wait for somebody. Raises TableInUse if a run that is alive holds it, and
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
    """For a process that is about to leave without unwinding."""
    for lease in filter(None, list(_held.values())):
        with contextlib.suppress(Exception):
            lease.release()


def _machine() -> str | None:
    """This boot of this machine, and its space of process ids: containers share the one and not the other."""
    try:
        boot = read_text_file(Path("/proc/sys/kernel/random/boot_id"))
        return f"{boot.strip()} {os.readlink('/proc/self/ns/pid')}" if boot else None
    except OSError:
        return None


def _started(pid: int) -> int | None:
    """When a process started, in ticks since boot; -1 if it is dead and only waits to be buried; None if unknown."""
    try:
        stat = read_text_file(Path(f"/proc/{pid}/stat"))
    except OSError:
        return None
    if not stat:
        return None
    fields = stat.rpartition(")")[2].split()  # proc_pid_stat(5): the name before it may hold anything
    return -1 if fields[0] in "ZX" else int(fields[19])

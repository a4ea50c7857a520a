"""What an audit says: its findings, their names and ways out, and how the problems of one promise become a finding.

Plain values and words; knows no table.
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfr_batch.checks.report import CheckReport, CheckResult
from sfr_batch.errors import counted

EXAMPLES = 5
"""Examples that a finding has at most."""

FILES, PAGES, FOOTERS, SCHEMA = "data files", "pages", "footers", "schema"
REJECTS, INDEXES, COUNTS, VECTORS, CHUNKS, IDS = "rejects", "indexes", "counts", "vectors", "chunks", "ids"
DUPLICATES, DELETES, CONDEMNED = "duplicates", "deletes", "condemned"
SNAPSHOTS, SIDES, ORPHANS, PLAIN, RUNS = "snapshots", "side files", "orphans", "plain", "runs"
SHARDS, CORPUS, TEXTS = "shards", "corpus rows", "texts"
"""The names of the findings."""

WRITE_ANEW = "Restore what is named from a copy, or write to a new table: table.path=<another path>."
EMBED = "Run `sfr-batch embed` with this config, then audit again."
REPORT = "No crash leaves this behind; restore the table from a copy, and please report it."
"""The ways out."""


@dataclass(frozen=True)
class Finding(CheckResult):
    """What the audit says of one promise. problems: how many were found; examples: the first few of them, each naming
    a file, a row or an id; way_out: what to do about it."""

    problems: int = 0
    examples: tuple[str, ...] = ()
    way_out: str = ""

    def __str__(self) -> str:
        more = self.problems - len(self.examples)
        lines = [super().__str__(), *(f"        {example}" for example in self.examples)]
        if self.examples and more > 0:
            lines.append(f"        and {more:,} more")
        return "\n".join([*lines, f"        {self.way_out}"] if self.way_out else lines)


@dataclass(frozen=True)
class AuditReport(CheckReport):
    """All findings about one snapshot of a table, in order."""

    table: str
    snapshot: int | None
    """The snapshot that was audited; None if nothing is published."""
    checks: tuple[Finding, ...]
    rows: int
    """Rows of data files that were read, dead ones included."""
    bytes: int
    """Bytes of data files that were read."""
    seconds: float
    plain: bool
    """Whether `data/*.parquet` is the newest snapshot's rows and nothing else, for any engine to read."""
    orphans: int
    """Objects that no snapshot names."""
    orphan_bytes: int

    def __repr__(self) -> str:
        return f"<AuditReport {self.table}, snapshot {self.snapshot}: {self.summary()}>"

    def brief(self) -> str:
        """Two lines for a person."""
        rate = f", {self.rows / self.seconds:,.0f} rows/s" if self.seconds > 0 and self.rows else ""
        what = f"snapshot {self.snapshot} of {self.table}, {self.rows:,} rows, {self.bytes / 1e6:,.1f} MB"
        return f"{self.summary()}\n{what} in {self.seconds:,.1f} s{rate}"

    def to_json(self) -> str:
        """The whole of it as a JSON object; ``checks`` has an object a finding."""
        return json.dumps({"ok": self.ok} | dataclasses.asdict(self), indent=1, ensure_ascii=False)


class PromiseCheck:
    """Collects what is wrong with one promise, and what of it could not be checked."""

    def __init__(self, name: str, way_out: str) -> None:
        self.name = name
        self.problems = 0
        self.unchecked = 0
        """Files that could not be looked into."""
        self._examples: list[str] = []
        self._way_out = way_out

    def wrong(self, example: str, count: int = 1) -> None:
        """Note ``count`` problems, of which this is an example."""
        self.problems += count
        if len(self._examples) < EXAMPLES:
            self._examples.append(example)

    def some(self, groups: NDArray[np.int64]) -> Iterator[int]:
        """Those of the groups with a problem that there is room to tell one by one; the others are only counted."""
        room = EXAMPLES - len(self._examples)
        yield from groups[:room].tolist()
        self.problems += len(groups[room:])

    def finding(self, what: str, holds: str) -> Finding:
        """what: that which was checked, with its number; holds: what is true of it if there is no problem."""
        more = f"; {counted(self.unchecked, 'file')} could not be looked into" if self.unchecked else ""
        if not self.problems:
            return Finding(self.name, "SKIP" if self.unchecked else "PASS", f"{what}: {holds}{more}")
        told = f"{what}: {counted(self.problems, 'problem')}{more}"
        return Finding(self.name, "FAIL", told, self.problems, tuple(self._examples), self._way_out)

"""What an audit reports: findings, their names, and what to do about each.

Plain values and words; knows no table.
"""

import dataclasses
import json
from dataclasses import dataclass

from sfr_batch.checks.report import CheckReport, CheckResult
from sfr_batch.errors import counted

FILES, PAGES, FOOTERS, SCHEMA = "data files", "pages", "footers", "schema"
REJECTS, INDEXES, COUNTS, VECTORS, CHUNKS, IDS = "rejects", "indexes", "counts", "vectors", "chunks", "ids"
DUPLICATES, DELETES, CONDEMNED = "duplicates", "deletes", "condemned"
FINGERPRINT = "fingerprint"
SNAPSHOTS, SIDES, ORPHANS, PLAIN, RUNS = "snapshots", "side files", "orphans", "plain", "runs"
SHARDS, CORPUS, TEXTS = "shards", "corpus rows", "texts"
"""Names of findings."""

_REPAIR = (
    "`sfr-batch repair CONFIG --deep` shows what it takes to have the rows of these files again, and with --write it "
    "embeds them. `sfr-batch expire` removes older snapshots that need lost files."
)
_MANIFESTS = (
    "Restore it from a copy. Without one: if the newest manifest is damaged, `sfr-batch repair CONFIG` shows what it "
    "takes to publish the rows anew; if it is missing, the next `sfr-batch embed CONFIG` publishes them; what is older "
    "goes with `sfr-batch expire`."
)
_RESTORE = "Restore what is named above from a backup, or write to a new table: table.path=<another path>."
_EMBED = "Run `sfr-batch embed` with this config, then audit again."
_REPORT = "No crash can cause this. Restore the table from a backup, and please report it as a bug."
WAYS_OUT = {
    **dict.fromkeys((SIDES, FILES, PAGES, FOOTERS, SCHEMA, REJECTS, VECTORS, INDEXES), _REPAIR),
    SNAPSHOTS: _MANIFESTS,
    FINGERPRINT: _RESTORE,
    **dict.fromkeys((SHARDS, CORPUS, TEXTS), _EMBED),
    **dict.fromkeys((COUNTS, CHUNKS, DELETES, CONDEMNED, IDS, DUPLICATES), _REPORT),
}
"""What to do if a finding failed, by its name. The findings that are not here cannot fail."""


@dataclass(frozen=True)
class Finding(CheckResult):
    """The result for one promise of a table.

    problems: their number. examples: the first few, each naming a file, a row or an id. way_out: what to do.
    """

    problems: int = 0
    examples: tuple[str, ...] = ()
    way_out: str = ""

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"        {line}" for line in self.details())])

    def details(self) -> list[str]:
        """The examples, the number of the other problems, and what to do."""
        more = self.problems - len(self.examples)
        lines = [*self.examples, f"and {more:,} more"] if self.examples and more > 0 else [*self.examples]
        return [*lines, self.way_out] if self.way_out else lines


@dataclass(frozen=True)
class AuditReport(CheckReport):
    """All findings about one snapshot of a table, in the order in which they were made."""

    table: str
    snapshot: int | None
    """Number of the snapshot that was audited; None if nothing is published."""
    checks: tuple[Finding, ...]
    rows: int
    """Number of rows that were read from data files, deleted ones included."""
    bytes: int
    """Size of these data files."""
    seconds: float
    plain: bool
    """Whether `data/*.parquet` holds the rows of the newest snapshot and no others, so that any engine can read it."""
    orphans: int
    """Number of objects that no snapshot names, without the logs of runs, which none names."""
    orphan_bytes: int

    def __repr__(self) -> str:
        return f"<AuditReport {self.table}, snapshot {self.snapshot}: {self.summary()}>"

    def brief(self) -> str:
        """Two lines for a person: the summary, and what was read how fast."""
        rate = f", {self.rows / self.seconds:,.0f} rows/s" if self.seconds > 0 and self.rows else ""
        which = "no snapshot" if self.snapshot is None else f"snapshot {self.snapshot}"
        what = f"{which} of {self.table}, {counted(self.rows, 'row')}, {self.bytes / 1e6:,.1f} MB"
        return f"{self.summary()}\n{what} in {self.seconds:,.1f} s{rate}"

    def to_json(self) -> str:
        """The report as a JSON object; ``checks`` has one object for each finding."""
        return json.dumps({"ok": self.ok} | dataclasses.asdict(self), indent=1, ensure_ascii=False)

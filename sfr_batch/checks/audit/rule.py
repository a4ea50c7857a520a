"""The rule by which one of several rows with an id is live, for the checks of ids. Knows values, no files."""

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from sfr_batch.checks.audit.id_records import IntArray
from sfr_batch.format.records import DuplicateRule


@dataclass(frozen=True)
class Rule:
    """Which row of an id is to be live. duplicates: as the manifest has it; None: the first.

    of_table, of_corpus: the values to order by, of rows by their numbers; asked only if there is a column for it.
    """

    duplicates: DuplicateRule | None
    of_table: Callable[[IntArray], pa.Array] | None = None
    of_corpus: Callable[[IntArray], pa.Array] | None = None

    @property
    def live(self) -> str:
        """The rule about live rows in words."""
        if self.duplicates is None:
            return "in the first row that has it"
        return "in the last row that has it" + (f" by {self.duplicates.order_by}" if self.duplicates.order_by else "")

    @property
    def others(self) -> str:
        """The rule about the others in words."""
        if self.duplicates is None:
            return "each repeats the id of an earlier row, which is live instead"
        return "each has the id of a later row, which counts instead"

    @property
    def place(self) -> str:
        return "first" if self.duplicates is None else "last"

"""Carried columns from one night to the next: which are new, dropped or of another type, and what is read for it.

A new column is filled from the corpus, so every shard is read; a dropped one only leaves the layout of the snapshot. A
type changes where `table.retype` says so. Decides nothing about rows: the comparison does.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sfr_batch.config.settings import Config, CorpusSettings
from sfr_batch.corpus.columns import Carried, Columns
from sfr_batch.corpus.shards import Shard
from sfr_batch.errors import ConfigError, counted
from sfr_batch.format import names
from sfr_batch.format.hashes import ROW_HASH_VERSION
from sfr_batch.format.layout import Layout
from sfr_batch.format.records import KEPT, ShardRecord, TableCard
from sfr_batch.format.schemas import is_same
from sfr_batch.format.widening import holds
from sfr_batch.planning.limits import documents_of
from sfr_batch.planning.recipes import ShardRecipes, make_row_recipe
from sfr_batch.table.table import Snapshot, Table

COPIED_BYTES_PER_S = 40e6
"""Bytes of vectors that one core copies in a second, the reading of the corpus included; roughly."""


@dataclass(frozen=True)
class ColumnChanges:
    """The carried columns of a layout against those of an earlier one."""

    before: dict[str, pa.DataType]
    after: dict[str, pa.DataType]

    @classmethod
    def between(cls, before: Layout, after: Layout) -> "ColumnChanges":
        return cls(before.carried, after.carried)

    @property
    def added(self) -> list[str]:
        return [name for name in self.after if name not in self.before]

    @property
    def dropped(self) -> list[str]:
        return [name for name in self.before if name not in self.after]

    @property
    def retyped(self) -> list[str]:
        """Columns of another type than before; those that had no value, and so no type, are not among them."""
        return [
            name
            for name, kind in self.after.items()
            if name in self.before and not self.before[name].equals(kind) and not pa.types.is_null(self.before[name])
        ]

    @property
    def replaced(self) -> list[str]:
        """The retyped columns whose new type does not hold every value of the old one: the corpus gives all of them."""
        return [name for name in self.retyped if not holds(self.after[name], self.before[name])]

    @property
    def copies(self) -> bool:
        """Whether rows of shards that have not changed may need new data files."""
        return bool(self.added or self.replaced)

    def describe(self) -> str:
        """As text: `year int64 is new, lang string is dropped, n int8 becomes int64`."""
        said = [f"{name} {self.after[name]} is new" for name in self.added]
        said += [f"{name} {self.before[name]} is dropped" for name in self.dropped]
        said += [f"{name} {self.before[name]} becomes {self.after[name]}" for name in self.retyped]
        same = [name for name in self.before if name in self.after]
        if not said and same != [name for name in self.after if name in self.before]:
            said.append(f"in another order: {', '.join(self.after)}")
        return ", ".join(said)


def known_columns(before: Layout | None, config: Config) -> Columns | None:
    """The types that id and carried columns have in the table, as far as it has them and they are to stay.

    before: the layout of the table; None if there is none. Raises ConfigError if `table.retype` names other columns.
    """
    carried, retype = config.corpus.carried, config.table.retype
    for name in retype:
        if name not in carried:
            raise ConfigError(
                f"table.retype names {name}, which corpus.carry does not carry. Add it there, or remove it from "
                "table.retype."
            )
    if before is None:
        return None
    types = before.carried
    stay = {name: Carried(path, types[name]) for name, path in carried.items() if name in types and name not in retype}
    return Columns(before.schema.field(names.ID).type, stay, before.row_hash)


def keep_types_without_values(columns: Columns, before: Layout | None) -> Columns:
    """The columns with the type of the table for each that has no value in the corpus."""
    types = before.carried if before else {}
    kept = {
        name: column._replace(type=types[name]) if pa.types.is_null(column.type) and name in types else column
        for name, column in columns.carry.items()
    }
    return Columns(columns.id_type, kept, columns.row_hash)


def next_layout(table: Table | None, base: Snapshot | None, card: TableCard) -> Layout:
    """The layout of the next snapshot. card: with the columns of today."""
    if table is None:
        return Layout.of_table(card.schema, card.row_hash)
    before = base.layout if base else table.layout
    stated = base is not None and base.manifest.layout is not None
    if not stated and is_same(before.schema, card.schema):  # types that become known have their own record
        return Layout(card.schema, table.card.row_hash, "", table.layout.of_card)
    hashed = stated and before.carried  # without carried columns there are no row hashes, whichever version it says
    return table.layout.changed_to(card.schema, before.row_hash if hashed else ROW_HASH_VERSION)


@dataclass(frozen=True)
class EarlierRecipes:
    """The row recipes of the base snapshot, which differ from today's in the carried columns alone."""

    recipes: ShardRecipes
    only_dropped: bool
    """Whether today's are among them."""

    @classmethod
    def of(cls, base: Snapshot | None, corpus: CorpusSettings) -> "EarlierRecipes | None":
        """None if the recipes are the same, or differ in something else."""
        recipe: dict[str, Any] = base.manifest.row_recipe if base else {}
        if base is None or "carry" not in recipe or recipe == make_row_recipe(corpus):
            return None
        carry = recipe["carry"]
        earlier = corpus.model_copy(update={"carry": carry})
        if make_row_recipe(earlier) != recipe:
            return None
        types = {name: kind for name, kind in base.layout.carried.items() if name in earlier.carried}
        dropped = earlier.carried.items() >= corpus.carried.items()
        return cls(ShardRecipes.make(earlier, types), dropped)

    @classmethod
    def same(cls, base: Snapshot, corpus: CorpusSettings) -> "EarlierRecipes":
        """Those of a base snapshot that was read with the same settings, for its types."""
        types = {name: kind for name, kind in base.layout.carried.items() if name in corpus.carried}
        return cls(ShardRecipes.make(corpus, types), only_dropped=False)

    def are_those_of(self, record: ShardRecord, shard: Shard) -> bool:
        """Whether the shard was recorded under them."""
        return record.recipe == self.recipes.of(shard)


def shards_to_read(base: Snapshot, changes: ColumnChanges) -> frozenset[str]:
    """URIs of shards that have to be read although neither they nor their row recipe has changed.

    All, if values come from the corpus because the new type does not hold the old ones; else those with rows that were
    rejected for a carried column, which may be good now.
    """
    records = [record for record in base.read_shards() if record.uri != KEPT]
    if changes.replaced:
        return frozenset(record.uri for record in records)
    if not (changes.dropped or changes.retyped) or not any(record.rejected for record in records):
        return frozenset()
    rejects = base.rejects(duplicates=False)
    reasons = zip(rejects.column(names.SHARD).to_pylist(), rejects.column(names.REASON).to_pylist(), strict=True)
    return frozenset(uri for uri, reason in reasons if reason == names.BAD_COLUMN)


def check_change(config: Config, base: Snapshot, changes: ColumnChanges) -> None:
    """Raises ConfigError if the run would leave the table with columns that some rows have and others lack."""
    what = changes.describe()
    if what and not config.select.everything:  # a type alone that became known suits all rows
        raise ConfigError(
            f"The carried columns differ from those of {base.store.root}: {what}. A run with select would change them "
            "for some rows only. Run once without select."
        )
    if changes.replaced and config.table.delete == "keep":
        name = changes.replaced[0]
        raise ConfigError(
            f"table.retype: {name} is {changes.before[name]} in {base.store.root} and {changes.after[name]} in the "
            f"corpus. Not every {changes.before[name]} is a {changes.after[name]}, and table.delete=keep keeps "
            f"documents whose {name} is nowhere else. Remove {name} from table.retype and carry it under another name, "
            f"corpus.carry: {{{name}_2: {config.corpus.carried[name]}}}; or set table.delete=mirror."
        )


def most_copies(base: Snapshot, recolumned: Iterable[ShardRecord]) -> int:
    """The most vectors that may have to be copied for the rows of these shards."""
    rows = sum(record.read - record.rejected for record in recolumned)
    return -(-rows * base.manifest.counts.vectors // max(1, documents_of(base)))


def describe_copies(vectors: int, size: int, *, exact: bool) -> str:
    """What copying vectors of so many bytes costs, for people; empty without vectors."""
    if not vectors:
        return ""
    seconds = size / COPIED_BYTES_PER_S
    time = f"~{seconds / 3600:,.1f} hours on one core" if seconds >= 360 else f"~{counted(round(seconds), 'second')}"
    return f"{'' if exact else 'at most '}{counted(vectors, 'vector')}, {size / 1e6:,.1f} MB, {time}, without the model"

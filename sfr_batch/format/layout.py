"""The layout of a snapshot: its columns, and what its row hashes cover. Reads any data file of the table in it.

Carried columns come, go and change their types; data files stay as they were written. A column that a file lacks, or
has in a type whose values the snapshot's type does not hold, is null in it. The row hash of a file that covers other
columns is computed anew. Knows Parquet files, not stores.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sfr_batch.format import names
from sfr_batch.format.hashes import hash_rows
from sfr_batch.format.widening import holds, widened


def carried_columns(schema: pa.Schema) -> dict[str, pa.DataType]:
    """Name and type of the carried columns among those of a table."""
    return {field.name: field.type for field in schema if field.name not in names.RESERVED_COLUMNS}


def covers_of(schema: pa.Schema, row_hash: int) -> str:
    """What row hashes of this version cover in a table with these columns, as a text: see `Receipt.covers`."""
    carried = {name: str(kind) for name, kind in carried_columns(schema).items()}
    return json.dumps([row_hash if carried else 0, carried], separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, eq=False)
class Layout:
    """The columns of a snapshot and of the data files that a run writes for it."""

    schema: pa.Schema
    row_hash: int
    """Version of the row hashes, see `hashes.hash_rows`."""
    covers: str = ""
    """As in the receipts of data files that are written in this layout: "" for what the table's card says."""
    of_card: Mapping[str, pa.DataType] = field(default_factory=dict)
    """The carried columns of data files whose receipt says ""."""
    earlier: "Layout | None" = None
    """A layout whose values these are: what it does not show of a data file is null here, too."""

    @classmethod
    def of_table(cls, schema: pa.Schema, row_hash: int) -> "Layout":
        """The layout that a table was made with. schema, row_hash: of its card, with the types that are known since."""
        return cls(schema, row_hash, "", carried_columns(schema))

    def changed_to(self, schema: pa.Schema, row_hash: int) -> "Layout":
        """Other columns of the table whose layout at first was this one."""
        covers = covers_of(schema, row_hash)
        if covers == covers_of(self.schema, self.row_hash):
            return dataclasses.replace(self, row_hash=row_hash)  # with the mark of types that became known
        return Layout(schema, row_hash, covers, self.of_card)

    def of_values_in(self, earlier: "Layout") -> "Layout":
        """These columns of what ``earlier`` shows, as somebody has them who read the table then."""
        if earlier.covers == self.covers:
            return self
        return dataclasses.replace(self, covers=f"{self.covers} of {earlier.covers}", earlier=earlier)

    def shows_the_same(self, earlier: "Layout", covers: str) -> bool:
        """Whether a data file has for certain the same values in both, in these columns. covers: of its receipt."""
        have, were = self.written_columns(covers), earlier.carried
        return all(name in were and kind.equals(were[name]) for name, kind in self.carried.items() if name in have)

    def __reduce__(self) -> tuple[Any, ...]:
        # pyarrow's own pickle of a schema forgets names and nullability inside of lists.
        fields = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        schemas = {"schema": self.schema, "of_card": pa.schema(list(self.of_card.items()))}
        return _layout_from, (fields | {name: found.serialize().to_pybytes() for name, found in schemas.items()},)

    @property
    def carried(self) -> dict[str, pa.DataType]:
        """Name and type of the carried columns."""
        return carried_columns(self.schema)

    @property
    def row_hash_column(self) -> str:
        """The column with the hash of a whole row: without carried columns that of its text."""
        return names.ROW_HASH if names.ROW_HASH in self.schema.names else names.CONTENT_HASH

    def written_columns(self, covers: str) -> frozenset[str]:
        """The carried columns of a data file, by what its receipt says that its row hashes cover."""
        return frozenset(json.loads(covers)[1] if covers else self.of_card)

    def has_type(self, name: str, covers: str) -> bool:
        """Whether a data file was written with the type that the column has here. covers: of its receipt."""
        if name in names.RESERVED_COLUMNS or covers == self.covers:
            return True
        kind = self.schema.field(name).type
        if not covers:
            return name in self.of_card and bool(kind.equals(self.of_card[name]))
        return bool(json.loads(covers)[1].get(name) == str(kind))

    def read(self, file: pq.ParquetFile, columns: Sequence[str], group: int | None = None) -> pa.Table:
        """Columns of the layout from a data file, or from one of its row groups; in the calling thread."""
        covers, present = covers_in(file), self.stored(file, columns)
        if group is None:
            table, rows = file.read(columns=present, use_threads=False), file.metadata.num_rows
        else:
            table = file.read_row_group(group, columns=present, use_threads=False)
            rows = file.metadata.row_group(group).num_rows
        # A column named "a.b" is also read where "a" is asked for.
        return self.project(table.select(present), columns, covers, rows)

    def stored(self, file: pq.ParquetFile, columns: Sequence[str]) -> list[str]:
        """The columns of a data file that are read for these."""
        have = set(file.schema_arrow.names)
        return [name for name in self._needed(columns, covers_in(file)) if name in have]

    def project(self, stored: pa.Table, columns: Sequence[str], covers: str, rows: int) -> pa.Table:
        """Columns of the layout [rows] from those of a data file. covers: of its receipt; what is computed from other
        columns needs these."""
        if self.earlier is not None:
            shown = [name for name in stored.column_names if name in self.earlier.schema.names]
            stored = self.earlier.project(stored, shown, covers, rows)
        found: dict[str, Any] = {}
        lost: dict[str, pa.ChunkedArray] = {}
        for name in self._needed(columns, covers):
            kind = self.schema.field(name).type
            have = stored.schema.field(name).type if name in stored.column_names else None
            if name not in stored.column_names:
                found[name] = pa.nulls(rows, kind)
            elif self.earlier is None and self.has_type(name, covers):
                found[name] = stored.column(name).cast(kind)  # what Parquet gives back is not always what was written
            elif holds(kind, have):
                found[name] = _widened(stored.column(name), kind)
            else:
                lost[name] = stored.column(name)
                found[name] = pa.nulls(rows, kind)
        if names.ROW_HASH in columns and names.ROW_HASH not in found:
            found[names.ROW_HASH] = self._hashes(found, lost)
        fields = [self.schema.field(name) for name in columns]
        return pa.table([found[name] for name in columns], schema=pa.schema(fields))

    def _hashes(self, found: dict[str, Any], lost: dict[str, pa.ChunkedArray]) -> pa.Array:
        """[rows] row hashes of these columns. lost: those that are null for their type, as they were."""
        contents = found[names.CONTENT_HASH]
        contents = contents.combine_chunks() if isinstance(contents, pa.ChunkedArray) else contents
        carry = pa.table({name: found[name] for name in self.carried})
        if not lost:
            return hash_rows(contents, carry, self.row_hash)
        # A value that the table does not show any more equals none: not even null.
        said = ", ".join(f"{name} {column.type}" for name, column in lost.items())
        said = said if self.earlier is None else f"shown, {said}"
        marked = hash_rows(contents, carry.append_column("lost", pa.repeat(said, len(contents))), self.row_hash)
        if self.earlier is None:
            return marked
        shown = functools.reduce(pc.or_, (pc.is_valid(column).combine_chunks() for column in lost.values()))
        return pc.if_else(shown, marked, hash_rows(contents, carry, self.row_hash))

    def _needed(self, columns: Sequence[str], covers: str) -> list[str]:
        """The stored columns that are needed for these."""
        if names.ROW_HASH not in columns or covers == self.covers:
            return list(dict.fromkeys(columns))
        others = [name for name in columns if name != names.ROW_HASH]
        return list(dict.fromkeys([*others, names.CONTENT_HASH, *self.carried]))


def _layout_from(fields: dict[str, Any]) -> Layout:
    schema, of_card = (pa.ipc.read_schema(pa.py_buffer(fields[name])) for name in ("schema", "of_card"))
    return Layout(**fields | {"schema": schema, "of_card": carried_columns(of_card)})


def covers_in(file: pq.ParquetFile) -> str:
    """What the receipt in the footer of a data file says that its row hashes cover; empty without a receipt."""
    receipt = (file.metadata.metadata or {}).get(names.RECEIPT_KEY.encode(), b"")
    return str(json.loads(receipt).get("covers", "")) if b'"covers"' in receipt else ""


def _widened(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    return pa.chunked_array([widened(chunk, kind) for chunk in column.chunks], kind)

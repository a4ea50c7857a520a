"""The rows of a split: each row that is read is laid out in columns, to be embedded, or rejected with a reason.

Takes rows as batches of columns or as records. What is rejected is decided in `rejects`; knows no files, no tokenizer
and no Ray.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.casting import cast_exactly, without_extension
from sfr_batch.corpus.column_paths import find_column, find_value
from sfr_batch.corpus.columns import Columns
from sfr_batch.corpus.ids import id_of_record, id_values, numbered_id
from sfr_batch.corpus.json_values import Unfit, exact_value
from sfr_batch.corpus.records import Parsed
from sfr_batch.corpus.rejects import (
    Problem,
    Reject,
    Undecodable,
    id_or_text_problem,
    rejects_table,
    text_part_problem,
    text_values,
    undecodable_rows,
)
from sfr_batch.corpus.text_template import TextTemplate
from sfr_batch.format import names
from sfr_batch.format.hashes import hash_rows, hash_texts


@dataclass
class Rows:
    """The rows of one split: n to embed, column by column, and the rejects."""

    read: int
    """n + the number of rejects."""
    shards: pa.Array
    """[n] URIs of the shards, dictionary-encoded."""
    positions: pa.Array
    """[n] int64: as in `names.REJECTS_SCHEMA`."""
    ids: pa.Array
    """[n] of the table's id type."""
    texts: list[str]
    """[n] rendered texts, without a prompt."""
    content_hash: pa.Array
    """[n] 16 bytes: of the text, see `format.hashes`."""
    row_hash: pa.Array
    """[n] 16 bytes: of the text and the carried columns."""
    carry: pa.Table
    """[n] the carried columns."""
    rejects: pa.Table
    """Columns of `names.REJECTS_SCHEMA`."""
    places: pa.Array | None = None
    """[n] int32: of rows of a pack, the number of each row's shard in it."""

    def take(self, chosen: pa.Array) -> "Rows":
        """Some of the rows, by number, without the rejects."""
        return Rows(
            read=len(chosen),
            shards=self.shards.take(chosen),
            positions=self.positions.take(chosen),
            ids=self.ids.take(chosen),
            texts=[self.texts[row] for row in chosen.to_pylist()],
            content_hash=self.content_hash.take(chosen),
            row_hash=self.row_hash.take(chosen),
            carry=self.carry.take(chosen) if self.carry.num_columns else self.carry,
            rejects=self.rejects.slice(0, 0),
            places=self.places.take(chosen) if self.places is not None else None,
        )

    def between(self, start: int, stop: int) -> "Rows":
        """Consecutive rows, without the rejects; the same if there are no others."""
        if start == 0 and stop >= len(self.texts):
            return self
        return self.take(pa.array(range(start, min(stop, len(self.texts)))))

    @staticmethod
    def concat(parts: Sequence["Rows"]) -> "Rows":
        """The rows of several, in order; at least one, and none of a pack."""
        return Rows(
            read=sum(part.read for part in parts),
            shards=pa.concat_arrays([part.shards for part in parts]),
            positions=pa.concat_arrays([part.positions for part in parts]),
            ids=pa.concat_arrays([part.ids for part in parts]),
            texts=[text for part in parts for text in part.texts],
            content_hash=pa.concat_arrays([part.content_hash for part in parts]),
            row_hash=pa.concat_arrays([part.row_hash for part in parts]),
            carry=pa.concat_tables([part.carry for part in parts]),
            rejects=pa.concat_tables([part.rejects for part in parts]),
        )


class RowCollector:
    """Takes in the rows of one split as they are read, and makes `Rows` of them."""

    def __init__(self, shard: str, settings: CorpusSettings, columns: Columns) -> None:
        """shard: its URI; of a pack, `next_shard` says it. settings: as they hold for it, see `shards.settings_for`."""
        self._shard = shard
        self._shards, self._firsts = [shard], [0]
        self._places: list[int] = []
        self._id = settings.id
        self._template = TextTemplate(settings.text)
        self._columns = columns
        self._positions: list[int] = []
        self._ids: list[Any] = []
        self._texts: list[str | None] = []
        self._carry: dict[str, list[Any]] = {name: [] for name in columns.carry}
        self._rejects: list[tuple[int, Reject]] = []
        """Each with the number of its shard here."""
        self._bad: dict[int, Problem] = {}
        """By row, why a carried column of it is not of the table's type."""

    def next_shard(self, shard: str, place: int) -> None:
        """The rows that follow are of this shard of a pack. place: its number there."""
        if not self._places:
            self._shards.clear()
            self._firsts.clear()
        self._shard = shard
        self._shards.append(shard)
        self._firsts.append(len(self._ids))
        self._places.append(place)

    def add_batch(self, batch: pa.RecordBatch, positions: Sequence[int]) -> None:
        """Take in the rows [n] of a batch; positions: [n] their numbers in the shard."""
        self._positions.extend(positions)
        if self._id is None:
            self._ids.extend(numbered_id(self._shard, position) for position in positions)
        else:
            self._ids.extend(id_values(find_column(batch, self._id)))
        parts = [text_values(without_extension(find_column(batch, name))) for name in self._template.columns]
        for values in zip(*parts, strict=True):
            bad = next((value for value in values if isinstance(value, Undecodable)), None)
            self._texts.append(self._template.render(values) if bad is None else bad)
        for name, (path, kind) in self._columns.carry.items():
            found = cast_exactly(find_column(batch, path), kind)
            self._carry[name].append(found.column)
            for row, why in found.bad.items():
                problem = Problem(names.BAD_COLUMN, f"{name} is not {kind}: {why}")
                self._bad.setdefault(len(self._texts) - batch.num_rows + row, problem)

    def add_record(self, position: int, record: Parsed) -> None:
        """Take in one record; ``position`` as in `names.REJECTS_SCHEMA`."""
        if isinstance(record, Problem):
            return self._reject(None, position, record)
        id_ = numbered_id(self._shard, position) if self._id is None else id_of_record(record, self._id)
        carried = {}
        for name, (path, kind) in self._columns.carry.items():
            try:
                carried[name] = exact_value(find_value(record, path), kind)
            except Unfit as error:
                return self._reject(id_, position, Problem(names.BAD_COLUMN, f"{name} {error}"))
        values = [find_value(record, name) for name in self._template.columns]
        for name, value in zip(self._template.columns, values, strict=True):
            if problem := text_part_problem(name, value, alone=len(values) == 1):
                return self._reject(id_, position, problem)
        self._positions.append(position)
        self._ids.append(id_)
        self._texts.append(self._template.render(values))
        for name, column in self._carry.items():
            column.append(carried[name])
        return None

    def finish(self) -> Rows:
        """Reject the rows that cannot be embedded and lay the others out in columns."""
        wanted_id = int if pa.types.is_integer(self._columns.id_type) else str
        kinds = self._columns.types
        carry = pa.table({name: _column(self._carry[name], kind) for name, kind in kinds.items()})
        undecodable = dict(self._bad)
        for name in kinds:
            undecodable |= undecodable_rows(name, carry.column(name))
        of_row = np.searchsorted(self._firsts, np.arange(len(self._ids)), side="right") - 1
        keep = []
        for row, (id_, text) in enumerate(zip(self._ids, self._texts, strict=True)):
            problem = id_or_text_problem(id_, text, wanted_id) or undecodable.get(row)
            if problem is None:
                keep.append(row)
            else:
                self._reject(id_, self._positions[row], problem, int(of_row[row]))
        rejects = [reject for _, reject in sorted(self._rejects, key=lambda its: (its[0], its[1].position))]
        texts = [str(self._texts[row]) for row in keep]
        content_hash = hash_texts(texts)
        of_kept = of_row[np.array(keep, np.int64)].astype(np.int32)
        carry = carry.take(pa.array(keep, pa.int64())) if kinds else carry
        return Rows(
            read=len(keep) + len(rejects),
            shards=pa.DictionaryArray.from_arrays(pa.array(of_kept), pa.array(self._shards, pa.string())),
            positions=pa.array([self._positions[row] for row in keep], pa.int64()),
            ids=pa.array([self._ids[row] for row in keep], self._columns.id_type),
            texts=texts,
            content_hash=content_hash,
            row_hash=hash_rows(content_hash, carry, self._columns.row_hash),
            carry=carry,
            rejects=rejects_table(rejects, self._shard),
            places=pa.array(np.array(self._places, np.int32)[of_kept]) if self._places else None,
        )

    def _reject(self, id_: Any, position: int, problem: Problem, shard: int | None = None) -> None:
        """shard: its number; None: the last one."""
        number = len(self._shards) - 1 if shard is None else shard
        self._rejects.append((number, Reject(id_, position, *problem, self._shards[number])))


def _column(values: list[Any], kind: pa.DataType) -> pa.ChunkedArray:
    """A carried column of values as `exact_value` gives them, or of the arrays of a file's batches."""
    if values and isinstance(values[0], pa.Array):
        return pa.chunked_array(values, kind)
    return pa.chunked_array([pa.array(values, kind)], kind)

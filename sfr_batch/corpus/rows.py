"""The rows of a split: decoded once, those to embed laid out in columns, the others rejected with their reasons.

Every row that is read comes out as one or the other. Knows how shards were cut (`splits`), no table, no tokenizer and
no Ray.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from sfr_batch.corpus.columns import Columns
from sfr_batch.corpus.rejects import Reject, Undecodable, cell_value, rejects_table, text_problem
from sfr_batch.format import names
from sfr_batch.format.hashes import hash_rows, hash_texts


@dataclass
class Rows:
    """The rows of one split: those to embed, column by column, and those that cannot be, with reasons.

    shards: [n] where each is from; positions: [n] as in the rejects; ids: [n] of the table's id type; texts: n strings;
    content_hash, row_hash: [n] of 16 bytes, of the text and of the text with the carried columns, see `identity`;
    carry: [n] the carried columns; rejects: columns of `schema.REJECTS_SCHEMA`. ``read`` == n + rejects.
    """

    read: int
    shards: pa.Array
    positions: pa.Array
    ids: pa.Array
    texts: list[str]
    content_hash: pa.Array
    row_hash: pa.Array
    carry: pa.Table
    rejects: pa.Table

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
        )

    @staticmethod
    def concat(parts: Sequence["Rows"]) -> "Rows":
        """The rows of several, in order; at least one."""
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


@dataclass
class CollectedRows:
    """Rows of one split as they are decoded: columns of equal length, beside the rejects that are known by then.

    carry: of each carried column the arrays or values, in the same order.
    """

    positions: list[int] = field(default_factory=list)
    ids: list[Any] = field(default_factory=list)
    texts: list[str | None] = field(default_factory=list)
    carry: dict[str, list[Any]] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)


def finish_rows(collected: CollectedRows, columns: Columns, shard: str) -> Rows:
    """Reject the rows that cannot be embedded and lay the others out in columns."""
    wanted_id = int if pa.types.is_integer(columns.id_type) else str
    rejects = collected.rejects
    carry = pa.table(
        {name: pa.chunked_array(_arrays(collected.carry[name], kind), kind) for name, kind in columns.carry.items()}
    )
    undecodable = {row: name for name in columns.carry for row in _undecodable_rows(carry.column(name))}
    keep = []
    for number, (id_, text) in enumerate(zip(collected.ids, collected.texts, strict=True)):
        problem = text_problem(id_, text, wanted_id)
        if problem is None and number in undecodable:
            problem = names.BAD_COLUMN, f"{undecodable[number]} holds bytes that are not UTF-8"
        if problem:
            rejects.append(Reject(id_, collected.positions[number], *problem))
        else:
            keep.append(number)
    rejects.sort(key=lambda reject: reject.position)
    texts = [str(collected.texts[i]) for i in keep]
    content_hash = hash_texts(texts)
    carry = carry.take(pa.array(keep, pa.int64())) if columns.carry else carry
    return Rows(
        read=len(keep) + len(rejects),
        shards=pa.repeat(pa.scalar(shard), len(keep)).dictionary_encode(),
        positions=pa.array([collected.positions[i] for i in keep], pa.int64()),
        ids=pa.array([collected.ids[i] for i in keep], columns.id_type),
        texts=texts,
        content_hash=content_hash,
        row_hash=hash_rows(content_hash, carry),
        carry=carry,
        rejects=rejects_table(rejects, shard),
    )


def _arrays(values: list[Any], kind: pa.DataType) -> list[pa.Array]:
    if values and isinstance(values[0], pa.Scalar):
        return [pa.array([value.as_py() for value in values], kind)]
    return [value.cast(kind) for value in values]


def _undecodable_rows(column: pa.ChunkedArray) -> list[int]:
    """Rows with strings that are not UTF-8: Parquet readers do not look, but whoever reads the table would stumble."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return [row for row, scalar in enumerate(column) if isinstance(cell_value(scalar), Undecodable)]
    return []

"""Small corpora and tables for tests, on local disks and on S3: written through a Store, without Ray and a model."""

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sfr_batch.corpus.reader import read_unit
from sfr_batch.corpus.rejects import Reject, rejects_table
from sfr_batch.corpus.rows import Rows
from sfr_batch.format import names
from sfr_batch.format.fingerprint import digest
from sfr_batch.format.parquet import read_receipt
from sfr_batch.format.records import Receipt, ShardRecord, TableCard
from sfr_batch.pipeline.copy_vectors import copy_all
from sfr_batch.pipeline.write_stage import vector_column
from sfr_batch.planning.comparison import ComparisonRun, compare, shards_to_read_again
from sfr_batch.planning.drafting import draft
from sfr_batch.planning.make import make_plan
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.storage.executor import Executor, InProcess
from sfr_batch.storage.store import Store
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.draft import Draft
from sfr_batch.table.commit.publish import publish
from sfr_batch.table.commit.writing import commit_split, create_or_open, new_attempt, new_run_id, record_types
from sfr_batch.table.table import Snapshot, Table

SCHEMA = names.table_schema(pa.string(), 3, "float32", {})
INPUTS: dict[str, Any] = {"vector_dtype": "float32", "max_length": 512, "pooling": "mean"}


def put(root: str, key: str, data: bytes) -> str:
    """Write a corpus file, in the place of an older one if there is one. Returns its URI."""
    store = open_store(root)
    store.delete([key])
    assert store.create(key, data)
    return f"{root}/{key}"


def parquet(table: pa.Table, groups: Sequence[int] | None = None) -> bytes:
    """A Parquet file with row groups of the given sizes, which may be 0; default: one."""
    sink = io.BytesIO()
    start = 0
    with pq.ParquetWriter(sink, table.schema) as writer:
        for rows in [table.num_rows] if groups is None else groups:
            writer.write_table(table.slice(start, rows), row_group_size=max(1, rows))
            start += rows
    assert start == table.num_rows
    return sink.getvalue()


def jsonl(rows: Iterable[Any], end: str = "\n") -> bytes:
    """One line a row: a dictionary as JSON, a string as it is."""
    return "".join((row if isinstance(row, str) else json.dumps(row)) + end for row in rows).encode()


def vector(id_: str | int, dim: int = 3) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A vector of length 1 that belongs to this id."""
    seed = int.from_bytes(hashlib.sha256(str(id_).encode()).digest()[:4], "little")
    numbers = np.random.default_rng(seed).normal(size=dim)
    return (numbers / np.linalg.norm(numbers)).astype(np.float32)


def card_of(arrow_schema: pa.Schema = SCHEMA, **inputs: Any) -> TableCard:
    chosen = {**INPUTS, **inputs}
    return TableCard.make(arrow_schema, digest(chosen), chosen, {"path": "a model"})


def rows_of(
    ids: Sequence[Any], arrow_schema: pa.Schema = SCHEMA, carry: dict[str, list[Any]] | None = None
) -> pa.Table:
    """Rows of a table, their vectors made from their ids."""
    kind = arrow_schema.field(names.EMBEDDING).type
    numbers = np.concatenate([vector(i, kind.list_size) for i in ids]) if ids else np.empty(0, np.float32)
    flat = pa.array(numbers.astype(kind.value_type.to_pandas_dtype()))
    given = {
        names.ID: ids,
        names.N_TOKENS: [5] * len(ids),
        names.N_TOKENS_FULL: [5] * len(ids),
        names.TRUNCATED: [False] * len(ids),
        names.CONTENT_HASH: [bytes(16)] * len(ids),
        names.ROW_HASH: [bytes(16)] * len(ids),
        **(carry or {}),
    }
    columns = [
        pa.FixedSizeListArray.from_arrays(flat, type=kind)
        if field.name == names.EMBEDDING
        else _column(given[field.name], field.type)
        for field in arrow_schema
    ]
    return pa.table(columns, schema=arrow_schema)


def _column(values: Any, kind: pa.DataType) -> Any:
    # Not through Python's objects if it need not be: they have no dates after the year 9999.
    return values.cast(kind) if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, kind)


def table_of(store: Store, carry: dict[str, Any], ids: Sequence[Any] | None = None) -> Table:
    """A table with one snapshot, of one data file, that carries these columns: Arrow arrays of its rows."""
    rows = len(next(iter(carry.values())))
    kinds = {name: values.type for name, values in carry.items()}
    card = card_of(names.table_schema(pa.string(), 3, "float32", kinds))
    table = create_or_open(store, card)
    chosen = [f"r{n}" for n in range(rows)] if ids is None else ids
    publish(table, None, draft_of([commit_rows(store, card, "a", chosen, carry=carry)]))
    return table


def receipt_of(split_id: str, rows: int, rejects: int = 0, **changes: Any) -> Receipt:
    """A receipt whose counts close; what is not named is 0 or a name of no interest."""
    values: dict[str, Any] = {f.name: f.type() for f in dataclasses.fields(Receipt)}  # type: ignore[operator]
    values["owned"] = True
    values.update(split_id=split_id, shard="shard", version="1", attempt=new_attempt(), run_id="run")
    values.update(read=rows + rejects, embedded=rows, rejected=rejects, vectors=rows, tokens=5 * rows)
    values.update(tokens_full=5 * rows)
    return Receipt(**{**values, **changes})


def split_name(label: str) -> str:
    return hashlib.md5(label.encode()).hexdigest()


def commit_rows(
    store: Store, card: TableCard, label: str, ids: Sequence[Any], rejects: Sequence[Reject] = (), **changes: Any
) -> Receipt:
    """Commit a split with these ids."""
    carry = changes.pop("carry", None)
    receipt = receipt_of(split_name(label), len(ids), len(rejects), **changes)
    return commit_split(store, card, receipt, rows_of(ids, card.schema, carry), rejects_table(rejects, receipt.shard))


def draft_of(receipts: Sequence[Receipt], base: Snapshot | None = None, **changes: Any) -> Draft:
    """A draft of these splits and no others; those that ``base`` does not have are new."""
    known = {receipt.split_id for receipt in base.read_receipts()} if base else set()
    live = sorted(receipts, key=lambda r: (r.shard, r.start))
    of_shard = {uri: [r for r in live if r.shard == uri] for uri in sorted({receipt.shard for receipt in live})}
    shards = [
        ShardRecord(
            uri, "1", 0, "recipe", "", sum(r.read for r in its), len(its), rejected=sum(r.rejected for r in its)
        )
        for uri, its in of_shard.items()
    ]
    draft = Draft(
        run_id=new_run_id(),
        generation="",
        row_recipe={},
        receipts=live,
        shards=shards,
        new=frozenset(r.split_id for r in live if r.split_id not in known),
    )
    return dataclasses.replace(draft, **changes)


def make_table(store: Store, splits: dict[str, Sequence[Any]], card: TableCard | None = None) -> Table:
    """A table with one snapshot: label -> ids, each label a split of its own, in order."""
    card = card or card_of()
    table = create_or_open(store, card)
    receipts = [commit_rows(store, card, label, ids, start=n) for n, (label, ids) in enumerate(splits.items())]
    publish(table, None, draft_of(receipts))
    return table


def create(plan: EmbedPlan) -> Table:
    """The table of a plan, made if it does not exist; by a repair with the card that fits what is left of it."""
    return create_or_open(plan.store, plan.remains.table.card if plan.remains else plan.card)


def do_splits(
    plan: EmbedPlan, only: int | None = None, encode: Callable[[list[str]], Any] | None = None
) -> list[Receipt]:
    """Commit the splits of a plan that are to do, or the first few, with vectors from the ids or from ``encode``.

    A row whose vector is not finite is rejected.
    """
    create(plan)
    receipts: list[Receipt] = []
    for unit in plan.todo:
        for split, rows in read_unit(unit, plan.config.corpus, plan.columns):
            if len(receipts) == only:
                return receipts
            vectors = encode(rows.texts) if encode else np.empty((0, 0), np.float32)
            if not (good := np.isfinite(vectors).all(axis=1)).all():
                rows, vectors = without_vectors(rows, ~good), vectors[good]
            carry: dict[str, Any] = {name: rows.carry.column(name) for name in rows.carry.column_names}
            carry[names.CONTENT_HASH] = rows.content_hash.to_pylist()
            carry[names.ROW_HASH] = rows.row_hash.to_pylist()
            columns = rows_of(rows.ids.to_pylist(), plan.card.schema, carry)
            if encode:
                at = columns.schema.get_field_index(names.EMBEDDING)
                columns = columns.set_column(at, names.EMBEDDING, vector_column(vectors, plan.card.schema))
            receipt = receipt_of(
                split.split_id,
                len(rows.texts),
                rows.rejects.num_rows,
                shard=split.shard,
                version=split.version,
                start=split.start,
                generation=plan.config.table.generation,
                covers=plan.layout.covers,
            )
            pieces = [] if rows.places is None else np.bincount(rows.places.to_numpy()).tolist()
            receipts.append(commit_split(plan.store, plan.card, receipt, columns, rows.rejects, pieces))
    return receipts


def without_vectors(rows: Rows, bad: NDArray[np.bool_]) -> Rows:
    """The rows, of which the encoder has failed for some. bad: [n]."""
    chosen = rows.take(pa.array(np.flatnonzero(bad)))
    columns = {names.ID: chosen.ids.cast(pa.string()), names.SHARD: chosen.shards.cast(pa.string())}
    columns |= {names.POSITION: chosen.positions}
    columns |= {name: [names.BAD_VECTOR] * len(chosen.texts) for name in (names.REASON, names.MESSAGE)}
    rejects = pa.concat_tables([rows.rejects, pa.table(columns, schema=names.REJECTS_SCHEMA)])
    return dataclasses.replace(rows.take(pa.array(np.flatnonzero(~bad))), read=rows.read, rejects=rejects)


def do_copies(comparison: ComparisonRun | None) -> list[Receipt]:
    """Commit the splits of a compared plan whose vectors are copied."""
    return list(copy_all(comparison, "run")) if comparison else []


def do_plan(
    plan: EmbedPlan,
    encode: Callable[[list[str]], Any] | None = None,
    again: frozenset[str] = frozenset(),
    executor: Executor | None = None,
) -> Snapshot:
    """All that is to do, and the snapshot: a run without Ray. executor: of the comparison; None: this process."""
    comparison = compare(plan, executor or InProcess(), again) if plan.has_to_compare or again else None
    plan = comparison.plan if comparison else plan
    table = create(plan)
    assert plan.is_for(table)
    if not plan.states_layout:
        record_types(table, plan.card, new_run_id())
    new = [*do_splits(plan, encode=encode), *do_copies(comparison)]
    receipts = [*(read_receipt(plan.store, split_id) for split_id in plan.done), *new]
    if comparison and (rivals := shards_to_read_again(comparison, receipts) - again):
        return do_plan(make_plan(plan.config), encode, again | rivals, executor)
    return publish(Table.open(plan.store), plan.base, draft(plan, new_run_id(), receipts, comparison))

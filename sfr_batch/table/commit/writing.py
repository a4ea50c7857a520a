"""Commits a split: first its rejects, then its data file, by create-if-absent. Also creates tables and run ids."""

import dataclasses
import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import (
    CountsDoNotClose,
    TableMismatch,
)
from sfr_batch.format import names
from sfr_batch.format.accepted import AcceptedInputs
from sfr_batch.format.fingerprint import differences, mismatches, short_id
from sfr_batch.format.known_types import KnownTypes
from sfr_batch.format.lineage import Taken
from sfr_batch.format.parquet import ParquetContent, read_receipt
from sfr_batch.format.records import (
    Receipt,
    TableCard,
    utc_now,
    who,
)
from sfr_batch.format.schemas import described, is_same
from sfr_batch.storage.conditional_writes import check_conditional_writes
from sfr_batch.storage.s3 import S3Store
from sfr_batch.storage.store import Store
from sfr_batch.table.table import Table


def new_run_id() -> str:
    """A new run id: it sorts by time, to the microsecond, and is unique without coordination."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}"


def new_attempt() -> str:
    """A random name for one attempt at a split."""
    return secrets.token_hex(8)


def check_store(store: Store, settings: StorageSettings) -> None:
    """Raises StorageError if two writers of a key could both win, tried once for a table and a store."""
    endpoint = store.endpoint_url if isinstance(store, S3Store) else None
    target, passed = names.probe_keys(short_id("store", endpoint, settings.multipart))
    check_conditional_writes(store, target, passed, multipart=settings.multipart)


def create_or_open(store: Store, card: TableCard) -> Table:
    """Open the table at ``store``, or create it with ``card``. Raises TableMismatch if it has another card."""
    if store.create(names.TABLE_JSON, card.to_json()):
        return Table(store, card)
    table = Table.open(store)
    check_same_table(table, card)
    return table


def check_same_table(table: Table, card: TableCard, known: Mapping[str, Any] | None = None) -> None:
    """Raises TableMismatch, which shows what differs and what to do, if the table has another fingerprint.

    known: the inputs of the table's fingerprint, default those of its card. Inputs that are not known are not compared,
    see `accept_inputs`.
    """
    if table.card.fingerprint != card.fingerprint:
        known = table.card.fingerprint_inputs if known is None else known
        _refuse(table, mismatches(known, card.fingerprint_inputs))


def _refuse(table: Table, lines: list[str]) -> None:
    """Raises TableMismatch with the lines, if there are any."""
    if lines:
        raise TableMismatch(
            f"{table.store.root} holds vectors made with other settings:\n  " + "\n  ".join(lines) + "\n"
            "A table with both kinds of vectors would be silently wrong. Change the settings back, or write to a new "
            "table: table.path=<another path>."
        )


def accept_inputs(table: Table, inputs: Mapping[str, Any], run_id: str, rows: int, distance: float) -> None:
    """Record inputs of the fingerprint that the table does not know, once and for all later runs.

    rows, distance: how many rows were compared, and their largest 1 - cosine. Raises TableMismatch if another run has
    accepted other ones meanwhile.
    """
    record = AcceptedInputs(
        accepted_at=utc_now(),
        by=who(),
        run_id=run_id,
        fingerprint=table.card.fingerprint,
        inputs=dict(inputs),
        rows_compared=rows,
        largest_distance=distance,
    )
    if not table.store.create(names.ACCEPTED_JSON, record.to_json()):
        winner = table.accepted()
        _refuse(table, differences(winner.inputs if winner else {}, inputs))


def record_types(table: Table, card: TableCard, run_id: str) -> None:
    """Record the types of columns that had none in the table so far, before a row with a value is committed.

    Not for a table whose manifests state its columns.

    Raises TableMismatch if another run has recorded other ones meanwhile.
    """
    number = table.refresh_types()
    if table.layout.schema.equals(card.schema) and table.seen is None:
        return
    _check_types(table, card)
    record = KnownTypes(
        created_at=utc_now(), by=who(), run_id=run_id, fingerprint=table.card.fingerprint, **described(card.schema)
    )
    table.store.create(names.types_key(number + 1), record.to_json())
    table.seen = None
    table.refresh_types()
    _check_types(table, card)


def _check_types(table: Table, card: TableCard) -> None:
    known = table.layout.schema
    if is_same(known, card.schema):
        return
    name = next(name for name in card.schema.names if not is_same(*(_alone(it, name) for it in (known, card.schema))))
    raise TableMismatch(
        f"The column {name} of {table.store.root} had no value, and another run has given it the type "
        f"{known.field(name).type} meanwhile. This run would write {card.schema.field(name).type}. Run the command "
        "again."
    )


def _alone(schema: pa.Schema, name: str) -> pa.Schema:
    return pa.schema([schema.field(name)])


def commit_split(
    store: Store,
    card: TableCard,
    receipt: Receipt,
    rows: pa.Table,
    rejects: pa.Table,
    pieces: Sequence[int] = (),
    sources: Sequence[Taken] = (),
) -> Receipt:
    """Write one split: its rejects, then its data file. Returns the receipt that counts: ours or an earlier winner's.

    rows: columns of the table's schema, ``receipt.vectors`` rows; rejects: columns of `names.REJECTS_SCHEMA`;
    pieces: how many documents each shard of a pack has, see `names.PIECES_KEY`; sources: where the rows of a compacted
    file are from. Raises CountsDoNotClose if they do not match the receipt, and StorageError. After an error the split
    is not committed and can be committed again.
    """
    receipt.check()
    if rows.num_rows != receipt.vectors or rejects.num_rows != receipt.rejected:
        raise CountsDoNotClose(
            f"Split {receipt.split_id} of {receipt.shard} has {rows.num_rows} vectors and {rejects.num_rows} rejects, "
            f"its receipt says {receipt.vectors} and {receipt.rejected}."
        )
    if rejects.num_rows:
        store.create(names.rejects_key(receipt.split_id, receipt.attempt), ParquetContent(rejects))
    metadata = {names.RECEIPT_KEY: receipt.to_json(), names.FINGERPRINT_KEY: card.fingerprint}
    for key, listed in ((names.PIECES_KEY, pieces), (names.SOURCES_KEY, sources)):
        metadata |= {key: json.dumps(list(listed), separators=(",", ":"))} if listed else {}
    file = ParquetContent(rows.cast(card.schema), metadata)
    if store.create(names.data_key(receipt.split_id), file):
        return dataclasses.replace(receipt, size=file.size)
    return read_receipt(store, receipt.split_id)

"""How a split travels between stages: a read unit as JSON, a table as Arrow IPC bytes in one row of a block.

Ray cuts blocks between rows, never inside a row, so a packed split is never cut or merged. Knows no stage."""

import dataclasses
import json
from typing import Any

import numpy as np
import pyarrow as pa

from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.splits import Chosen, ReadUnit, Split, Stream
from sfr_batch.corpus.table_files import TableFile

_OF_A_SHARD = tuple(field.name for field in dataclasses.fields(Shard) if field.name != "table")


def unit_to_json(unit: ReadUnit) -> str:
    return json.dumps(_raw(unit), separators=(",", ":"))


def _raw(unit: ReadUnit) -> dict[str, Any]:
    table = unit.shard.table
    plain = dataclasses.replace(unit, shard=dataclasses.replace(unit.shard, table=None), chosen=(), whole=())
    raw = dataclasses.asdict(plain)
    raw["shard"]["table"] = table.to_json() if table else None
    chosen = [
        {"unit": _raw(part.unit), "rows": part.rows.tolist(), "by_position": part.by_position} for part in unit.chosen
    ]
    # A pack has some hundred shards, none of which is of a table.
    whole = [[getattr(shard, name) for name in _OF_A_SHARD] for shard in unit.whole]
    return raw | {"chosen": chosen, "whole": whole}


def unit_from_json(text: str) -> ReadUnit:
    return _unit(json.loads(text))


def _shard(raw: dict[str, Any]) -> Shard:
    table = TableFile.from_json(raw["table"]) if raw["table"] else None
    return Shard(
        **{**raw, "partition": tuple(map(tuple, raw["partition"])), "above": tuple(raw["above"]), "table": table}
    )


def _unit(raw: dict[str, Any]) -> ReadUnit:
    return ReadUnit(
        shard=_shard(raw["shard"]),
        row_groups=tuple(raw["row_groups"]),
        first_row=raw["first_row"],
        splits=tuple(Split(**split) for split in raw["splits"]),
        stream=Stream(**{**raw["stream"], "done": tuple(raw["stream"]["done"])}) if raw["stream"] else None,
        chosen=tuple(
            Chosen(_unit(part["unit"]), np.array(part["rows"], np.int64), part["by_position"]) for part in raw["chosen"]
        ),
        whole=tuple(_shard(dict(zip(_OF_A_SHARD, values, strict=True)) | {"table": None}) for values in raw["whole"]),
    )


def binary_column(buffer: pa.Buffer) -> pa.Array:
    """One value of any length, without a copy."""
    offsets = pa.py_buffer(np.array([0, buffer.size], dtype=np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, buffer])


def ipc_buffer(column: pa.ChunkedArray) -> pa.Buffer:
    """The bytes of a one-row column, without a copy."""
    return column[0].as_buffer()


def to_ipc(table: pa.Table) -> pa.Buffer:
    """A table as an Arrow IPC stream; `from_ipc` reads it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def from_ipc(column: pa.ChunkedArray) -> pa.Table:
    return pa.ipc.open_stream(ipc_buffer(column)).read_all()

"""The specification of the format, README.md beside the code, against the code and against tables of the first release.

Its reader is run as it stands there. Its hashes are computed anew here, as it words them, without the package.
"""

import dataclasses
import hashlib
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

import sfr_batch
from sfr_batch.format import fingerprint, hashes, names
from sfr_batch.format.accepted import AcceptedInputs
from sfr_batch.format.dead_rows import DeadPart
from sfr_batch.format.records import (
    ChangeCounts,
    Counts,
    Expired,
    IndexPart,
    Manifest,
    Receipt,
    ShardRecord,
    SideFile,
    TableCard,
)
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.lease import Holder, LeaseRecord
from sfr_batch.table.pointer import PointerRecord
from tests.tables import make_table

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "sfr_batch" / "format" / "README.md").read_text(encoding="utf-8")
TABLES = ROOT / "tests" / "fixtures" / "table_format_1"
RECORDS = (
    AcceptedInputs,
    ChangeCounts,
    Counts,
    Expired,
    Manifest,
    SideFile,
    TableCard,
    LeaseRecord,
    Holder,
    PointerRecord,
)
SCHEMAS = (names.REJECTS_SCHEMA, names.DELETES_SCHEMA, names.CONDEMNED_SCHEMA, names.INDEX_SCHEMA)


def missing(text: str) -> set[str]:
    """Fields, columns, reserved names and reject reasons that a specification does not name."""
    keys = {names.RECEIPT_KEY, names.FINGERPRINT_KEY, names.PIECES_KEY, names.SOURCES_KEY}
    wanted = {*names.RESERVED_COLUMNS, *keys, *names.REASONS}
    wanted |= {name for schema in SCHEMAS for name in schema.names}
    wanted |= {field.name for kind in (Receipt, ShardRecord, IndexPart, DeadPart) for field in dataclasses.fields(kind)}
    models: tuple[type[BaseModel], ...] = RECORDS
    wanted |= {name for model in models for name in model.model_fields}
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    code = re.findall(r"`([^`\n{]+)`|\"(\w+)\":", prose)
    return wanted - {name for found in code for name in found}


def test_every_name_is_specified() -> None:
    assert missing(TEXT) == set()


def test_a_name_that_is_left_out_is_found() -> None:
    assert missing(TEXT.replace("`padded_tokens`", "").replace('"name"', "")) == {"padded_tokens", "name"}


@pytest.fixture(scope="module")
def live_rows() -> Callable[[str], pa.Table]:
    """The reader of the specification."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = {}
    exec(block, found)
    reader: Callable[[str], pa.Table] = found["live_rows"]
    return reader


def test_the_reader_leaves_out_dead_rows_and_refuses_what_is_newer(
    live_rows: Callable[[str], pa.Table], tmp_path: Path
) -> None:
    table = make_table(open_store(str(tmp_path)), {"a": ["1", "2"], "b": ["2", "3"], "c": []})
    rows = live_rows(str(tmp_path))
    assert rows.column("id").to_pylist() == ["1", "2", "3"]
    assert rows.equals(table.to_arrow())
    newest = tmp_path / names.manifest_key(1)
    newest.write_text(newest.read_text(encoding="utf-8").replace('"format_version": 5', '"format_version": 6'))
    with pytest.raises(ValueError, match="needs a newer reader"):
        live_rows(str(tmp_path))


@pytest.mark.parametrize("case", ["nights", "chunks"])
def test_the_reader_reads_what_the_first_release_wrote(live_rows: Callable[[str], pa.Table], case: str) -> None:
    table = sfr_batch.open_table(str(TABLES / case / "table"))
    rows = live_rows(table.store.root)
    assert rows.num_rows == table.num_rows > 0
    assert rows.equals(table.to_arrow())


# --- hashes, in the words of the specification


def blake2b(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def test_hashes_are_as_specified() -> None:
    values = {"b": [1, "ä", None, True, 0.5], "a": {"é": "\n"}}
    assert fingerprint.digest(values) == hashlib.sha256(canonical(values)).hexdigest()
    assert fingerprint.short_id("x", 1, values) == blake2b(canonical(["x", 1, values])).hex()
    assert hashes.hash_ids(["ä", "7"]).to_pylist() == [blake2b("ä".encode()), blake2b(b"7")]
    assert hashes.hash_ids([7]).to_pylist() == [blake2b(b"7")]
    content = hashes.hash_texts(["one"])
    assert content.to_pylist() == [blake2b(b"one")]
    carry = pa.table({"a": ["it's"], "b": [None], "c": [2]})
    assert hashes.hash_rows(content, carry, 1).to_pylist() == [blake2b(blake2b(b"one") + rb"""("it's", None, 2)""")]
    assert hashes.hash_rows(content, pa.table({}), 2).equals(content)
    at = pa.array([-1], pa.timestamp("ms", "UTC"))
    carry = pa.table({"a": ["ä"], "b": pa.array([{"n": 2, "l": [None, 0.5]}]), "c": at})
    length = lambda size: size.to_bytes(8, "little")  # noqa: E731
    text = b"\x06" + length(2) + "ä".encode()
    floats = b"\x0d" + length(2) + b"\x00" + b"\x04" + struct.pack("<d", 0.5)
    fields = length(1) + b"l" + floats + length(1) + b"n" + b"\x02" + struct.pack("<q", 2)
    instant = b"\x0a" + struct.pack("<qI", -1, 999_000_000)
    row = blake2b(b"one") + text + b"\x0f" + length(2) + fields + instant
    assert hashes.hash_rows(content, carry, 2).to_pylist() == [blake2b(row)]


@pytest.mark.parametrize("case", ["nights", "chunks"])
def test_tables_of_the_first_release_have_these_hashes(case: str) -> None:
    """Of the card, of every row of every data file, and of every document that an index names."""
    root = TABLES / case / "table"
    card = json.loads((root / names.TABLE_JSON).read_bytes())
    assert card["fingerprint"] == hashlib.sha256(canonical(card["fingerprint_inputs"])).hexdigest()
    carried = [name for name in card["columns"] if name not in names.RESERVED_COLUMNS]
    files = {path.stem: pq.ParquetFile(path).read().to_pylist() for path in (root / names.DATA).iterdir()}
    for row in (row for rows in files.values() for row in rows if carried):
        assert row["row_hash"] == blake2b(row["content_hash"] + repr(tuple(row[name] for name in carried)).encode())
    documents = 0
    for path in (root / names.INDEX).iterdir():
        for entry in pq.ParquetFile(path).read().to_pylist():
            if entry["split_id"] in files:
                rows = files[entry["split_id"]][entry["row"] :][: entry["vectors"]]
                assert {blake2b(str(row["id"]).encode()) for row in rows} == {entry["id_hash"]}
                assert {row.get("row_hash", row["content_hash"]) for row in rows} == {entry["row_hash"]}
                assert [row.get("chunk", 0) for row in rows] == list(range(entry["vectors"]))
                documents += 1
    assert documents > 0

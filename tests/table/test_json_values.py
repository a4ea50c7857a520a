"""JSON of every type that a table can carry: valid, exact, and the same whether an array is whole or a slice."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sfr_batch.storage.stores import open_store
from sfr_batch.table.changes import as_json, changes
from sfr_batch.table.json_values import json_values, python_value
from sfr_batch.table.search import top_k
from tests.memory_store import MemoryStore
from tests.table.kinds import FAR, FAR_DATE, UUID, kinds
from tests.tables import table_of, vector


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([Decimal("0.000000001"), Decimal("1.50")]), ["0.000000001", "1.500000000"]),
        (pa.array([1.5, float("nan"), float("inf"), float("-inf")]), [1.5, "NaN", "Infinity", "-Infinity"]),
        (pa.array([1.5, float("nan")], pa.float16()), [1.5, "NaN"]),
        (pa.array([2**64 - 1], pa.uint64()), [2**64 - 1]),
        (pa.array([0, 2**31 - 1, -(2**31)], pa.date32()), ["1970-01-01", "5881580-07-11", "-5877641-06-23"]),
        (pa.array([86_400_000], pa.date64()), ["1970-01-02"]),
        (pa.array([0, 1], pa.timestamp("ns")), ["1970-01-01T00:00:00", "1970-01-01T00:00:00.000000001"]),
        (
            pa.array([0, 1500], pa.timestamp("ms", "Asia/Tokyo")),
            [
                "1970-01-01T00:00:00+00:00",
                "1970-01-01T00:00:01.5+00:00",
            ],
        ),
        (pa.array([0, 1], pa.time64("ns")), ["00:00:00", "00:00:00.000000001"]),
        (pa.array([-1500, 2000, 2**62], pa.duration("ms")), ["-PT1.5S", "PT2S", "PT4611686018427387.904S"]),
        (pa.array([b"\x00\xff"]), ["AP8="]),
        (pa.array([[("b", 1), ("b", 2)], []], pa.map_(pa.string(), pa.int8())), [[["b", 1], ["b", 2]], []]),
        (pa.array([(1, 2)], pa.struct([("a", pa.int8()), ("a", pa.int8())])), [[["a", 1], ["a", 2]]]),
        (
            pa.array(
                [[{"d": 2**30, "p": Decimal("0.10")}]],
                pa.list_(pa.struct([("d", pa.date32()), ("p", pa.decimal128(3, 2))])),
            ),
            [[{"d": "2941775-04-07", "p": "0.10"}]],
        ),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_values(values: pa.Array, expected: list[Any]) -> None:
    found = json_values(values)
    assert found == expected
    assert json.loads(json.dumps(found, allow_nan=False)) == expected


@pytest.mark.parametrize("name", kinds())
def test_slices_and_nulls(name: str) -> None:
    values = kinds()[name]
    whole = json_values(values)
    assert whole[2] is None
    assert json_values(values[1:]) == whole[1:]
    assert json_values(pa.chunked_array([values[2:], values[:2]])) == [None, *whole[:2]]
    nested = pa.ListArray.from_arrays(pa.array([0, 1, 3], pa.int32()), values)
    assert json_values(nested[1:]) == [whole[1:]]


def test_every_line_of_the_feed_is_json(tmp_path: Path) -> None:
    table = table_of(open_store(str(tmp_path)), kinds())
    (batch,) = changes(table, 0, 1).upserts()
    rows = [json.loads(json.dumps(row, allow_nan=False)) for row in as_json(batch, "upsert")]
    assert [row["id"] for row in rows] == ["r0", "r1", "r2"]
    assert rows[0]["content_hash"] == bytes(16).hex()
    assert rows[0]["decimal"] == "1.50"
    assert rows[1]["date"] == "18213-09-20"
    assert rows[0]["uuid"] == "00112233-4455-6677-8899-aabbccddeeff"
    assert all(rows[2][name] is None for name in kinds())


def test_hits_have_values_that_python_has_not() -> None:
    table = table_of(MemoryStore(), kinds())
    columns = list(kinds())
    hit = next(
        h
        for h in top_k(table.batches(["id", "embedding", *columns]), np.array([vector("r1")]), 3, columns)[0]
        if h.id == "r1"
    )
    assert hit.row["date"] == "18213-09-20"
    assert hit.row["time_ns"] == "23:59:59.999999999"
    assert hit.row["decimal"] == Decimal("-0.01"), "what Python has, it gets"
    found = json.loads(json.dumps(hit.as_json(), allow_nan=False))
    assert (found["id"], found["decimal"], found["date"]) == ("r1", "-0.01", "18213-09-20")
    assert list(found) == ["score", "id", *columns]


def test_python_value_of_far_times() -> None:
    assert python_value(pa.array([FAR], pa.timestamp("s"))) == "18213-09-20T00:00:00"
    assert python_value(pa.array([[FAR_DATE]], pa.list_(pa.date32()))) == ["18213-09-20"]


def test_pandas_has_every_value() -> None:
    """Where Python has none, as text; integers beside nulls are not rounded; and what was well before stays."""
    columns = {**kinds(), "small": pa.array([1, 2, None]), "large": pa.array([2**53 + 1, 0, None])}
    table = table_of(MemoryStore(), columns)
    frame = table.to_pandas()
    assert list(frame.columns) == table.schema.names
    assert frame["large"].tolist() == [2**53 + 1, 0, None]
    assert frame["small"].dtype == "float64"
    assert frame["list"][0].tolist()[0] == 1.0
    assert frame["fixed_list"][0].tolist() == [2**53 + 1, 2]
    assert str(frame["date"][1]) == "18213-09-20 00:00:00"
    assert frame["time_ns"].tolist() == ["00:00:00.000000001", "23:59:59.999999999", None]
    assert frame["struct"][0] == {"n": 1, "at": "18213-09-20", "of": [{"x": "0.10"}]}
    assert frame["uuid"][0] == UUID
    assert np.stack(frame["embedding"]).shape == (3, 3)
    assert frame["embedding"][0].dtype == np.float32
    ordinary = [name for name in columns if name in ("bool", "int32", "float", "words", "decimal", "at_us", "category")]
    assert table.to_arrow(ordinary).to_pandas().equals(table.to_pandas(ordinary))

"""A few values of every Arrow type that a table can carry: the third row is null everywhere."""

import datetime
import uuid
from decimal import Decimal
from typing import Any

import pyarrow as pa

UUID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
FAR_DATE = (datetime.date(9999, 12, 31) - datetime.date(1970, 1, 1)).days + 3_000_000
"""In the year 18213."""
FAR = 86_400 * FAR_DATE


def kinds() -> dict[str, pa.Array]:
    simple: dict[str, tuple[list[Any], pa.DataType]] = {
        "bool": ([True, False], pa.bool_()),
        **{f"int{bits}": ([2 ** (bits - 1) - 1, -(2 ** (bits - 1))], getattr(pa, f"int{bits}")()) for bits in _BITS},
        **{f"uint{bits}": ([2**bits - 1, 0], getattr(pa, f"uint{bits}")()) for bits in _BITS},
        "half": ([1.5, -0.25], pa.float16()),
        "float": ([1.5, 0.1], pa.float32()),
        "double": ([0.1, -1e300], pa.float64()),
        "words": (["é", ""], pa.string()),
        "large_text": (["日本", "x"], pa.large_string()),
        "bytes": ([b"\x00\xff", b""], pa.binary()),
        "large_bytes": ([b"\x00\xff", b""], pa.large_binary()),
        "fixed_bytes": ([b"ab", b"\x00\x01"], pa.binary(2)),
        "date": ([0, FAR_DATE], pa.date32()),
        "date64": ([0, 86_400_000 * FAR_DATE], pa.date64()),
        **{f"at_{unit}": ([FAR * by, 1], pa.timestamp(unit)) for unit, by in [("s", 1), ("ms", 1000), ("us", 10**6)]},
        "at_ns": ([10**18, -1000], pa.timestamp("ns")),
        "at_utc": ([FAR * 10**6 + 1, -1], pa.timestamp("us", "UTC")),
        "at_berlin": ([10**12, -1], pa.timestamp("ms", "Europe/Berlin")),
        "time_s": ([1, 86_399], pa.time32("s")),
        "time_ms": ([1, 86_399_999], pa.time32("ms")),
        "time_us": ([1, 86_399_999_999], pa.time64("us")),
        "time_ns": ([1, 86_399_999_999_999], pa.time64("ns")),
        "took": ([1500, -1], pa.duration("ms")),
        "decimal": ([Decimal("1.50"), Decimal("-0.01")], pa.decimal128(9, 2)),
        "decimal38": ([Decimal("9" * 36 + ".50"), Decimal(0)], pa.decimal128(38, 2)),
        "decimal32": ([Decimal("1.50"), Decimal(0)], pa.decimal32(5, 2)),
        "decimal50": ([Decimal("1.50"), Decimal(0)], pa.decimal256(50, 2)),
        "list": ([[1, None], []], pa.list_(pa.int64())),
        "large_list": ([["a"], []], pa.large_list(pa.string())),
        "fixed_list": ([[2**53 + 1, 2], [3, None]], pa.list_(pa.int64(), 2)),
        "times": ([[1000, None], []], pa.list_(pa.timestamp("ns"))),
        "struct": (
            [{"n": 1, "at": FAR_DATE, "of": [{"x": Decimal("0.10")}]}, {"n": None, "at": None, "of": None}],
            pa.struct(
                [("n", pa.uint64()), ("at", pa.date32()), ("of", pa.list_(pa.struct([("x", pa.decimal128(5, 2))])))]
            ),
        ),
        "map": ([[("a", 1), ("b", None)], []], pa.map_(pa.string(), pa.int64())),
    }
    made = {name: pa.array([*values, None], kind) for name, (values, kind) in simple.items()}
    made["category"] = pa.array(["red", "blue", None]).dictionary_encode()
    made["uuid"] = pa.array([UUID.bytes, bytes(16), None], pa.uuid())
    made["json"] = pa.array(['{"a": 1}', "[]", None], pa.json_())
    return made


_BITS = (8, 16, 32, 64)

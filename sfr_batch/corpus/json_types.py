"""The Arrow types of JSON objects, inferred from the first ones of a file. Knows no files and no other format."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.types as kinds

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.column_types import is_list, unify
from sfr_batch.corpus.text_template import TextTemplate
from sfr_batch.errors import CorpusError


def infer_schema(rows: Sequence[dict[str, Any]], settings: CorpusSettings, uri: str) -> pa.Schema:
    """The columns of the rows, with types for those that the settings name; all others count as strings.

    Raises CorpusError if the id or a carried column has values of several types.
    """
    typed = [path for path in (settings.id, *settings.carried.values()) if path]
    needed = [*typed, *TextTemplate(settings.text).columns]
    fields = []
    for key in filter(_fits, dict.fromkeys(key for row in rows for key in row)):
        kind = pa.string()  # of no other column the type matters
        if _leads_to(key, needed):
            try:
                kind = _infer_type([row.get(key) for row in rows])
            except pa.ArrowException as error:
                if _leads_to(key, typed):
                    raise CorpusError(
                        f"{uri}: the values of {key!r} have several types ({error}). Use one type, for ids strings or "
                        "integers, or set corpus.id and corpus.carry to other columns."
                    ) from error
                # Of texts, what does not fit is a reject when it is read.
        fields.append(pa.field(key, kind))
    return pa.schema(fields)


def _leads_to(key: str, paths: Sequence[str]) -> bool:
    """Whether one of the paths is the key or, as it may be, begins with it."""
    return any(path == key or path.startswith(f"{key}.") for path in paths)


def _infer_type(values: list[Any]) -> pa.DataType:
    """The type of the values together, but for those that Arrow cannot hold: they are rejects when they are read.

    Raises ArrowException if they have several types.
    """
    try:
        return pa.array(values).type
    except (UnicodeEncodeError, OverflowError):
        if all(value is None or (type(value) is int and 0 <= value < 2**64) for value in values):
            return pa.uint64()  # such as hashes: int64 would reject half of them
        values = [value for value in values if _fits(value)]
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        # Arrow finds no type for fractions and whole numbers beyond 2^53; those that do not fit are rejects later.
        kind = _merged(values)
        if kind is None:
            raise error from None
        return kind
    return _infer_type(values)


def _merged(values: Iterable[Any]) -> pa.DataType | None:
    """The type of the values, found one by one; None if they have several."""
    kind: pa.DataType | None = pa.null()
    for one in dict.fromkeys(map(_type_of, values)):
        kind = None if kind is None or one is None else unify(kind, one)
    return kind


def _type_of(value: Any) -> pa.DataType | None:
    if isinstance(value, list):
        element = _merged(value)
        return None if element is None else pa.list_(element)
    if isinstance(value, dict):
        fields = {key: _type_of(part) for key, part in value.items() if _fits(key)}
        return None if None in fields.values() else pa.struct(list(fields.items()))
    if isinstance(value, float) and math.isnan(value):
        return pa.null()  # how a value that is missing is written, of whatever type
    return pa.scalar(value).type if _fits(value) else pa.null()


def spells(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whether values that a sample shows as ``found`` may be values of a column of the type ``expected``.

    JSON has no decimals, dates, times, bytes and maps: it spells them as numbers, texts and objects. Which values are
    those of the column is decided row by row, see `json_values`.
    """
    if unify(found, expected) is not None:
        return True
    if kinds.is_floating(found):
        return bool(kinds.is_decimal(expected))
    if kinds.is_string(found):
        timed = kinds.is_date(expected) or kinds.is_time(expected) or kinds.is_timestamp(expected)
        return bool(timed or kinds.is_binary(expected) or kinds.is_fixed_size_binary(expected))
    if kinds.is_struct(found) and kinds.is_map(expected):
        return all(spells(field.type, expected.item_type) for field in found.fields)
    if kinds.is_struct(found) and kinds.is_struct(expected):
        there = {field.name: field.type for field in expected.fields}
        return all(spells(field.type, there.get(field.name, pa.null())) for field in found.fields)
    return is_list(found) and is_list(expected) and spells(found.value_type, expected.value_type)


def _fits(value: Any) -> bool:
    try:
        pa.scalar(value)
    except (UnicodeEncodeError, OverflowError):
        return False
    return True

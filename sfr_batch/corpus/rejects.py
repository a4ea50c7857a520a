"""Decides which rows of the corpus cannot be embedded, and for which reason.

`format.names` lists all reasons. Each is decided in one place:

    null_id, bad_id, null_text, ...       here, from a row's id, text and carried columns
    bad_column                            also `casting` and `json_values`, for values that the table's type lacks
    bad_json, bad_csv, bad_text           `records`, for a line or a CSV record that is not a row
    too_long                              `pipeline.read_stage`, after the text is tokenized
    bad_vector, encoder_failed            `pipeline.write_stage`, after the model
    duplicate_id                          `table.commit.reject_limits`, when a snapshot is published

Knows single values; knows no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from sfr_batch.corpus.json_values import is_missing
from sfr_batch.format import names
from sfr_batch.format.nested import counts_and_items, fields_of, plain


class Problem(NamedTuple):
    """Why a row cannot be embedded."""

    reason: str
    message: str


@dataclass
class Reject:
    """A row that cannot be embedded."""

    id: Any
    position: int
    reason: str
    message: str
    shard: str = ""
    """URI of its shard; "" for the shard that most rejects of its file are from."""


class Undecodable(str):
    """The reason why a value cannot be decoded, in place of the value; its row is rejected later."""

    __slots__ = ()


_ALL_DIGITS = Context(prec=76)
_TEXT_OF = {pa.binary(): pa.string(), pa.large_binary(): pa.large_string(), pa.binary_view(): pa.string_view()}


def as_text(column: pa.Array) -> pa.Array:
    """Bytes of any length as texts, unchecked: Impala, ClickHouse and old versions of Spark write texts so."""
    if pa.types.is_dictionary(column.type) and column.type.value_type in _TEXT_OF:
        column = column.dictionary_decode()
    kind = _TEXT_OF.get(column.type)
    return column if kind is None else column.view(kind)


def cell_values(column: pa.Array) -> list[Any]:
    """The column as Python values; a text that is not UTF-8 becomes `Undecodable`."""
    try:
        values: list[Any] = column.to_pylist()
        return values
    except UnicodeDecodeError:
        return [cell_value(scalar) for scalar in column]


def cell_value(scalar: pa.Scalar) -> Any:
    """One value as Python value; a text that is not UTF-8 becomes `Undecodable`."""
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return Undecodable(f"bytes that are not UTF-8: {error}")


def text_values(column: pa.Array) -> list[Any]:
    """As `cell_values`, for a part of a text: 0.1 as a narrow float is 0.1 again, not 0.10000000149011612, 2005.00 as
    a decimal is 2005, and bytes are UTF-8."""
    if pa.types.is_decimal(column.type):
        return [value if value is None else f"{value.normalize(_ALL_DIGITS):f}" for value in column.to_pylist()]
    column = as_text(column)
    narrow = {pa.float16(): np.float16, pa.float32(): np.float32}.get(column.type)
    values = cell_values(column)
    return values if narrow is None else [value if value is None else float(str(narrow(value))) for value in values]


def id_or_text_problem(id_: Any, text: str | None, wanted_id: type) -> Problem | None:
    """Why the row with this id and text cannot be embedded; None if it can. wanted_id: int or str."""
    if is_missing(id_):
        return Problem(names.NULL_ID, "the id is null")
    if id_ == "":  # how a CSV spells null
        return Problem(names.NULL_ID, "the id is empty")
    if isinstance(id_, Undecodable):
        return Problem(names.BAD_ID, f"the id is {id_}")
    if isinstance(id_, bool) or not isinstance(id_, wanted_id):
        kinds = f"the id is of type {type(id_).__name__}, the table's ids are {wanted_id.__name__}"
        return Problem(names.BAD_ID, kinds)
    if isinstance(id_, int) and not -(2**63) <= id_ < 2**63:
        return Problem(names.BAD_ID, "the id does not fit into 64 bits")
    if surrogate := _surrogate(id_):
        return Problem(names.BAD_ID, f"the id is {surrogate}")
    if text is None:
        return Problem(names.NULL_TEXT, "the text is null")
    if isinstance(text, Undecodable):
        return Problem(names.BAD_TEXT, str(text))
    if not text.strip():
        return Problem(names.EMPTY_TEXT, "the text is empty or only white space")
    if surrogate := _surrogate(text):
        return Problem(names.BAD_TEXT, f"the text is {surrogate}")
    return None


def text_part_problem(name: str, value: Any, *, alone: bool) -> Problem | None:
    """Why a JSON value cannot be the text's column ``name``; None if it can.

    alone: whether the column is the whole text; a number may only be a part of one.
    """
    number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if is_missing(value) or isinstance(value, str) or (number and not alone):
        return None
    return Problem(names.BAD_TEXT, f"{name} is a JSON {json_type(value)}, not a string")


def undecodable_rows(name: str, column: pa.ChunkedArray) -> dict[int, Problem]:
    """The rows whose carried column ``name`` holds bytes that are not UTF-8.

    Parquet readers do not look, but the table's readers would fail on them.
    """
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        bad = Problem(names.BAD_COLUMN, f"{name} holds bytes that are not UTF-8")
        whole = column.combine_chunks()
        return {row: bad for row in range(len(whole)) if _has_bad_text(whole.slice(row, 1))}
    return {}


def _has_bad_text(array: pa.Array) -> bool:
    """Whether a text in the array is not UTF-8. Python's values are not asked for: they do not hold all dates."""
    array = plain(array)
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _has_bad_text(array.storage)
    if pa.types.is_struct(kind):
        return any(_has_bad_text(part) for _, part in fields_of(array))
    if pa.types.is_nested(kind):
        return _has_bad_text(counts_and_items(array)[1])
    if not pa.types.is_string(kind):
        return False
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return True
    return False


def json_type(value: Any) -> str:
    """JSON's name for the type of a value."""
    if value is None:
        return "null"
    kinds = {
        bool: "boolean",
        int: "number",
        float: "number",
        Decimal: "number",
        str: "string",
        list: "array",
        dict: "object",
    }
    return kinds[type(value)]


def _surrogate(value: object) -> str | None:
    """Why a string is not valid Unicode, as JSON can spell it and a CSV can hold it; None if it is valid."""
    try:
        str(value).encode()
    except UnicodeEncodeError as error:
        return f"not valid Unicode at character {error.start}: a lone surrogate, or bytes that are not UTF-8"
    return None


def rejects_table(rejects: Sequence[Reject], shard: str) -> pa.Table:
    """The columns of `names.REJECTS_SCHEMA`. shard: the URI for rejects without one of their own."""
    ids = [
        None if r.id is None or isinstance(r.id, Undecodable) else str(r.id).encode("utf-8", "replace").decode()
        for r in rejects
    ]
    return pa.table(
        {
            names.ID: ids,
            names.SHARD: [r.shard or shard for r in rejects],
            names.POSITION: [r.position for r in rejects],
            names.REASON: [r.reason for r in rejects],
            names.MESSAGE: [r.message for r in rejects],
        },
        schema=names.REJECTS_SCHEMA,
    )

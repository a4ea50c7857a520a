"""Rows of the corpus that cannot be embedded, and the reason of each. Decides which values are rejected when read.

Knows single values. It knows no files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sfr_batch.format import names


@dataclass
class Reject:
    """A row that cannot be embedded."""

    id: Any
    position: int
    reason: str
    message: str
    shard: str = ""
    """Where it is from, if not where all of its file are."""


class Undecodable(str):
    """Stands for a value whose bytes are not UTF-8; rejected later, with its row."""

    __slots__ = ()


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


def text_problem(id_: Any, text: str | None, wanted_id: type) -> tuple[str, str] | None:
    """Reason and message of a reject, or None if the row can be embedded."""
    if id_ is None:
        return names.NULL_ID, "the id is null"
    if id_ == "":  # how a CSV spells null
        return names.NULL_ID, "the id is empty"
    if isinstance(id_, Undecodable):
        return names.BAD_ID, f"the id is {id_}"
    if isinstance(id_, bool) or not isinstance(id_, wanted_id):
        return names.BAD_ID, f"the id is of type {type(id_).__name__}, the table's ids are {wanted_id.__name__}"
    if isinstance(id_, int) and not -(2**63) <= id_ < 2**63:
        return names.BAD_ID, "the id does not fit into 64 bits"
    if surrogate := _surrogate(id_):
        return names.BAD_ID, f"the id is {surrogate}"
    if text is None:
        return names.NULL_TEXT, "the text is null"
    if isinstance(text, Undecodable):
        return names.BAD_TEXT, str(text)
    if not text.strip():
        return names.EMPTY_TEXT, "the text is empty or only white space"
    if surrogate := _surrogate(text):
        return names.BAD_TEXT, f"the text is {surrogate}"
    return None


def _surrogate(value: object) -> str | None:
    """What is wrong with a string that JSON can spell and UTF-8 cannot, or that a CSV holds in no valid UTF-8."""
    try:
        str(value).encode()
    except UnicodeEncodeError as error:
        return f"not valid Unicode at character {error.start}: a lone surrogate, or bytes that are not UTF-8"
    return None


def rejects_table(rejects: Sequence[Reject], shard: str) -> pa.Table:
    """Rejects as the columns of `schema.REJECTS_SCHEMA`. shard: of those that do not say theirs."""
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

"""The Arrow types of JSON objects, inferred from the first ones of a file. Knows no files and no other format."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.text_template import TextTemplate
from sfr_batch.errors import CorpusError


def infer_schema(rows: Sequence[dict[str, Any]], settings: CorpusSettings, uri: str) -> pa.Schema:
    """The columns of the rows, with types for those that the settings name; all others count as strings.

    Raises CorpusError if the id or a carried column has values of several types.
    """
    typed = [path for path in (settings.id, *settings.carried.values()) if path]
    needed = {part for path in (*typed, *TextTemplate(settings.text).columns) for part in (path, path.split(".")[0])}
    typed = [part for path in typed for part in (path, path.split(".")[0])]
    fields = []
    for key in filter(_fits, dict.fromkeys(key for row in rows for key in row)):
        kind = pa.string()  # of no other column the type matters
        if key in needed:
            try:
                kind = _infer_type([row.get(key) for row in rows])
            except pa.ArrowException as error:
                if key in typed:
                    raise CorpusError(
                        f"{uri}: the values of {key!r} have several types ({error}). Use one type, for ids strings or "
                        "integers, or set corpus.id and corpus.carry to other columns."
                    ) from error
                # Of texts, what does not fit is a reject when it is read.
        fields.append(pa.field(key, kind))
    return pa.schema(fields)


def _infer_type(values: list[Any]) -> pa.DataType:
    """The type of the values together, but for those that Arrow cannot hold: they are rejects when they are read."""
    try:
        return pa.array(values).type
    except (UnicodeEncodeError, OverflowError):
        return pa.array([value for value in values if _fits(value)]).type


def _fits(value: Any) -> bool:
    try:
        pa.scalar(value)
    except (UnicodeEncodeError, OverflowError):
        return False
    return True

"""The queries of a search as they are given: texts, or vectors. Knows no model."""

from typing import Any, TypeGuard

import numpy as np

from sfr_batch.errors import ConfigError
from sfr_batch.table.nearest import FloatArray

_ROUNDING = 1e-6
"""Of the length of a unit vector in float32."""


def is_vectors(queries: object) -> TypeGuard[FloatArray]:
    """Whether the queries are an array of numbers rather than texts."""
    return isinstance(queries, np.ndarray) and queries.dtype.kind in "fiu"


def one_text(query: Any) -> str:
    """The query. Raises ConfigError if it is no text."""
    if not isinstance(query, str):
        raise ConfigError(
            f"The query is of the type {type(query).__name__}. Give one text; for several, use search_many."
        )
    return query


def check_texts(queries: Any) -> list[str]:
    """The texts of queries. Raises ConfigError, which names the one that is wrong."""
    if isinstance(queries, str):
        raise ConfigError(f"queries must be a list: [{queries!r}] instead of {queries!r}.")
    found = []
    given = list(queries)
    for number, query in enumerate(given):
        which = f"Query {number}" if len(given) > 1 else "The query"
        if not isinstance(query, str):
            raise ConfigError(f"{which} is of the type {type(query).__name__}. Give a text, or all queries as vectors.")
        if not query.strip():
            raise ConfigError(f"{which} is empty. Give a text to search for.")
        try:
            query.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"{which} is not valid Unicode at character {error.start}; type it again.") from None
        found.append(query)
    return found


def unit_vectors(queries: Any, dim: int) -> FloatArray:
    """The queries as float32 [q, dim] of unit length; those that have it, up to rounding, as they are.

    Raises ConfigError, which names the row that is wrong.
    """
    vectors = np.asarray(queries, np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ConfigError(
            f"The queries have the shape {vectors.shape}. This table needs [q, {dim}]: a row of {dim} numbers for each."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(wrong):
        raise ConfigError(f"Query {wrong[0]} has the length {lengths[wrong[0], 0]}: it is no direction to search in.")
    unit: FloatArray = np.where(np.abs(lengths - 1) < _ROUNDING, vectors, vectors / lengths).astype(np.float32)
    return unit

"""Tables of the keys that a JSON file of a model repository may have: what stands in no table is refused by name.

Knows no file by name and no meaning of a key beyond its row. A value of another JSON type than its key has, or that is
none of the supported ones, is refused as well.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sfr_batch.errors import ModelError


class Kind(NamedTuple):
    """What a value of a key is."""

    name: str
    """In words, for an error."""
    fits: Callable[[Any], bool]
    """Whether a parsed JSON value is of this kind."""


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


TEXT = Kind("a text", lambda value: isinstance(value, str))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
SIZE = Kind("a whole number of at least 1", lambda value: _is_whole(value) and value >= 1)
WHOLE = Kind("a whole number", _is_whole)
SHARE = Kind("a number from 0 to 1", lambda value: (_is_whole(value) or isinstance(value, float)) and 0 <= value <= 1)
OBJECT = Kind("a JSON object", lambda value: isinstance(value, dict))
TEXTS = Kind("a list of texts", lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value))
SIZES = Kind(
    "a list of whole numbers of at least 1",
    lambda value: isinstance(value, list) and all(_is_whole(v) and v >= 1 for v in value),
)
NOTHING = Kind("null", lambda value: value is None)
ANYTHING = Kind("a JSON value", lambda value: True)


@dataclass(frozen=True)
class Key:
    """A key that a file may have."""

    kind: Kind
    does: str
    """What it does, or why it cannot change a vector."""
    null: bool = False
    """Whether it may be null, which is as if it were absent."""
    only: tuple[Any, ...] | None = None
    """The values that are supported, if not all of the kind are."""


Table = Mapping[str, Key]


def check_keys(file: Path, found: Mapping[str, Any], table: Table, inside: str = "") -> None:
    """Raises ModelError unless each key of ``found``, an object in ``file``, is in ``table`` with a supported value.

    inside: the keys that lead to the object, with a dot behind each.
    """
    for name, value in found.items():
        key = table.get(name)
        if key is None:
            raise ModelError(
                f"{file} sets {inside}{name} to {shown(value)}, a key that is not known and that may change the "
                "vectors. Use another model, or a copy of this one without the key if it has no effect on vectors."
            )
        if value is None and key.null:
            continue
        if not key.kind.fits(value):
            raise wrong_kind(file, f"{inside}{name}", value, key.kind)
        if key.only is not None and not any(value == one and type(value) is type(one) for one in key.only):
            supported = " or ".join(map(shown, (*key.only, *((None,) if key.null else ()))))
            raise ModelError(
                f"{file} sets {inside}{name} to {shown(value)}, which is not supported: {key.does}. Supported is "
                f"{supported}. Use another model."
            )


def wrong_kind(file: Path, name: str, value: Any, kind: Kind) -> ModelError:
    """The error for a value that is not what its key needs."""
    return ModelError(f"{file} sets {name} to {shown(value)}, which is not {kind.name}. Fetch the model again.")


def shown(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:79]}…"

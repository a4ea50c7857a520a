"""Values of JSON and CSV in the types of carried columns: the same value, or a reason why there is none.

`pa.scalar` and `pa.array` are not asked, for they change values without a word: 19.99 becomes 19 in a column of whole
numbers (apache/arrow#35584), true becomes 1.0, a number counts as microseconds, a text as a list of its letters, an
empty list as a struct of nulls. Python values in, Python values out that `pa.array` takes as they are; knows no files.
"""

import math
from collections.abc import Callable, Sequence
from decimal import Context, Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds

_FLOATS: dict[pa.DataType, type[np.floating[Any]]] = {pa.float16(): np.float16, pa.float32(): np.float32}
_INTEGERS_IN_A_DOUBLE = 2**53
"""Beyond it a fraction that was read as a double may have been another whole number."""
_CONTEXT = Context(prec=10_000)


class Unfit(ValueError):
    """The value has no place in a column of the type; the message says why, after `<column> `."""


def needs_exact_numbers(types: Sequence[pa.DataType]) -> bool:
    """Whether numbers must be read digit by digit to be values of these types, rather than as doubles."""
    return any(_has(kind, lambda part: kinds.is_integer(part) or kinds.is_decimal(part)) for kind in types)


def _has(kind: pa.DataType, wanted: Callable[[pa.DataType], bool]) -> bool:
    inside = [kind.field(number).type for number in range(kind.num_fields)]
    return wanted(kind) or any(_has(part, wanted) for part in inside)


def is_missing(value: Any) -> bool:
    """Whether the value stands for one that is not there: null, and NaN, which pandas writes for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def exact_value(value: Any, kind: pa.DataType) -> Any:
    """The value as `pa.array` takes it for this type without changing it. Raises `Unfit`.

    Times become whole numbers of their unit. NaN is null, except in a column of floats; so is {} as long as no object
    shows a key. Infinity is a Decimal: a float that is infinite was a number with too large an exponent.
    """
    if value is None or (is_missing(value) and not kinds.is_floating(kind)) or (value == {} and kinds.is_null(kind)):
        return None
    if isinstance(kind, pa.UuidType):
        return _uuid(value)
    if isinstance(kind, pa.BaseExtensionType):
        return exact_value(value, kind.storage_type)
    if kinds.is_dictionary(kind) or kinds.is_run_end_encoded(kind):
        return exact_value(value, kind.value_type)
    if kinds.is_nested(kind):
        return _nested(value, kind)
    if kinds.is_boolean(kind):
        if not isinstance(value, bool):
            raise _not(value, kind)
        return value
    if kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind):
        return _number(value, kind)
    if not isinstance(value, str):
        raise _not(value, kind)
    return _of_text(value, kind)


def _not(value: Any, kind: pa.DataType) -> Unfit:
    return Unfit(f"is not {kind}: {shown(value)}")


def shown(value: Any) -> str:
    """The value as JSON spells it, cut to some characters."""
    spelled = {True: "true", False: "false", None: "null"}
    text = spelled[value] if value is None or isinstance(value, bool) else _spelled(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _spelled(value: Any) -> str:
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, list):
        return f"the array [{', '.join(map(shown, value[:9]))}]"
    if isinstance(value, dict):
        return f"the object with {', '.join(map(repr, list(value)[:9])) or 'no keys'}"
    return str(value)


# --- numbers


def _number(value: Any, kind: pa.DataType) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise _not(value, kind)
    if kinds.is_integer(kind):
        return _whole(value, kind)
    return _fraction(value, kind) if kinds.is_floating(kind) else _decimal(value, kind)


def _whole(value: Any, kind: pa.DataType) -> int:
    """3.0 is 3. Raises `Unfit` for a fraction, and for what the type has no room for."""
    if isinstance(value, float) and not (value.is_integer() and abs(value) <= _INTEGERS_IN_A_DOUBLE):
        raise _not(value, kind)
    if isinstance(value, Decimal) and (not value.is_finite() or value.adjusted() > 40 or value != int(value)):
        raise _not(value, kind)
    number = int(value)
    unsigned = kinds.is_unsigned_integer(kind)
    bits = kind.bit_width if unsigned else kind.bit_width - 1
    if not (0 if unsigned else -(2**bits)) <= number < 2**bits:
        raise _not(value, kind)
    return number


def _fraction(value: Any, kind: pa.DataType) -> float:
    """The nearest double of a fraction, as JSON means it; of a whole number only the same."""
    try:
        number = float(value)
    except OverflowError:
        raise _not(value, kind) from None
    if isinstance(value, int) and int(number) != value:
        raise Unfit(f"is {kind}, which has no such whole number: {value}")
    if isinstance(value, Decimal) and value.is_finite() and math.isinf(number):
        raise _not(value, kind)
    if isinstance(value, float) and math.isinf(value):
        raise Unfit(f"is {kind}, which has no number so far from zero")
    narrow = _FLOATS.get(kind)
    if narrow is not None and math.isfinite(number):
        with np.errstate(over="ignore"):
            nearest = narrow(number)
        # 0.1 means the float that is printed so; a number with more digits than a float has is another one.
        if float(nearest) != number and (isinstance(value, int) or float(str(nearest)) != number):
            raise Unfit(f"is {kind}, which has no such number: {value}")
    return number


def _decimal(value: Any, kind: pa.DataType) -> Decimal:
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite():
        raise _not(value, kind)
    if number == 0:
        return Decimal(0)
    sign, digits, exponent = number.normalize(_CONTEXT).as_tuple()
    if -int(exponent) > kind.scale or len(digits) + int(exponent) + kind.scale > kind.precision:
        raise _not(value, kind)
    return Decimal((sign, digits, int(exponent)))


# --- texts


def _of_text(value: str, kind: pa.DataType) -> Any:
    """The value of a text in a column of texts, bytes, dates or times. Raises `Unfit`."""
    if kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Unfit(f"is not {kind}: it has a lone surrogate") from None
        return value
    try:
        if kinds.is_temporal(kind) and not kinds.is_interval(kind):
            if kinds.is_time(kind):  # of texts, Arrow makes points in time only
                value, kind = f"1970-01-01T{value}", pa.timestamp(kind.unit)
            return pa.scalar(value).cast(kind).value
        return pa.scalar(value, kind).as_py()
    except (pa.ArrowException, ValueError, TypeError, NotImplementedError):
        raise _not(value, kind) from None


def _uuid(value: Any) -> bytes:
    try:
        found = UUID(value)
    except (ValueError, AttributeError, TypeError):
        raise _not(value, pa.uuid()) from None
    return found.bytes


# --- arrays and objects


def _nested(value: Any, kind: pa.DataType) -> Any:
    if kinds.is_struct(kind):
        return _struct(value, kind)
    if kinds.is_map(kind):
        return [(_key(key, kind.key_type), exact_value(item, kind.item_type)) for key, item in _pairs(value, kind)]
    if not isinstance(value, list) or (kinds.is_fixed_size_list(kind) and len(value) != kind.list_size):
        raise _not(value, kind)
    return [exact_value(item, kind.value_type) for item in value]


def _struct(value: Any, kind: pa.DataType) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _not(value, kind)
    types = {field.name: field.type for field in kind.fields}
    for key in value:
        if key not in types:
            raise Unfit(f"has {key!r}, which {kind} has no place for")
    return {key: exact_value(item, types[key]) for key, item in value.items()}


def _pairs(value: Any, kind: pa.DataType) -> list[tuple[Any, Any]]:
    """Keys and values of a map: an object, or an array of pairs or of objects with `key` and `value`."""
    if isinstance(value, dict):
        return list(value.items())
    found = []
    for entry in value if isinstance(value, list) else [value]:
        if isinstance(entry, list) and len(entry) == 2:
            found.append((entry[0], entry[1]))
        elif isinstance(value, list) and isinstance(entry, dict) and entry.keys() == {"key", "value"}:
            found.append((entry["key"], entry["value"]))
        else:
            raise _not(value, kind)
    return found


def _key(value: Any, kind: pa.DataType) -> Any:
    """A key of a map. Those of an object are texts, also where they mean numbers."""
    if isinstance(value, str) and kinds.is_integer(kind) and value.removeprefix("-").isdecimal() and value.isascii():
        value = int(value) if str(int(value)) == value else value
    found = exact_value(value, kind)
    if found is None:
        raise Unfit("has a key that is null")
    return found

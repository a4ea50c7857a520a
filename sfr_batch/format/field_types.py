"""Whether a value of JSON is what a field of a plain record takes: anybody may have written it. Knows no record."""

import math
from typing import Any, get_origin


def is_a(value: object, kind: Any) -> bool:
    """kind: the type of a field, such as ``float | None`` or ``dict[str, str]``. An integer is a float, too; what is
    not finite is no number."""
    kind = dict if get_origin(kind) is dict else kind
    if isinstance(value, bool):
        return kind is bool
    if not isinstance(value, int | float):
        return isinstance(value, kind)
    try:
        return math.isfinite(value) and (isinstance(value, kind) or isinstance(float(value), kind))
    except OverflowError:  # an integer of hundreds of digits
        return False

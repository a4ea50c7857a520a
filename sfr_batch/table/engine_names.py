"""Names of columns and fields as engines take them: some know no case, some no dots. Pure functions on Arrow types."""

from collections.abc import Callable, Sequence

import pyarrow as pa

Fold = Callable[[str], str]
"""What an engine makes of a name before it compares it with another."""


def lower_ascii(name: str) -> str:
    """The name as DuckDB compares it: é and É differ, e and E do not."""
    return "".join(char.lower() if char.isascii() else char for char in name)


def twins(names: Sequence[str], name: str, fold: Fold) -> list[str]:
    """The other names that an engine takes for ``name``, in order."""
    return [other for other in names if other != name and fold(other) == fold(name)]


def twins_inside(kind: pa.DataType, fold: Fold) -> tuple[str, str] | None:
    """Two fields of a struct in the type, at whatever depth, that an engine takes for one; None if there are none."""
    fields = [kind.field(number) for number in range(kind.num_fields)]
    if pa.types.is_struct(kind):
        seen: dict[str, str] = {}
        for field in fields:
            if fold(field.name) in seen:
                return seen[fold(field.name)], field.name
            seen[fold(field.name)] = field.name
    return next(filter(None, (twins_inside(field.type, fold) for field in fields)), None)

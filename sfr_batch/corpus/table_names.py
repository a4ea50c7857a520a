"""What carried columns may be called in the table, and what to call those that may not.

Pure functions over names; knows no types and no files.
"""

import itertools
import json
import re
from collections.abc import Collection, Mapping

from sfr_batch.errors import ConfigError
from sfr_batch.format import names


def check_names(carried: Mapping[str, str], *, new: Collection[str]) -> None:
    """Raises ConfigError for names that the table's own columns have.

    new: those that the table does not have yet. Of these, names that differ from another by case alone are refused,
    too: DuckDB and Spark know no case, and would show one column as the other. Tables that have such names go on.
    """
    for name in carried:
        if name in names.RESERVED_COLUMNS:
            raise ConfigError(
                f"corpus.carry: {name!r} is a column name reserved for the table. Give the column another name in the "
                f"table, carry: {_renamed(carried, name)}."
            )
    seen = {name.casefold(): name for name in names.RESERVED_COLUMNS}
    for name in sorted(carried, key=lambda name: name in new):  # of two, the new one is named
        twin = seen.setdefault(name.casefold(), name)
        if twin != name and (name in new or twin in new):
            raise ConfigError(
                f"corpus.carry: the names {twin!r} and {name!r} differ only by case, so DuckDB and Spark would take "
                "one column of the table for the other. Give the column another name in the table, carry: "
                f"{_renamed(carried, name)}."
            )


def _renamed(carried: Mapping[str, str], name: str) -> str:
    """The setting, in YAML, with another name for one of the columns."""
    taken = {other.casefold() for other in (*carried, *names.RESERVED_COLUMNS)}
    others = (f"{name.replace('.', '_')}_{number}" for number in itertools.count(2))
    new = next(other for other in others if other.casefold() not in taken)
    parts = (f"{_plain(new if other == name else other)}: {_plain(path)}" for other, path in carried.items())
    return f"{{{', '.join(parts)}}}"


def _plain(name: str) -> str:
    """A name as YAML takes it inside braces."""
    return name if re.fullmatch(r"[A-Za-z_][\w.]*", name) and name.lower() not in _NOT_NAMES else json.dumps(name)


_NOT_NAMES = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
"""Words that YAML takes for values."""

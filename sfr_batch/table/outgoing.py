"""The columns of a table as they leave it for another engine: their names, their types, and their values in these.

All that can be refused for the types alone is refused when an `Outgoing` is made. Knows no files; what engines take
stands in `engine_types`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa

from sfr_batch.errors import ConfigError, TableError
from sfr_batch.format import names
from sfr_batch.table.choices import ANY, ARROW, CHOICES
from sfr_batch.table.engine_names import twins_inside
from sfr_batch.table.engine_types import (
    ENGINES,
    as_text,
    converted,
    engine_name,
    longest_decimal,
    may_lose,
    target_type,
)


class Outgoing:
    """Columns of a table for an engine.

    engine: one of `CHOICES`. rename: name in the table -> another name. as_text: columns that become texts (JSON, where
    they are no texts), whatever the engine has. root: of the table, for messages. Raises TableError for an unknown
    column, and ConfigError for an unknown engine, and for names that the engine takes for one.
    """

    def __init__(
        self,
        root: str,
        schema: pa.Schema,
        engine: str = ANY,
        rename: Mapping[str, str] | None = None,
        as_text: Iterable[str] = (),
    ) -> None:
        if engine not in CHOICES:
            raise ConfigError(f"There is no engine {engine!r}. Choose one of {', '.join(CHOICES)}.")
        self._root, self._before, self._name = root, schema, engine
        self._engine = ENGINES.get(engine)
        self._rename, self._as_text = dict(rename or {}), frozenset(as_text)
        for name in (*self._rename, *sorted(self._as_text)):
            if name not in schema.names:
                raise TableError(f"{root}: there is no column {name!r} to export. Columns: {', '.join(schema.names)}.")
        self.schema = pa.schema([self._field(field) for field in schema])
        self.names = dict(zip(schema.names, self.schema.names, strict=True))
        """Name in the table -> name for the engine."""
        self._check_names()

    def __reduce__(self) -> tuple[Any, ...]:
        # pyarrow's own pickle of a schema forgets nullability inside of lists.
        schema = self._before.serialize().to_pybytes()
        return _outgoing_from, (self._root, schema, self._name, self._rename, self._as_text)

    @property
    def renamed(self) -> dict[str, str]:
        """The names that change."""
        return {old: new for old, new in self.names.items() if old != new}

    @property
    def types(self) -> dict[str, tuple[str, str]]:
        """Name for the engine -> type in the table and type for the engine, where they differ."""
        pairs = zip(self._before, self.schema, strict=True)
        return {new.name: (str(old.type), str(new.type)) for old, new in pairs if old.type != new.type}

    def __str__(self) -> str:
        """What people should know, "" if nothing changes. Hashes are as they were, whatever their type is called."""
        own = (names.CONTENT_HASH, names.ROW_HASH)
        changed = [f"{old} is named {new}" for old, new in self.renamed.items()]
        changed += [f"{name} is {now} instead of {was}" for name, (was, now) in self.types.items() if name not in own]
        return f"For {_WHO.get(self._name, self._name)}: {'; '.join(changed)}" if changed else ""

    def columns_to_check(self) -> list[str]:
        """Columns of the table with values that may not fit; see `convert`."""
        pairs = zip(self._before, self.schema, strict=True)
        return [old.name for old, new in pairs if old.name not in self._as_text and may_lose(old.type, new.type)]

    def convert(self, rows: pa.Table) -> pa.Table:
        """Rows with some columns of the table, for the engine. Raises ConfigError if a value does not fit."""
        fields = [self.schema.field(self.names[name]) for name in rows.column_names]
        columns = [self._column(rows, *pair) for pair in zip(rows.column_names, fields, strict=True)]
        return pa.table(columns, schema=pa.schema(fields)) if fields else rows

    def _field(self, field: pa.Field) -> pa.Field:
        name = self._rename.get(field.name) or self._made_name(field.name)
        if field.name in self._as_text:
            return field.with_name(name).with_type(pa.string())
        return field.with_name(name).with_type(target_type(field.type, self._engine) if self._engine else field.type)

    def _made_name(self, name: str) -> str:
        return engine_name(name, self._engine) if self._engine else name

    def _column(self, rows: pa.Table, name: str, field: pa.Field) -> pa.ChunkedArray:
        column = rows.column(name)
        if column.type == field.type:
            return column
        convert: Callable[[pa.Array], pa.Array] = (
            as_text if name in self._as_text else lambda values: converted(values, field.type)
        )
        try:
            return pa.chunked_array([convert(chunk) for chunk in column.chunks], field.type)
        except pa.ArrowInvalid:
            raise self._does_not_fit(rows, name, convert) from None

    def _does_not_fit(self, rows: pa.Table, name: str, convert: Callable[[pa.Array], pa.Array]) -> ConfigError:
        where = ""
        for number in range(rows.num_rows):
            try:
                convert(rows.column(name).slice(number, 1).combine_chunks())
            except pa.ArrowInvalid:
                at = (
                    f"id {rows.column(names.ID)[number].as_py()!r}"
                    if names.ID in rows.column_names
                    else f"row {number}"
                )
                where = f" ({at}: {as_text(rows.column(name).slice(number, 1).combine_chunks())[0].as_py()})"
                break
        kind = self._before.field(name).type
        long = longest_decimal(kind) > 38
        what = "decimals of more than 38 digits" if long else "nanoseconds"
        others = [other for other in CHOICES if other == ARROW or not may_lose(kind, target_type(kind, ENGINES[other]))]
        who = self._engine.label if self._engine else ""
        return ConfigError(
            f"{self._root}: the column {name!r} has {what}{where}, and {who} cannot hold them. Write the column as "
            f"text (--as-text {name}), export without it (--columns), or for one that can: --for {' or '.join(others)}."
        )

    def _check_names(self) -> None:
        """Raises ConfigError if the engine takes two columns, or two keys inside of one, for one."""
        seen: dict[str, str] = {}
        fold = self._engine.fold if self._engine else str
        who = self._engine.label if self._engine else "Parquet"
        for number, (old, new) in enumerate(self.names.items()):
            if self._engine and old in self._rename and engine_name(new, self._engine) != new:
                raise ConfigError(
                    f"--rename {old}={new}: {who} cannot have a column of that name. Choose another one, such as "
                    f"{engine_name(new, self._engine)}."
                )
            if (first := seen.setdefault(fold(new), old)) != old:
                other = old if old not in names.RESERVED_COLUMNS else first
                case = "know no upper and lower case" if who.endswith("s") else "knows no upper and lower case"
                why = f", and {who} {case}" if new != self.names[first] else ""
                raise ConfigError(
                    f"{self._root}: the columns {first!r} and {old!r} would be named {self.names[first]} and {new}"
                    f"{why}. Name one of them: --rename {other}=<new name>."
                )
            inside = twins_inside(self.schema.field(number).type, fold)
            if inside:
                raise ConfigError(
                    f"{self._root}: the column {old!r} has two keys that {who} would take for one, {inside[0]!r} and "
                    f"{inside[1]!r}. Write the column as text (--as-text {old}), export without it (--columns), or for "
                    f"what tells them apart (--for {ARROW})."
                )


def _outgoing_from(root: str, schema: bytes, *others: Any) -> Outgoing:
    return Outgoing(root, pa.ipc.read_schema(pa.py_buffer(schema)), *others)


_WHO = {ANY: "any engine"}

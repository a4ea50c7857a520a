"""A table whose `_sfr` is lost: its card made anew from the config, and its data files as what a repair builds upon.

Only files with the fingerprint that the config gives can be used; carried columns may have changed. Writes nothing.
"""

import dataclasses
import time
from collections.abc import Sequence

import pyarrow as pa

from sfr_batch.config.settings import Config
from sfr_batch.errors import ObjectNotFound, TableError, TableMismatch, counted
from sfr_batch.format import names
from sfr_batch.format.fingerprint import LATER_INPUTS, digest
from sfr_batch.format.parquet import Footer, read_footer
from sfr_batch.format.records import TableCard
from sfr_batch.format.schemas import is_same
from sfr_batch.planning.card import model_inputs
from sfr_batch.storage.parallel import in_parallel
from sfr_batch.storage.store import Store
from sfr_batch.table.commit.inventory import Look
from sfr_batch.table.commit.remains import Remains, find_remains, rows_of_files
from sfr_batch.table.table import Table

_AHEAD = 8


def remains_of_files(config: Config, store: Store, look: Look | None) -> Remains:
    """What is left of a table without a card. Raises TableMismatch if no data file can be of this config."""
    ids = [s for info in store.list(names.DATA) if (s := names.split_of_data_key(info.key))]

    def read(split_id: str) -> Footer | str:
        try:
            return read_footer(store, split_id)
        except (TableError, ObjectNotFound) as error:
            return " ".join(str(error).split()).removeprefix(f"{store.root}/")

    found = dict(zip(ids, in_parallel(read, ids, _AHEAD), strict=True))
    lost = {split_id: footer for split_id, footer in found.items() if isinstance(footer, str)}
    footers = {split_id: footer for split_id, footer in found.items() if isinstance(footer, Footer)}
    cards = _cards(config)
    usable = [footer for footer in footers.values() if footer.fingerprint in cards]
    if not usable:
        others = sorted({footer.fingerprint[:12] or "none" for footer in footers.values()})
        raise TableMismatch(
            f"{store.root} has {counted(len(ids), 'data file')} and no _sfr. Their fingerprint is "
            f"{', '.join(others) or 'unreadable'}, that of this config {next(iter(cards))[:12]}: they were made with "
            "another model or other settings. Use the config that made them."
        )
    first = _first(usable)
    fits = {split_id: _is_of(footer, first) for split_id, footer in footers.items()}
    lost |= {s: f"{names.data_key(s)} has another fingerprint or other columns" for s in footers if not fits[s]}
    fingerprint = first.fingerprint
    card = TableCard.make(first.schema, fingerprint, cards[fingerprint], config.model.model_dump(mode="json"))
    table = Table(store, card)
    remains = find_remains(table, look)
    if remains is None:
        return rows_of_files(table, _number_beyond(store), lost, look)
    sides = {**remains.inventory.sides_lost, names.TABLE_JSON: f"{names.TABLE_JSON} is missing"}
    remains.inventory = dataclasses.replace(remains.inventory, sides_lost=sides)
    return remains


def _first(footers: Sequence[Footer]) -> Footer:
    """The footer whose columns the card of the table gets, which those of most files fit.

    Carried columns that have changed since stand in the receipts; the card has those of the files that say nothing.
    """
    candidates: dict[tuple[str, bool, bytes], Footer] = {}
    for footer in footers:
        candidates.setdefault((footer.fingerprint, bool(footer.covers), footer.schema.serialize().to_pybytes()), footer)
    first = [footer for footer in candidates.values() if not footer.covers] or list(candidates.values())
    return max(first, key=lambda candidate: sum(_is_of(footer, candidate) for footer in footers))


def _is_of(footer: Footer, first: Footer) -> bool:
    """Whether a data file can be of the table whose card has the fingerprint and the columns of ``first``."""
    if footer.fingerprint != first.fingerprint:
        return False
    if footer.covers == first.covers:
        return is_same(footer.schema, first.schema)
    return bool(_own_columns(footer.schema).equals(_own_columns(first.schema)))


def _own_columns(schema: pa.Schema) -> pa.Schema:
    """Those that do not depend on what is carried."""
    own = names.RESERVED_COLUMNS - {names.ROW_HASH}
    return pa.schema([field for field in schema if field.name in own])


def _cards(config: Config) -> dict[str, dict[str, object]]:
    """Inputs by the fingerprints that files of this config have: today's, and that of an older release."""
    inputs = model_inputs(config.model, config.table.vector_dtype)
    first = {name: value for name, value in inputs.items() if name not in LATER_INPUTS}
    return {digest(inputs): inputs, digest(first): first}


def _number_beyond(store: Store) -> int:
    """A number that no writer of the lost history can win: seconds since 1970, more than there ever were snapshots.

    By the clock of the store or of this machine, whichever is ahead: after a second loss, the first one's numbers are
    such seconds, too.
    """
    named = (names.number_of_attached_key(info.key) for info in store.list(names.REJECTS))
    return max([int(time.time()), int(store.clock()), *(number for number in named if number is not None)])

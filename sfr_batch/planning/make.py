"""`make_plan`: compares the corpus with the table. Select shards, diff, survey, cut into splits.

Reads metadata only, writes nothing. Needs no GPU, no Ray and no torch."""

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sfr_batch.config.settings import Config, CorpusSettings, TableSettings
from sfr_batch.corpus.columns import Columns, resolve_columns
from sfr_batch.corpus.listing import Listing, list_shards
from sfr_batch.corpus.packs import SmallShards, find_small
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.splits import ROWS, ReadUnit, cut, pack_whole, rows_per_split
from sfr_batch.corpus.survey import ShardStatistics, survey_shards
from sfr_batch.corpus.text_template import TextTemplate
from sfr_batch.errors import ConfigError, CorpusError, ObjectNotFound, TableError, TableNotFound, counted
from sfr_batch.format import names
from sfr_batch.format.fingerprint import later_inputs
from sfr_batch.format.layout import Layout
from sfr_batch.format.order_values import has_order
from sfr_batch.format.parquet import read_receipts
from sfr_batch.format.records import PACKED, ShardRecord, TableCard
from sfr_batch.format.schemas import has_null
from sfr_batch.model.identity import comparable
from sfr_batch.planning.card import make_card, with_inputs_of
from sfr_batch.planning.carried_columns import (
    ColumnChanges,
    EarlierRecipes,
    check_change,
    keep_types_without_values,
    known_columns,
    next_layout,
    shards_to_read,
)
from sfr_batch.planning.committed_splits import CommittedSplits
from sfr_batch.planning.lending import open_lender
from sfr_batch.planning.limits import SplitLimits, limits_of_a_split, split_identity
from sfr_batch.planning.pinning import versions_to_try
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.planning.recipes import Reread, ShardRecipes, find_reread
from sfr_batch.planning.selection import selection_of
from sfr_batch.planning.shard_diff import Selected, ShardDiff, diff_shards, select_shards
from sfr_batch.storage.input_listing import would_list
from sfr_batch.storage.locations import absolute_uri, is_s3
from sfr_batch.storage.store import ObjectInfo, Store
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.damage import find_missing
from sfr_batch.table.commit.remains import Remains
from sfr_batch.table.commit.writing import check_same_table
from sfr_batch.table.pointer import refuse_pointer
from sfr_batch.table.table import Snapshot, Table

_FEW, _SHARE = 2, 20
"""Data files of packs that are left over and embedded anew: so many, or one for each 20 that go on."""


@dataclass(frozen=True)
class _Survey:
    """Statistics of the changed shards, and the columns of the table."""

    shards: list[ShardStatistics]
    columns: Columns
    card: TableCard
    """What the card of a new table would be."""
    layout: Layout
    """Of the next snapshot."""
    changes: ColumnChanges | None
    """Of the carried columns since the base snapshot; None if there are none."""
    small: list[SmallShards]
    """Changed shards that are packed; ``shards`` has all others."""


def make_plan(config: Config, again: frozenset[str] = frozenset(), remains: Remains | None = None) -> EmbedPlan:
    """Compare the corpus with the table. Reads metadata only; writes nothing.

    again: URIs of shards that are to be read although they have not changed, if they are selected. remains: what is
    left of the newest snapshot, for the plan of a repair.

    Raises ConfigError, CorpusError, ModelError, StorageError, or TableMismatch if the table was made with other
    settings.
    """
    store = open_store(config.table.path, config.table.storage)
    _check_apart(config.corpus, config.table, store.root)
    table = remains.table if remains else _open(store)
    base = remains or (table.latest() if table is not None else None)
    for pinned in versions_to_try(config.corpus, store, base):
        # Whatever lists the corpus again for this plan, in this process or another, sees the same version of it.
        at_version = config.model_copy(update={"corpus": pinned.corpus})
        try:
            return _plan(at_version, store, table, base, pinned.continues, again)
        except CorpusError:
            if not pinned.continues:
                raise
    raise AssertionError("the last version to try continues no run")


def _plan(
    config: Config,
    store: Store,
    table: Table | None,
    base: Snapshot | None,
    continues: str,
    again: frozenset[str],
    *,
    packs: bool = True,
) -> EmbedPlan:
    """See `make_plan`. continues: id of the run with whose version of the corpus the plan goes on; or empty. packs:
    whether small shards may be packed."""
    listing = list_shards(config.corpus)
    # Select before the diff: a shard outside the selection is neither changed nor vanished.
    selected = select_shards(config.select, listing.shards, base)
    packs = packs and base is None and _may_pack(config)
    diff, survey, again = _diff_and_survey(config, selected, table, base, again, packs=packs)
    card = today = survey.card
    _check_order(config.table.order_by, survey.columns)
    recipes = ShardRecipes.make(config.corpus, survey.columns.types)
    reread: tuple[Reread, ...] = ()
    if base is not None and not config.select.rejects:
        reread, untouched = find_reread(recipes, survey.shards, base.read_shards(), config.table.generation)
        diff, survey = _leave([record for record in untouched if record.uri not in again], diff, survey)
    accepted: dict[str, Any] = {}
    if table is not None:
        accepted, card = _of_table(table, base, today)
    limits = limits_of_a_split(config.run, card)
    committed = table.committed() if table is not None and (survey.shards or survey.small or base) else {}
    units = _cut(config, survey, diff, limits, card, recipes, base, committed)
    if survey.small and not _is_about(units, committed, store):
        return _plan(config, store, table, base, continues, again, packs=False)
    rows = {shard.shard.uri: shard.rows for shard in survey.shards if shard.all_live}
    return EmbedPlan(
        config=config,
        card=card,
        store=store,
        columns=survey.columns,
        layout=survey.layout,
        column_changes=survey.changes,
        recolumned=_recolumned(config, base, diff, survey.changes),
        recipes=recipes,
        base=base,
        carried=(*diff.unchanged, *diff.left_alone),
        changed=tuple((shard, rows.get(shard.uri)) for shard in diff.changed),
        vanished=tuple(diff.vanished),
        staying=tuple(diff.staying),
        units=tuple(units),
        committed=committed if units else {},
        surveys=tuple(survey.shards),
        limits=limits,
        inputs=today.fingerprint_inputs,
        accepted=accepted,
        reread=reread,
        lender=open_lender(config.table, dict(today.fingerprint_inputs), store.root),
        passed_over=listing.passed_over,
        newly_read=_newly_read(listing, base),
        lost=find_missing(base, committed) if base is not None and not isinstance(base, Remains) else {},
        continues=continues,
    )


def _of_table(table: Table, base: Snapshot | None, today: TableCard) -> tuple[dict[str, Any], TableCard]:
    """Inputs of the fingerprint that the table has accepted, and its card with the columns of ``today``. Raises
    TableMismatch."""
    inputs = table.known_inputs(base)
    check_same_table(table, today, comparable(inputs))
    # Names and footers of its splits carry the fingerprint that the table was made with.
    return later_inputs(table.card.fingerprint_inputs, inputs), with_inputs_of(table.card, today)


def _newly_read(listing: Listing, base: Snapshot | None) -> tuple[str, ...]:
    """URIs of shards that an earlier release passed over when the base snapshot was made, as far as that shows."""
    if base is None or not listing.later:
        return ()
    known = {record.uri for record in base.read_shards()}
    # One of them in the base: this release, or one after it, has made it.
    return listing.later if known.isdisjoint(listing.later) else ()


def _open(store: Store) -> Table | None:
    """The table, if there is one. Raises ConfigError or TableError if none can be created at this place."""
    with contextlib.suppress(TableNotFound):
        return Table.open(store)
    refuse_pointer(store)
    _check_unused(store)
    return None


def _diff_and_survey(
    config: Config,
    selected: Selected,
    table: Table | None,
    base: Snapshot | None,
    again: frozenset[str],
    *,
    packs: bool,
) -> tuple[ShardDiff, _Survey, frozenset[str]]:
    """The diff and the survey; and ``again``, with the shards that are read because carried columns have changed."""
    before = base.layout if base else table.layout if table else None
    known = known_columns(before, config)
    recipes = ShardRecipes.make(config.corpus, known.types if known else {})
    earlier = EarlierRecipes.of(base, config.corpus)
    dropped = earlier if earlier and earlier.only_dropped else None
    proven = base is not None and (dropped is not None or base.manifest.row_recipe == recipes.settings)
    while True:
        diff = diff_shards(config, selected, base, recipes, dropped, again)
        # Survey after the diff: only changed shards are opened. Settings are checked even if nothing has changed.
        named = _named_columns(config.corpus) if proven else frozenset[str]()
        surveys, columns, small = _survey(config, selected, diff, known, named, packs=packs)
        columns = keep_types_without_values(columns, before)
        card = make_card(config, columns)
        layout = next_layout(table, base, card)
        changes = None
        if base is not None and layout.covers != base.layout.covers:
            changes = ColumnChanges.between(base.layout, layout)
            check_change(config, base, changes)
            if more := shards_to_read(base, changes) - again:
                again |= more
                continue
        columns = dataclasses.replace(columns, row_hash=layout.row_hash)
        return diff, _Survey(surveys, columns, card, layout, changes, small), again


def _recolumned(
    config: Config, base: Snapshot | None, diff: ShardDiff, columns: ColumnChanges | None
) -> tuple[ShardRecord, ...]:
    """Records of the changed shards of which nothing but carried columns has changed: rows of them need no model."""
    if base is None or columns is None:
        return ()
    earlier = EarlierRecipes.of(base, config.corpus) or EarlierRecipes.same(base, config.corpus)
    shards = {shard.uri: shard for shard in diff.changed if not shard.touched}
    return tuple(
        record
        for record in base.read_shards()
        if (shard := shards.get(record.uri))
        and record.version == shard.version
        and earlier.are_those_of(record, shard)
        and config.table.generation in ("", record.generation)
    )


def _survey(
    config: Config,
    selected: Selected,
    diff: ShardDiff,
    known: Columns | None,
    proven: frozenset[str],
    *,
    packs: bool,
) -> tuple[list[ShardStatistics], Columns, list[SmallShards]]:
    """Survey the changed shards; if there are none, the first shard, to check the columns that the config names.

    known: types of the table's columns; proven: columns that the corpus is known to have; packs: whether small shards
    may be packed, of which a sample is then surveyed.
    """
    corpus, shards = config.corpus, selected.shards
    # A type that may change is that of all shards together.
    wanted = shards if config.table.retype and known else diff.changed or shards[:1]
    small, surveys = find_small(wanted, corpus, config.run) if packs else ([], survey_shards(wanted, corpus))
    columns = None
    try:
        columns = resolve_columns(surveys, corpus, known, proven)
    except CorpusError:
        if len(surveys) == len(wanted):
            raise
    if len(surveys) < len(wanted) and (columns is None or any(map(has_null, columns.types.values()))):
        surveys = survey_shards(wanted, corpus)  # what a sample does not show
        columns = resolve_columns(surveys, corpus, known, proven)
    if columns is None and not shards:
        raise ConfigError(
            "select matches only shards that are no longer in the corpus, and corpus.carry names a column that the "
            "table does not have. Restore corpus.carry, or correct select."
        )
    if columns is None:
        raise CorpusError(
            f"The corpus {corpus.path} has no rows, only {counted(len(shards), 'empty shard')}, e.g. "
            f"{shards[0].uri}. Add rows, or correct corpus.path."
        )
    # A wrong select.where is an error even if nothing has changed, so that the filter is never used.
    selection_of(config).row_filter(columns, None)
    own = {shard.uri for shard in diff.changed} - {shard.uri for its in small for shard in its.shards}
    return [survey for survey in surveys if survey.shard.uri in own], columns, small


def _leave(untouched: list[ShardRecord], diff: ShardDiff, survey: _Survey) -> tuple[ShardDiff, _Survey]:
    """The same with the shards of these records as unchanged ones."""
    uris = {record.uri for record in untouched}
    changed = [shard for shard in diff.changed if shard.uri not in uris]
    surveys = [shard for shard in survey.shards if shard.shard.uri not in uris]
    left = dataclasses.replace(diff, changed=changed, unchanged=[*diff.unchanged, *untouched])
    return left, dataclasses.replace(survey, shards=surveys)


def _cut(
    config: Config,
    survey: _Survey,
    diff: ShardDiff,
    limits: SplitLimits,
    card: TableCard,
    recipes: ShardRecipes,
    base: Snapshot | None,
    committed: Mapping[str, ObjectInfo],
) -> list[ReadUnit]:
    """Cut the changed shards into splits, and pack the small ones.

    The size of a split follows from the shard's text and from the rows of the whole corpus, unchanged shards included:
    so a shard is always cut the same way, whatever else is carried over. Unless more of it is done as older releases
    cut it, which had no more rows of short texts by default: then it stays as it is.
    """

    def identity_of(shards: Sequence[Shard]) -> tuple[str, ...]:
        return split_identity(config, card, recipes.of_several(shards), survey.layout)

    total = sum(record.read for record in diff.unchanged) + sum(shard.rows for shard in survey.shards)
    total += sum(its.expected(its.shards)[0] for its in survey.small)

    def most_rows(most: int) -> int:
        return rows_per_split(total, min(most, limits.vectors), limits.min_splits)

    condemned = base.read_condemned() if base else frozenset[str]()

    def cut_all(sizes: Iterable[tuple[ShardStatistics, int]]) -> dict[str, list[ReadUnit]]:
        return {its.shard.uri: cut(its, rows, limits.bytes, identity_of([its.shard]), condemned) for its, rows in sizes}

    sizes = [(its, most_rows(limits.rows_of(its.rows, its.text_bytes))) for its in survey.shards]
    cuts = cut_all(sizes)
    if limits.rows is None and committed:
        older = cut_all((its, most_rows(ROWS)) for its, rows in sizes if rows > most_rows(ROWS))
        done, before = (
            CommittedSplits([unit for uri in older for unit in its[uri]], committed).begun for its in (cuts, older)
        )
        cuts |= {uri: its for uri, its in older.items() if before[uri] > done[uri]}
    units = [*chain(*cuts.values())]
    packs = [(pack, its.expected(pack), most_rows(its.most)) for its in survey.small for pack in its.packs()]
    units += [pack_whole(its, size, rows, limits.bytes, identity_of(its), condemned) for its, size, rows in packs]
    return units


def _may_pack(config: Config) -> bool:
    """Whether a first run may read small shards in packs: nothing has to be read before it is embedded."""
    table, corpus = config.table, config.corpus
    settles_ids = table.duplicate_ids == "last" and corpus.id is not None
    compares = table.reuse_from is not None or selection_of(config).always_compares
    return not (settles_ids or compares or corpus.is_table or table.retype)


def _is_about(units: Sequence[ReadUnit], committed: Mapping[str, ObjectInfo], store: Store) -> bool:
    """Whether what is committed is of these units, but for some packs whose shards have changed since.

    These are embedded anew, as they are too few to read the whole corpus for them. Anything else is looked through
    with a plan without packs: splits of a release that had none, or of a corpus that has become another one.
    """
    done = CommittedSplits(units, committed).done
    left = [split_id for split_id in committed if split_id not in done]
    if len(left) > max(_FEW, len(done) // _SHARE):
        return False
    try:
        return all(receipt.shard == PACKED for receipt in read_receipts(store, left, committed))
    except (TableError, ObjectNotFound):
        return False


def _check_apart(corpus: CorpusSettings, table: TableSettings, root: str) -> None:
    """Raises ConfigError if the corpus would include the table's files, or is inside the table's folder."""
    for path in corpus.paths:
        uri = absolute_uri(path)
        if is_s3(uri) and corpus.storage != table.storage:
            continue  # the same name may be another bucket
        if would_list(path, f"{root}/{names.data_key('0' * 32)}", corpus.storage):
            raise ConfigError(
                f"corpus.path {path} covers table.path {table.path}: the next run would embed the table's own files. "
                "Change one of the two paths."
            )
        if uri.startswith(f"{root}/"):
            raise ConfigError(
                f"corpus.path {path} is inside table.path {table.path}, where only the table may have files. Change "
                "one of the two paths."
            )


def _check_order(order_by: str | None, columns: Columns) -> None:
    """Raises ConfigError if rows cannot be ordered by this column."""
    if order_by is None:
        return
    if order_by not in columns.carry:
        have = ", ".join(columns.carry) or "no column"
        raise ConfigError(
            f"table.order_by is {order_by}, but the table carries {have}. Add {order_by} to corpus.carry: the rows of "
            "the next runs are compared with its values in the table."
        )
    kind = columns.carry[order_by].type
    if not has_order(kind):
        raise ConfigError(
            f"table.order_by: the column {order_by} is {kind}, whose values have no order. Name a column of numbers, "
            "texts or times, or remove table.order_by to keep the last row of each id in the order of the corpus."
        )


def _check_unused(store: Store) -> None:
    """Raises TableError if the data folder of a new table has files that readers would take for the table's."""
    others = [info.key for info in store.list(names.DATA) if names.split_of_data_key(info.key) is None]
    if others:
        raise TableError(
            f"There is no table at {store.root} yet, but {names.DATA}/ has {counted(len(others), 'other file')}, e.g. "
            f"{others[0]}. Set table.path to an empty folder or prefix."
        )


def _named_columns(corpus: CorpusSettings) -> frozenset[str]:
    return frozenset((*TextTemplate(corpus.text).columns, *corpus.carried.values()))

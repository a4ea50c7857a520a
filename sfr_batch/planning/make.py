"""`make_plan`: compares the corpus with the table. Reads metadata only, writes nothing.

Needs no GPU, no Ray and no torch."""

from collections.abc import Sequence

import pyarrow.compute as pc

from sfr_batch.config.settings import Config, CorpusSettings, SelectSettings, TableSettings
from sfr_batch.corpus.columns import Columns, resolve_columns
from sfr_batch.corpus.shards import Shard, list_shards
from sfr_batch.corpus.splits import cut, rows_per_split
from sfr_batch.corpus.survey import survey_shards
from sfr_batch.corpus.text_template import TextTemplate
from sfr_batch.errors import ConfigError, CorpusError, TableError, TableNotFound
from sfr_batch.format import names
from sfr_batch.format.fingerprint import digest
from sfr_batch.format.records import KEPT, ShardRecord
from sfr_batch.planning.card import make_card, make_row_recipe
from sfr_batch.planning.limits import limits_of_a_split, split_identity
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.planning.selection import covers, row_filter
from sfr_batch.storage.inputs import would_list
from sfr_batch.storage.store import Store, absolute_uri, is_s3
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.writing import check_same_table
from sfr_batch.table.pointer import refuse_to_write
from sfr_batch.table.table import Snapshot, Table


def make_plan(config: Config) -> EmbedPlan:
    """Compare the corpus with the table. Reads metadata only; writes nothing.

    Raises ConfigError, CorpusError, ModelError, StorageError, or TableMismatch if the table was made otherwise.
    """
    store = open_store(config.table.path, config.table.storage)
    _check_apart(config.corpus, config.table, store.root)
    table = _open(store)
    if table is None:
        refuse_to_write(store)
        _check_unused(store)
    base = table.latest() if table is not None else None
    shards = list_shards(config.corpus)
    row_recipe = make_row_recipe(config.corpus)
    shards, outside = _select(config.select, shards, base)
    if config.select.rejects:
        carried, changed = _only_rejected(base, shards, config.table.generation)
    else:
        carried, changed = carry_over(base, shards, digest(row_recipe), config.table.generation)
    keep_kept = config.table.delete == "keep" or not config.select.everything
    not_meant = {record.uri for record in outside}
    vanished = [r for r in find_vanished(base, shards, keep=keep_kept) if r.uri not in not_meant]
    if config.select.by_rows:
        outside, vanished = [*outside, *vanished], []
    surveys = survey_shards(changed or shards[:1], config.corpus)
    known = _columns(table, config.corpus)
    same_recipe = base is not None and base.manifest.row_recipe == row_recipe
    elsewhere = _all_columns(config.corpus) if same_recipe else frozenset[str]()
    columns = resolve_columns(surveys, config.corpus, known, elsewhere)
    if columns is None:
        raise CorpusError(
            f"The corpus {config.corpus.path} has no rows: its {len(shards)} shard(s) are empty, e.g. {shards[0].uri}. "
            "Fill them, or correct corpus.path."
        )
    row_filter(config.select, columns, {})  # also where nothing has changed, so that it is never applied
    card = make_card(config, columns)
    if table is not None:
        check_same_table(table, card)
    surveys = surveys if changed else []
    total = sum(record.read for record in carried) + sum(survey.rows for survey in surveys)
    limits = limits_of_a_split(config.run, card)
    identity = split_identity(config, card, row_recipe)
    condemned = base.condemned if base else frozenset()  # read from storage each time
    units = [
        unit
        for survey in surveys
        for unit in cut(
            survey,
            rows_per_split(total, limits.rows, limits.min_splits),
            limits.bytes,
            identity,
            condemned,
        )
    ]
    return EmbedPlan(
        config=config,
        card=card,
        store=store,
        columns=columns,
        row_recipe=row_recipe,
        base=base,
        carried=(*carried, *outside),
        changed=tuple((survey.shard, survey.rows if survey.exact else None) for survey in surveys),
        vanished=tuple(vanished),
        units=tuple(units),
        committed=table.committed() if table is not None and units else {},
        surveys=tuple(surveys),
        limits=limits,
    )


def _check_apart(corpus: CorpusSettings, table: TableSettings, root: str) -> None:
    """Raises ConfigError if the corpus would come to hold the table's files, or lies among them."""
    for path in [corpus.path] if isinstance(corpus.path, str) else corpus.path:
        uri = absolute_uri(path)
        if is_s3(uri) and corpus.storage != table.storage:
            continue  # the same name may be another bucket
        if would_list(path, f"{root}/{names.data_key('0' * 32)}"):
            raise ConfigError(
                f"corpus.path {path} covers table.path {table.path}: the next run would embed the table's own files. "
                "Set one of them to another place."
            )
        if uri.startswith(f"{root}/"):
            raise ConfigError(
                f"corpus.path {path} lies inside table.path {table.path}, which is the table's alone. Set one of them "
                "to another place."
            )


def _check_unused(store: Store) -> None:
    """Raises TableError if a new table's data folder holds files that readers would take for the table's."""
    others = [info.key for info in store.list(names.DATA) if names.split_of_data_key(info.key) is None]
    if others:
        raise TableError(
            f"There is no table at {store.root} yet, but {len(others)} other file(s) are where its data would be, e.g. "
            f"{others[0]}. Set table.path to an empty place."
        )


def _select(
    select: SelectSettings, shards: Sequence[Shard], base: Snapshot | None
) -> tuple[list[Shard], list[ShardRecord]]:
    """Shards that are meant, and the records of those that are not. Raises ConfigError if none is meant."""
    if select.everything:
        return list(shards), []
    meant = [shard for shard in shards if covers(select, shard.uri)]
    records = base.shards if base else []
    if not meant and not any(covers(select, record.uri) for record in records):
        raise ConfigError(
            f"select means none of the {len(shards):,} shards of the corpus, e.g. {shards[0].uri}. Correct "
            "select.shards or select.partitions."
        )
    return meant, [record for record in records if record.uri != KEPT and not covers(select, record.uri)]


def _only_rejected(base: Snapshot | None, shards: Sequence[Shard], label: str) -> tuple[list[ShardRecord], list[Shard]]:
    """The shards that have rejects to try again, and the records of all others: what else has changed is not meant."""
    if base is None:
        raise ConfigError("select.rejects: there is no table yet, so nothing was rejected. Leave it out.")
    rejects = base.rejects().filter(pc.field("reason").isin(names.AFTER_READING))
    rejected = set(rejects["shard"].unique().to_pylist())
    rejected -= {record.uri for record in base.shards if record.retried == label}
    again = [shard for shard in shards if shard.uri in rejected]
    there = {shard.uri for shard in shards} - rejected
    return [record for record in base.shards if record.uri in there], again


def carry_over(
    base: Snapshot | None, shards: Sequence[Shard], recipe: str, generation: str
) -> tuple[list[ShardRecord], list[Shard]]:
    """Which shards the base snapshot covers as they are, and which have to be read.

    generation: the label that their vectors must have been made under, "" for any.
    """
    covered = {record.uri: record for record in base.shards} if base else {}
    carried, changed = [], []
    for shard in shards:
        record = covered.get(shard.uri)
        same = record is not None and (record.version, record.recipe) == (shard.version, recipe)
        if record and same and generation in ("", record.generation):
            carried.append(record)
        else:
            changed.append(shard)
    return carried, changed


def find_vanished(base: Snapshot | None, shards: Sequence[Shard], *, keep: bool) -> list[ShardRecord]:
    """What the base snapshot covers and the corpus has not; ``keep``: but for what is kept nevertheless."""
    there = {shard.uri for shard in shards} | ({KEPT} if keep else set())
    return [record for record in base.shards if record.uri not in there] if base else []


def _open(store: Store) -> Table | None:
    try:
        return Table.open(store)
    except TableNotFound:
        return None


def _columns(table: Table | None, corpus: CorpusSettings) -> Columns | None:
    if table is None or any(name not in table.schema.names for name in corpus.carry):
        return None
    schema = table.schema
    return Columns(schema.field(names.ID).type, {name: schema.field(name).type for name in corpus.carry})


def _all_columns(corpus: CorpusSettings) -> frozenset[str]:
    return frozenset((*TextTemplate(corpus.text).columns, *corpus.carry))

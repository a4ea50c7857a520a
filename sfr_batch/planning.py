"""The plan: what a run would do, as a value you can print. Touches nothing, needs no GPU, no Ray and no torch.

Corpus today against the table's last snapshot: shards in the same version under the same row recipe and generation
are carried over unread. If there were others before, `EmbedPlan.compare` reads the new and changed ones and finds which
of their rows have a vector already; splits whose data file exists are done. What remains is work.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfr_batch import model
from sfr_batch import schema as names
from sfr_batch.columns import Columns, TextTemplate
from sfr_batch.commit import SWEEP_AFTER_S, Draft, check_same_table, next_number
from sfr_batch.comparison import UNIT_BYTES, UNIT_ROWS, Executor, OldShard, Source, compare
from sfr_batch.config import Config, CorpusSettings, ModelSettings, RunSettings, SelectSettings, TableSettings
from sfr_batch.corpus import Shard, Survey, list_shards, resolve_columns, survey_shards
from sfr_batch.difference import Difference, Limits, check_deletes, sort_out
from sfr_batch.errors import ConfigError, CorpusError, ObjectNotFound, TableError, TableNotFound
from sfr_batch.fingerprint import digest
from sfr_batch.history import moment
from sfr_batch.indexes import index_table
from sfr_batch.manifest import KEPT, Changes, Receipt, ShardRecord, TableCard
from sfr_batch.parquet import read_receipt
from sfr_batch.pointer import refuse_to_write
from sfr_batch.prompts import DOCUMENT, QUERY, resolve
from sfr_batch.selection import covers, row_filter
from sfr_batch.splits import NO_SHARD, ReadUnit, Split, Stream, cut, missing_in_stream, rows_per_split, stream_of
from sfr_batch.storage import ObjectInfo, Store, absolute_uri, in_parallel, is_s3, open_store, would_list
from sfr_batch.table import Snapshot, Table
from sfr_batch.tokenizer import Tokenizer

_PARALLEL_READS = 32
_BYTES_PER_TOKEN = 4.0
"""English prose under a 32,000-piece vocabulary; code and other languages have fewer. Estimates carry a ``~``."""


@dataclass(frozen=True)
class EmbedPlan:
    """What is missing between the corpus and the table, and what is not."""

    config: Config
    card: TableCard
    store: Store
    columns: Columns
    row_recipe: dict[str, Any]
    base: Snapshot | None
    carried: tuple[ShardRecord, ...]
    """Shards that the base snapshot covers as they are."""
    changed: tuple[tuple[Shard, int | None], ...]
    """The other shards, with their rows where those are known without reading."""
    vanished: tuple[ShardRecord, ...]
    """What the base snapshot covers and the corpus has not any more."""
    units: tuple[ReadUnit, ...]
    """All splits of the changed shards; once they are compared, those of rows that need a vector."""
    committed: dict[str, ObjectInfo]
    """Data files on storage when the plan was made."""
    surveys: tuple[Survey, ...] = field(repr=False)
    """Of the changed shards."""
    limits: Limits
    """Of a split."""
    difference: Difference | None = field(default=None, repr=False)
    """What the comparison has found; None before it, and where there is nothing to compare with."""

    @cached_property
    def splits(self) -> list[Split]:
        """All splits of the changed shards; of a stream, which is cut as it is read, as many as are to be expected."""
        return [split for unit in self.units for split in _splits_of(unit)]

    @cached_property
    def todo(self) -> list[ReadUnit]:
        """Read units with only the splits that have no data file yet."""
        units = []
        for unit in self.units:
            if unit.stream:
                done = self._done_of(unit.stream)
                if missing_in_stream(done.items()):
                    stream = dataclasses.replace(unit.stream, done=tuple(sorted(done)))
                    units.append(dataclasses.replace(unit, stream=stream))
                continue
            missing = tuple(split for split in unit.splits if split.split_id not in self.committed)
            if missing:
                units.append(dataclasses.replace(unit, splits=missing))
        return units

    @cached_property
    def todo_splits(self) -> list[Split]:
        """Splits without a data file; of a stream, as many as are to be expected."""
        return [split for unit in self.todo for split in _splits_of(unit)]

    @cached_property
    def done(self) -> dict[str, ObjectInfo]:
        """The data files of this plan's splits, by split id."""
        of_streams = {
            unit.stream.split_id(number, last)
            for unit in self.units
            if unit.stream
            for number, last in self._done_of(unit.stream).items()
        }
        ids = of_streams.union(split.split_id for unit in self.units for split in unit.splits)
        return {split_id: info for split_id, info in self.committed.items() if split_id in ids}

    def missing(self, finished: Iterable[str]) -> int:
        """How many splits are still to be done once those with the ids ``finished`` are; of streams at least."""
        ids = {*self.done, *finished}
        streams: dict[str, list[tuple[int, bool]]] = {unit.stream.prefix: [] for unit in self.todo if unit.stream}
        for split_id in ids if streams else ():
            prefix, number, last = stream_of(split_id)
            if prefix in streams:
                streams[prefix].append((number, last))
        missing = sum(split.split_id not in ids for unit in self.todo for split in unit.splits)
        return missing + sum(map(missing_in_stream, streams.values()))

    @cached_property
    def _by_prefix(self) -> dict[str, dict[int, bool]]:
        """Which splits of which streams have their data file, and whether it is the last: by prefix and number."""
        found: dict[str, dict[int, bool]] = {unit.stream.prefix: {} for unit in self.units if unit.stream}
        for split_id in self.committed if found else ():
            prefix, number, last = stream_of(split_id)
            if prefix in found:
                found[prefix][number] = last
        return found

    def _done_of(self, stream: Stream) -> dict[int, bool]:
        return self._by_prefix[stream.prefix]

    @property
    def up_to_date(self) -> bool:
        """Whether the last snapshot already is what this run would publish."""
        return self.base is not None and not self.changed and not self.vanished

    @property
    def rows(self) -> int:
        """Rows to embed, estimated where a shard is not Parquet."""
        return sum(split.rows for split in self.todo_splits)

    @property
    def text_bytes(self) -> int:
        """Bytes of text to embed."""
        return sum(split.text_bytes for split in self.todo_splits)

    @property
    def estimated_tokens(self) -> int:
        """Tokens to compute: of longer rows only what is not cut off, of chunks also what they share."""
        inputs = self.card.fingerprint_inputs
        if inputs["overflow"] == "chunk":
            shared = float(inputs["chunk_overlap"] / inputs["chunk_tokens"])
            return round(self.text_bytes / _BYTES_PER_TOKEN / (1 - shared))
        limit = int(inputs["max_length"])
        per_split = (min(split.text_bytes / _BYTES_PER_TOKEN, split.rows * limit) for split in self.todo_splits)
        return round(sum(per_split))

    @cached_property
    def old(self) -> list[OldShard]:
        """The changed and vanished shards as the base snapshot has them."""
        if self.base is None:
            return []
        gone = {shard.uri for shard, _ in self.changed} | {record.uri for record in self.vanished}
        records = [record for record in self.base.shards if record.uri in gone or record.uri == KEPT]
        indexes, owned = self.base.indexes, _by_shard(r for r in self.base.receipts if r.owned)
        return [OldShard(r, tuple(indexes[r.uri] if r.uri in indexes else owned.get(r.uri, ()))) for r in records]

    @cached_property
    def unpublished(self) -> list[str]:
        """Split ids of data files that belong neither to the base snapshot nor to this plan: an interrupted run has
        paid for their vectors, or their rows have left the table. Not those that were old already when the base was
        published: a table that has been compacted for years has many."""
        if self.base is None:
            return []
        known = {receipt.split_id for receipt in self.base.receipts} | self.base.condemned | self.done.keys()
        since = moment(self.base.manifest.created_at).timestamp() - SWEEP_AFTER_S
        return sorted(s for s, info in self.committed.items() if s not in known and info.modified >= since)

    @property
    def changes_nothing(self) -> bool:
        """Whether the comparison found that all rows that are meant are in the table as they should be."""
        if self.difference is None or not self.config.select.by_rows:
            return False
        changes = self.difference.found.changes
        return not (changes.new or changes.changed or changes.copied)

    @property
    def has_to_compare(self) -> bool:
        """Whether rows of the changed shards may have a vector already, or documents have left the corpus."""
        if self.difference is not None or self.up_to_date:
            return False
        if self.config.select.by_rows:
            return True
        if self.base is None:
            return False
        return bool(self.old) or bool(self.changed and self.unpublished)

    @property
    def rows_to_compare(self) -> int:
        """Rows that a comparison reads, about, of the corpus and of the table."""
        return sum(survey.rows for survey in self.surveys) + sum(old.record.read for old in self.old)

    @property
    def bytes_to_compare(self) -> int:
        """Bytes of the corpus that a comparison reads, about."""
        return sum(survey.read_bytes for survey in self.surveys)

    def compare(self, executor: Executor) -> "EmbedPlan":
        """The plan once the changed shards are read and compared with what the table has of them.

        Raises TooManyDeletes, CorpusError, TableError.
        """
        base, select = self.base, self.config.select
        source = Source(
            corpus=self.config.corpus,
            columns=self.columns,
            table=self.store.root,
            table_storage=self.config.table.storage,
            schema=self.card.schema,
            fingerprint=self.card.fingerprint,
            rows=row_filter(select, self.columns, self._rejected_ids() if select.rejects else {}),
        )
        units, estimate = [], []
        for survey in self.surveys:
            pieces = cut(survey, UNIT_ROWS, UNIT_BYTES, ("scan",), frozenset())
            units += pieces
            estimate += [_estimate(unit) for unit in pieces]
        generation = self.config.table.generation
        unpublished = self._read_unpublished()
        receipts = base.receipts if base else []
        found = compare(executor, source, units, estimate, self.old, receipts, unpublished, generation)
        if select.by_rows:  # what is not meant is not gone
            found.changes = found.changes.model_copy(update={"deleted": 0})
        elif base is not None:
            check_deletes(
                found.changes.deleted,
                base.manifest.counts.embedded + base.manifest.counts.reused + base.manifest.counts.kept,
                self.config.table.delete,
                self.config.table.max_delete_share,
                self.store.root,
            )
        identity = _identity(self.config, self.card, self.row_recipe)
        condemned = base.condemned if base else frozenset[str]()
        difference = sort_out(found, self.limits, identity, condemned, whole_shards=not select.by_rows)
        own = [unit for unit in self.units if unit.shard.uri in difference.fresh]
        return dataclasses.replace(self, units=(*own, *difference.packed), difference=difference)

    def draft(self, run_id: str, receipts: Iterable[Receipt]) -> Draft:
        """What to publish once every split has a receipt, ``receipts`` in any order. Writes the indexes that it needs.

        Raises TableError, StorageError.
        """
        done = list(receipts)
        old = self.base.receipts if self.base else []
        indexes = self.base.indexes if self.base else {}
        carried_records = [*self.carried, *self._untouched]
        carried = {record.uri for record in carried_records}
        parts = {uri: its for uri, its in indexes.items() if uri in carried}
        counts: dict[str, tuple[int, int]] = {}
        if self.difference is not None:
            by_id = {receipt.split_id: receipt for receipt in done}
            self.difference.locate(self.store, self.card.schema, self.card.fingerprint, by_id)
            new_parts, counts = self.difference.write_indexes(
                next_number(self.base), run_id, self._stays(self.difference), self._rejects_that_stay(self.difference)
            )
            parts |= new_parts
        indexed = self.difference.indexed if self.difference else frozenset[str]()
        own = _by_shard(receipt for receipt in done if receipt.shard != NO_SHARD.uri)
        records = [
            self._record(shard, own.get(shard.uri, []), counts.get(shard.uri))
            for shard, _ in self.changed
            if shard.uri not in carried and (not self.config.select.by_rows or shard.uri in counts)
        ]
        kept = [self._kept(*counts[KEPT])] if KEPT in counts else []
        owners = frozenset(uri for uri in carried if uri not in parts)
        files = {r.split_id: dataclasses.replace(r, owned=r.owned and r.shard in owners) for r in old}
        known = frozenset(files)
        files |= {r.split_id: r for r in self._adopted()}
        owns = {r.split_id: r.shard != NO_SHARD.uri and r.shard not in indexed for r in done}
        files |= {r.split_id: dataclasses.replace(r, owned=owns[r.split_id]) for r in done}
        return Draft(
            run_id=run_id,
            generation=self.config.table.generation,
            row_recipe=self.row_recipe,
            receipts=sorted(files.values(), key=lambda r: (not r.owned, r.shard, r.start)),
            shards=[*sorted([*carried_records, *records], key=lambda s: s.uri), *kept],
            new=frozenset(r.split_id for r in files.values() if r.split_id not in known and not r.copied),
            indexes=parts,
            visited=frozenset(shard.uri for shard, _ in self.changed),
            changes=self.difference.found.changes if self.difference else None,
            operation="embed" if self.config.select.everything and not self.config.table.generation else "backfill",
            duplicate_ids=self.config.table.duplicate_ids,
            max_reject_share=self.config.run.max_reject_share,
        )

    def _adopted(self) -> list[Receipt]:
        """Receipts of the data files of interrupted runs whose vectors are used."""
        if self.difference is None:
            return []
        used = self.difference.used
        return [receipt for receipt in self._read_unpublished() if receipt.split_id in used]

    def _read_unpublished(self) -> list[Receipt]:
        """Receipts of the data files of interrupted runs, but for those that are damaged, or swept meanwhile."""

        def read(split_id: str) -> Receipt | None:
            with contextlib.suppress(TableError, ObjectNotFound):
                return dataclasses.replace(read_receipt(self.store, split_id), owned=False)
            return None

        return [receipt for receipt in in_parallel(read, self.unpublished, _PARALLEL_READS) if receipt]

    def sources(self) -> dict[str, Receipt]:
        """Receipts of all data files that a vector may be copied from, by split id."""
        old = self.base.receipts if self.base else []
        return {receipt.split_id: receipt for receipt in [*old, *self._read_unpublished()]}

    def _stays(self, difference: Difference) -> dict[str, NDArray[np.bool_]]:
        """Which documents that have left the corpus stay in the table, and as whose."""
        left = difference.found.left
        if self.config.select.by_rows:
            of = {number: old.record.uri for number, old in enumerate(self.old)}
            whose = {uri for uri in of.values() if uri in difference.indexed or uri == KEPT}
            return {uri: left["shard"] == number for number, uri in of.items() if uri in whose}
        if self.config.table.delete == "keep":
            return {KEPT: np.ones(len(left), bool)}
        kept = [number for number, old in enumerate(self.old) if old.record.uri == KEPT]
        return {} if self.config.select.everything or not kept else {KEPT: left["shard"] == kept[0]}

    @property
    def _untouched(self) -> list[ShardRecord]:
        """Records of shards that were read, and none of whose rows is meant: they stay as they are."""
        if self.difference is None or not self.config.select.by_rows:
            return []
        return [
            old.record for old in self.old if old.record.uri not in self.difference.indexed and old.record.uri != KEPT
        ]

    @cached_property
    def _base_rejects(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.base.rejects().to_pylist() if self.base else []
        return rows

    def _rejected_ids(self) -> dict[str, frozenset[str]]:
        """Ids, as text, of the documents that the base snapshot has rejected after they had been read, by shard."""
        found: dict[str, set[str]] = {}
        for row in self._base_rejects:
            if row["reason"] in names.AFTER_READING:
                found.setdefault(row["shard"], set()).add(row[names.ID])
        return {uri: frozenset(ids) for uri, ids in found.items()}

    def _rejects_that_stay(self, difference: Difference) -> dict[str, pa.Table]:
        """Of shards some of whose rows are meant, as index rows: the rejects of the base snapshot that are none of
        them."""
        if not self.config.select.by_rows:
            return {}
        chosen = difference.chosen_places()
        found: dict[str, list[dict[str, Any]]] = {}
        for row in self._base_rejects:
            again = row["shard"], row["position"]
            if row["shard"] in difference.indexed and row["reason"] != "duplicate_id" and again not in chosen:
                found.setdefault(row["shard"], []).append(row)
        none = np.empty(0, np.int64)
        return {
            uri: index_table(
                names.INDEX_SCHEMA.empty_table(), pa.array([], pa.string()), none, none.astype(np.int32),
                pa.Table.from_pylist(rows, schema=names.REJECTS_SCHEMA),
            )
            for uri, rows in found.items()
        }  # fmt: skip

    def _record(self, shard: Shard, own: Sequence[Receipt], counts: tuple[int, int] | None) -> ShardRecord:
        read, rejected = counts or (sum(r.read for r in own), sum(r.rejected for r in own))
        if self.config.select.by_rows:
            # A version that no shard has: the next night reads all of it. A known one stays what it was.
            known = {old.record.uri: old.record for old in self.old}
            record = known.get(shard.uri, ShardRecord(shard.uri, "", shard.size, digest(self.row_recipe), "", 0, 0))
            retried = self.config.table.generation if self.config.select.rejects else record.retried
            return dataclasses.replace(record, read=read, splits=0, rejected=rejected, retried=retried)
        return ShardRecord(
            uri=shard.uri,
            version=shard.version,
            size=shard.size,
            recipe=digest(self.row_recipe),
            generation=self.config.table.generation,
            read=read,
            splits=0 if counts else len(own),
            rejected=rejected,
        )

    def _kept(self, rows: int, rejected: int) -> ShardRecord:
        return ShardRecord(KEPT, "", 0, digest(self.row_recipe), "", rows, 0, rejected)

    def __repr__(self) -> str:
        if self.up_to_date:
            return f"<EmbedPlan {self.store.root}: up to date, nothing to do>"
        return (
            f"<EmbedPlan {self.store.root}: {len(self.splits):,} splits, {len(self.todo_splits):,} to embed, "
            f"~{self.rows:,} rows, ~{self.estimated_tokens:,} tokens>"
        )

    def describe(self) -> str:
        """Several lines for a person."""
        about = "" if self.difference or all(rows is not None for _, rows in self.changed) else "~"
        more = "~" if any(unit.stream for unit in self.units) else ""
        lines = [
            f"table     {self.store.root}" + (f" ({self.base.brief()})" if self.base else " (no snapshot yet)"),
            f"corpus    {len(self.carried) + len(self.changed):,} shards, {len(self.carried):,} of them unchanged"
            + (f", {len(self.vanished):,} vanished" if self.vanished else ""),
            *([f"rows      {tell_changes(self.difference.found.changes)}"] if self.difference else []),
            f"splits    {more}{len(self.splits):,} in the changed shards, {len(self.done):,} done, "
            f"{more}{len(self.todo_splits):,} to embed",
            f"to embed  {about}{self.rows:,} rows, {self.text_bytes / 1e6:,.1f} MB of text, "
            f"~{self.estimated_tokens:,} tokens",
            f"model     {self.config.model.path}, {self.config.model.compute_dtype} on {self.config.model.device}, "
            f"fingerprint {self.card.fingerprint[:12]}",
        ]
        if self.has_to_compare:
            lines.append(
                "at most: how many of these rows have a vector already is found by reading them (plan --compare, embed)"
            )
        if self.up_to_date:
            lines.append("up to date: nothing to do")
        elif not self.todo_splits:
            lines.append("every split is done; the run would only publish a snapshot")
        return "\n".join(lines)

    def to_arrow(self) -> pa.Table:
        """The splits as a table, one row each: what is frozen in plan.parquet."""
        columns = [field.name for field in dataclasses.fields(Split)]
        done = [split.split_id in self.done for split in self.splits]
        table = pa.table({name: [getattr(split, name) for split in self.splits] for name in columns})
        return table.append_column("committed", pa.array(done, pa.bool_()))


def _splits_of(unit: ReadUnit) -> Iterable[Split]:
    """The unit's splits; of a stream those that its size lets expect, at least one, but for those that are done."""
    stream, shard = unit.stream, unit.shard
    if stream is None:
        return unit.splits
    expected = stream.expected_splits()
    done = frozenset(stream.done)
    numbers = [number for number in range(expected) if number not in done] or [len(done)]
    return [
        Split(
            split_id=stream.split_id(number, last=False),
            shard=shard.uri,
            version=shard.version,
            start=number,
            end=number + 1,
            rows=-(-stream.rows // expected),
            text_bytes=stream.text_bytes // expected,
        )
        for number in numbers
    ]


def tell_changes(changes: Changes) -> str:
    """`3 new, 10 changed, 5 deleted, 982 unchanged`."""
    told = {
        "new": changes.new,
        "changed": changes.changed,
        "with other carried columns": changes.copied,
        "deleted": changes.deleted,
        "unchanged": changes.unchanged,
    }
    return ", ".join(f"{number:,} {what}" for what, number in told.items() if number or "carried" not in what)


def _by_shard(receipts: Iterable[Receipt]) -> dict[str, list[Receipt]]:
    grouped: dict[str, list[Receipt]] = {}
    for receipt in sorted(receipts, key=lambda r: (r.shard, r.start)):
        grouped.setdefault(receipt.shard, []).append(receipt)
    return grouped


def _estimate(unit: ReadUnit) -> tuple[int, int]:
    """Rows and bytes of text."""
    if unit.stream:
        return unit.stream.rows, unit.stream.text_bytes
    return sum(split.rows for split in unit.splits), sum(split.text_bytes for split in unit.splits)


def _identity(config: Config, card: TableCard, row_recipe: dict[str, Any]) -> tuple[str, ...]:
    """What names a split beside its place in a shard."""
    return digest(row_recipe), card.fingerprint, config.table.generation


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
    limits = _limits_of_a_split(config.run, card)
    identity = _identity(config, card, row_recipe)
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


def make_row_recipe(corpus: CorpusSettings) -> dict[str, Any]:
    """What decides which rows and columns come out of a shard."""
    recipe = {"id": corpus.id, "text": corpus.text, "carry": list(corpus.carry)}
    # Only where they are not the default: a setting that is added later must not make all shards count as changed.
    reading = {"format": corpus.format, "delimiter": corpus.delimiter, "quote": corpus.quote}
    usual = CorpusSettings(path="-").model_dump()
    return recipe | {key: value for key, value in reading.items() if value != usual[key]}


def make_card(config: Config, columns: Columns) -> TableCard:
    """The card of the table that this config makes. Reads the model's small files and the hashes of its weights."""
    inputs = model_inputs(config.model, config.table.vector_dtype)
    chunks = config.model.overflow == "chunk"
    schema = names.table_schema(columns.id_type, inputs["dim"], config.table.vector_dtype, columns.carry, chunks=chunks)
    return TableCard.make(schema, digest(inputs), inputs, config.model.model_dump(mode="json"))


def model_inputs(settings: ModelSettings, vector_dtype: str) -> dict[str, Any]:
    """What the fingerprint is made of, read from the model as it is now."""
    folder = model.locate(settings, weights=False)
    recipe = model.read_recipe(folder, settings)
    tokenizer = Tokenizer.load(recipe, special_tokens_in_text=settings.special_tokens_in_text)
    for side in (DOCUMENT, QUERY):
        try:
            tokenizer.encode([], resolve(recipe.prompts, side))
        except ConfigError as error:
            raise ConfigError(f"model.prompts.{side}: {error}") from None
    if settings.overflow == "chunk":
        tokenizer.chunk([], resolve(recipe.prompts, DOCUMENT), settings.chunk_tokens, settings.chunk_overlap)
    hashes = model.weight_hashes(settings, folder)
    return model.fingerprint_inputs(settings, recipe, tokenizer.golden_ids(), hashes, vector_dtype)


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


def _limits_of_a_split(run: RunSettings, card: TableCard) -> Limits:
    """Rows and bytes of text that a split holds at most, so that its vectors stay within what they may take.

    With chunks the bytes of text decide how many vectors there are.
    """
    vectors = max(1, run.vector_bytes_per_split // _vector_bytes(card.schema))
    inputs = card.fingerprint_inputs
    size = run.bytes_per_split
    if inputs["overflow"] == "chunk":
        new_tokens = inputs["chunk_tokens"] - inputs["chunk_overlap"]
        size = min(size, int(vectors * new_tokens * _BYTES_PER_TOKEN))
    return Limits(min(run.rows_per_split, vectors), size, run.min_splits)


def _vector_bytes(schema: pa.Schema) -> int:
    vector = schema.field(names.EMBEDDING).type
    return int(vector.list_size * vector.value_type.bit_width // 8)

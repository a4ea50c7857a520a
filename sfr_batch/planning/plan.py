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
from numpy.typing import NDArray

from sfr_batch.config.settings import Config
from sfr_batch.corpus.columns import Columns
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.splits import ReadUnit, Split, Stream, cut
from sfr_batch.corpus.survey import ShardStatistics
from sfr_batch.errors import ObjectNotFound, TableError
from sfr_batch.format import names
from sfr_batch.format.fingerprint import digest
from sfr_batch.format.history import moment
from sfr_batch.format.indexes import index_table
from sfr_batch.format.parquet import read_receipt
from sfr_batch.format.records import KEPT, PACKED, ChangeCounts, Receipt, ShardRecord, TableCard
from sfr_batch.format.split_ids import missing_in_stream, stream_of
from sfr_batch.planning.comparison import UNIT_BYTES, UNIT_ROWS, OldShard, compare
from sfr_batch.planning.difference import Difference, Limits, assign_work, check_deletes
from sfr_batch.planning.executor import Executor
from sfr_batch.planning.limits import BYTES_PER_TOKEN, split_identity
from sfr_batch.planning.scan import Source
from sfr_batch.planning.selection import row_filter
from sfr_batch.storage.parallel import in_parallel
from sfr_batch.storage.store import ObjectInfo, Store
from sfr_batch.table.commit.draft import Draft
from sfr_batch.table.commit.publish import next_number
from sfr_batch.table.commit.sweep import SWEEP_AFTER_S
from sfr_batch.table.table import Snapshot

_PARALLEL_READS = 32


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
    surveys: tuple[ShardStatistics, ...] = field(repr=False)
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
            return round(self.text_bytes / BYTES_PER_TOKEN / (1 - shared))
        limit = int(inputs["max_length"])
        per_split = (min(split.text_bytes / BYTES_PER_TOKEN, split.rows * limit) for split in self.todo_splits)
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
        identity = split_identity(self.config, self.card, self.row_recipe)
        condemned = base.condemned if base else frozenset[str]()
        difference = assign_work(found, self.limits, identity, condemned, whole_shards=not select.by_rows)
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
        own = _by_shard(receipt for receipt in done if receipt.shard != PACKED)
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
        owns = {r.split_id: r.shard != PACKED and r.shard not in indexed for r in done}
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
            *([f"rows      {format_changes(self.difference.found.changes)}"] if self.difference else []),
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


def format_changes(changes: ChangeCounts) -> str:
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

"""The plan: what a run would do, as a value that can be printed. Writes nothing; needs no GPU, no Ray and no torch.

It compares today's corpus with the newest snapshot. A shard that has the same version, row recipe and generation is
carried over unread; other shards are cut into splits, and splits whose data file exists are done. The rest is work: an
upper bound until `comparison.compare` has read the changed shards. `make` builds plans, `drafting` makes drafts of
snapshots.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa

from sfr_batch.config.settings import Config
from sfr_batch.corpus.columns import Columns
from sfr_batch.corpus.listing import PassedOver
from sfr_batch.corpus.packs import are_many_small
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.splits import ReadUnit, Split, splits_of
from sfr_batch.corpus.survey import ShardStatistics
from sfr_batch.errors import counted
from sfr_batch.format import names
from sfr_batch.format.expired import REPAIR
from sfr_batch.format.fingerprint import later_inputs
from sfr_batch.format.layout import Layout
from sfr_batch.format.notebook import html_table
from sfr_batch.format.records import KEPT, DuplicateRule, IndexPart, Receipt, ShardRecord, TableCard
from sfr_batch.format.store_times import published_at
from sfr_batch.planning import remarks
from sfr_batch.planning.carried_columns import ColumnChanges, describe_copies, most_copies, next_layout
from sfr_batch.planning.committed_splits import CommittedSplits, as_table
from sfr_batch.planning.difference import Difference
from sfr_batch.planning.limits import SplitLimits, estimate_tokens, split_identity, vector_bytes
from sfr_batch.planning.reasons import reasons_since
from sfr_batch.planning.recipes import Reread, ShardRecipes
from sfr_batch.planning.repairing import Repairing
from sfr_batch.planning.scan import OldShard, by_shard
from sfr_batch.planning.selection import Selection, selection_of
from sfr_batch.storage.locations import is_s3
from sfr_batch.storage.store import ObjectInfo, Store
from sfr_batch.storage.versions import is_by_time
from sfr_batch.table.commit.damage import Lost, tell
from sfr_batch.table.commit.remains import Remains
from sfr_batch.table.commit.sweep import SWEEP_AFTER_S
from sfr_batch.table.table import Snapshot, Table


@dataclass(frozen=True)
class EmbedPlan:
    """What a run has to do to make the table what the config says."""

    config: Config
    card: TableCard
    store: Store
    columns: Columns
    layout: Layout
    """The columns of the next snapshot, and what its row hashes cover."""
    recipes: ShardRecipes
    base: Snapshot | None
    """The newest snapshot; None if nothing is published yet."""
    carried: tuple[ShardRecord, ...]
    """Shards of the base snapshot that the next one takes over as they are."""
    changed: tuple[tuple[Shard, int | None], ...]
    """All other shards, with their number of rows if it is known without reading."""
    vanished: tuple[ShardRecord, ...]
    """Shards of the base snapshot that leave the table, because they are no longer in the corpus."""
    staying: tuple[ShardRecord, ...]
    """Shards of the base snapshot that are no longer in the corpus and stay in the table."""
    units: tuple[ReadUnit, ...]
    """All splits of the changed shards; after the comparison those of rows that need a vector."""
    committed: Mapping[str, ObjectInfo]
    """Data files on storage when the plan was made, by split id."""
    surveys: tuple[ShardStatistics, ...] = field(repr=False)
    """Statistics of the changed shards."""
    limits: SplitLimits
    inputs: Mapping[str, Any] = field(repr=False)
    """The inputs of the fingerprint as the model and the settings have them today; ``card`` has those that the table
    was made with."""
    accepted: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Inputs that the table's card lacks and that were accepted since."""
    passed_over: PassedOver = field(default=PassedOver(), repr=False)
    """Files below corpus.path that are no shards."""
    newly_read: tuple[str, ...] = field(default=(), repr=False)
    """URIs of shards that the release that made the base snapshot passed over without a word."""
    difference: Difference | None = field(default=None, repr=False)
    """The result of the comparison; None before it, and if there is nothing to compare with."""

    lost: Lost = field(default_factory=dict, repr=False)
    """Files of the base snapshot that are missing or of another size: `sfr-batch repair` is due."""
    column_changes: ColumnChanges | None = None
    """The carried columns against those of the base snapshot; None if they are the same."""
    recolumned: tuple[ShardRecord, ...] = ()
    """Records of the changed shards of which nothing but carried columns has changed."""
    lender: Snapshot | None = field(default=None, repr=False)
    """The snapshot of another table that lends vectors, see `lending`."""
    continues: str = ""
    """Id of an unfinished run with whose version of a table as the corpus the plan goes on, see `pinning`."""
    reread: tuple[Reread, ...] = ()
    """Why some of the changed shards are read although they are as they were."""

    @property
    def row_recipe(self) -> dict[str, Any]:
        """The settings that decide which rows and columns a shard gives."""
        return self.recipes.settings

    def identity_of(self, shards: Iterable[Shard]) -> tuple[str, ...]:
        """What the name of a split depends on whose rows are from these shards, beside its rows."""
        return split_identity(self.config, self.card, self.recipes.of_several(shards), self.layout)

    @property
    def later_inputs(self) -> dict[str, Any]:
        """Inputs that the table's card lacks, because an older release has made it: as they were accepted, else as
        they are today."""
        return {**later_inputs(self.card.fingerprint_inputs, self.inputs), **self.accepted}

    @property
    def accepts(self) -> bool:
        """Whether some of `later_inputs` are yet to be accepted."""
        return self.later_inputs.keys() != self.accepted.keys()

    @property
    def corpus_version(self) -> dict[str, Any] | None:
        """Path, format and version of the table that is read; None for a corpus of files."""
        corpus = self.config.corpus
        return {"path": corpus.path, "format": corpus.format, "version": corpus.version} if corpus.is_table else None

    @cached_property
    def selection(self) -> Selection:
        """The part of the corpus that the run is about."""
        if isinstance(self.base, Remains):
            return Repairing(self.config.select, self.config.table, self.base)
        return selection_of(self.config)

    @cached_property
    def splits(self) -> list[Split]:
        """All splits of ``units``. A stream is cut as it is read: of it, the expected number of splits."""
        return [split for unit in self.units for split in splits_of(unit)]

    @cached_property
    def packs(self) -> int:
        """Packs of small shards among the units, see `corpus.packs`."""
        return sum(bool(unit.whole) for unit in self.units)

    @cached_property
    def _splits_there(self) -> CommittedSplits:
        return CommittedSplits(self.units, self.committed)

    @property
    def todo(self) -> list[ReadUnit]:
        """The read units, each with only the splits that have no data file yet."""
        return self._splits_there.todo

    @cached_property
    def todo_splits(self) -> list[Split]:
        """Splits without a data file that need the model; of a stream, the expected number."""
        known = {record.uri for record in self.recolumned} if self.difference is None else ()
        return [split for unit in self.todo if unit.shard.uri not in known for split in splits_of(unit)]

    @property
    def done(self) -> dict[str, ObjectInfo]:
        """The existing data files of this plan's splits, by split id."""
        return self._splits_there.done

    def missing(self, finished: Iterable[str]) -> int:
        """The splits that are missing once those with the ids ``finished`` are done; of streams a lower bound."""
        return self._splits_there.missing(finished)

    @property
    def up_to_date(self) -> bool:
        """Whether the base snapshot already is what this run would publish."""
        return not (self.base is None or self.changed or self.vanished or self._republished)

    @property
    def _republished(self) -> bool:
        """Whether the next snapshot differs from the base even if it has the same shards."""
        return self.rule_changed or self.column_changes is not None or self.remains is not None

    @property
    def remains(self) -> Remains | None:
        """What the plan of a repair is built upon; None for any other plan."""
        return self.base if isinstance(self.base, Remains) else None

    def is_for(self, table: Table) -> bool:
        """Whether the plan was made for this table, rather than before another run created it otherwise."""
        id_types = [schema.field(names.ID).type for schema in (table.card.schema, self.card.schema)]
        same = table.card.fingerprint == self.card.fingerprint and id_types[0].equals(id_types[1])
        return same and next_layout(table, self.base, self.card).covers == self.layout.covers

    @property
    def states_layout(self) -> bool:
        """Whether the columns stand in the manifest, not in the table's card and its records of types."""
        return bool(self.layout.covers) or (self.base is not None and self.base.manifest.layout is not None)

    @property
    def duplicate_rule(self) -> DuplicateRule | None:
        """Which row of an id is to be live; None: the first, or the rows are numbered, so that none repeats an id."""
        table = self.config.table
        last = table.duplicate_ids == "last" and self.config.corpus.id is not None
        return DuplicateRule(order_by=table.order_by) if last else None

    @property
    def rule_changed(self) -> bool:
        """Whether the base snapshot was published under another rule."""
        return self.base is not None and self.base.manifest.duplicate_rule != self.duplicate_rule

    @property
    def settles_ids(self) -> bool:
        """Whether it has to be decided, before anything is embedded, which rows count of those that share an id."""
        return self.rule_changed or bool(self.duplicate_rule and (self.changed or self.vanished))

    @property
    def rows(self) -> int:
        """Rows to embed; estimated for shards that are not Parquet."""
        return sum(split.rows for split in self.todo_splits)

    @property
    def rows_are_exact(self) -> bool:
        """Whether `rows` is no estimate: of shards that a comparison leaves whole it is what it was before."""
        indexed = self.difference.indexed if self.difference else frozenset[str]()
        return all(rows is not None for shard, rows in self.changed if shard.uri not in indexed)

    @property
    def text_bytes(self) -> int:
        """Bytes of text to embed."""
        return sum(split.text_bytes for split in self.todo_splits)

    @property
    def estimated_tokens(self) -> int:
        """Tokens to compute, without what is truncated, and with the tokens that chunks share."""
        return estimate_tokens(self.todo_splits, self.card)

    # --- what the comparison starts from

    @property
    def base_receipts(self) -> Sequence[Receipt]:
        """Receipts of the data files of the base snapshot."""
        return self.base.read_receipts() if self.base else []

    @property
    def base_indexes(self) -> Mapping[str, list[IndexPart]]:
        """The indexes of the base snapshot, by the URI of the shard."""
        return self.base.read_indexes() if self.base else {}

    @cached_property
    def old(self) -> list[OldShard]:
        """The changed shards and those that the corpus no longer has, and the kept documents, in the base snapshot."""
        gone = (record.uri for record in (*self.vanished, *self.staying))
        return self.shards_of([*(shard.uri for shard, _ in self.changed), *gone, KEPT])

    def shards_of(self, wanted: Iterable[str]) -> list[OldShard]:
        """Shards of the base snapshot by URI, with what lists their documents."""
        if self.base is None:
            return []
        uris = frozenset(wanted)
        indexes, owned = self.base_indexes, by_shard(r for r in self.base_receipts if r.owned)
        return [
            OldShard(record, tuple(indexes[record.uri] if record.uri in indexes else owned.get(record.uri, ())))
            for record in self.base.read_shards()
            if record.uri in uris
        ]

    @property
    def old_records(self) -> list[ShardRecord]:
        """The records of `old`, in the same order."""
        return [shard.record for shard in self.old]

    @cached_property
    def unpublished(self) -> list[str]:
        """Split ids of data files that belong neither to the base snapshot nor to this plan.

        An interrupted run has written them, or their rows have left the table. Files that were already old when the
        base was published are left out: a table that has been compacted for years has many. Without a base: those of
        shards that had another version, or were read or cut otherwise.
        """
        if self.base is None:
            return sorted(self.committed.keys() - self.done.keys())
        if isinstance(self.base, Remains):
            return sorted(self.base.inventory.searched)
        known = {*self.base.split_ids(), *self.base.read_condemned(), *self.done}
        since = published_at(self.store)[self.base.number] - SWEEP_AFTER_S
        return sorted(s for s, info in self.committed.items() if s not in known and info.modified >= since)

    @property
    def has_to_compare(self) -> bool:
        """Whether the changed shards have to be read before anything is embedded."""
        return self.difference is None and not self.up_to_date and (self.compares_rows or self.settles_ids)

    @property
    def compares_rows(self) -> bool:
        """Whether rows of the changed shards may have a vector already, or documents have left the corpus."""
        if self.packs:  # no row has a vector, or so few that they are embedded anew, see `make`
            return False
        waiting = any(shard.uri not in self.begun for shard, _ in self.changed)
        many = self.base is not None and are_many_small(self.surveys, self.limits.rows_of)  # compared rows share splits
        found = waiting and (self.unpublished or self.lender or many)
        return self.selection.always_compares or bool(self.old) or bool(found)

    @cached_property
    def begun(self) -> frozenset[str]:
        """URIs of the shards of which an interrupted first run has done splits of this plan. They go on with these, and
        are not compared with its other data files."""
        if self.base is not None or self.difference is not None or self.selection.always_compares:
            return frozenset()
        return frozenset(self._splits_there.begun)

    @property
    def changes_nothing(self) -> bool:
        """Whether the comparison has found every selected row up to date in the table."""
        return bool(self.difference and self.difference.changes and self.selection.is_done(self.difference.changes))

    @property
    def rows_to_compare(self) -> int:
        """Rows of the corpus and of the table that the comparison reads; an estimate."""
        return sum(survey.rows for survey in self.surveys) + sum(record.read for record in self.old_records)

    @property
    def bytes_to_compare(self) -> int:
        """Bytes of the corpus that the comparison reads; an estimate."""
        return sum(survey.read_bytes for survey in self.surveys)

    @cached_property
    def reasons(self) -> list[str]:
        """Settings that differ from those that the base snapshot was read with, a sentence each."""
        if self.base is None or not self.changed:
            return []
        today = [*(record.uri for record in self.carried), *(shard.uri for shard, _ in self.changed)]
        return reasons_since(self.base, self.row_recipe, today, self.config.corpus)

    @cached_property
    def _touched(self) -> list[str]:
        """URIs of the shards that are read for their ctime alone."""
        return [shard.uri for shard, _ in self.changed if shard.touched]

    @cached_property
    def _by_time(self) -> list[str]:
        """URIs of the shards on S3 whose versions are no ETags."""
        shards: list[ShardRecord | Shard] = [*self.carried, *(shard for shard, _ in self.changed)]
        return [shard.uri for shard in shards if is_s3(shard.uri) and is_by_time(shard.version)]

    # --- for people

    def __repr__(self) -> str:
        if self.lost:
            return f"<EmbedPlan {self.store.root}: damaged, {counted(len(self.lost), 'file')} lost>"
        if self.up_to_date:
            return f"<EmbedPlan {self.store.root}: up to date, nothing to do>"
        return (
            f"<EmbedPlan {self.store.root}: {counted(len(self.splits), 'split')}, {len(self.todo_splits):,} to embed, "
            f"~{counted(self.rows, 'row')}, ~{counted(self.estimated_tokens, 'token')}>"
        )

    def _repr_html_(self) -> str:
        title = "; ".join([f"Plan for {self.store.root}", *self.notes()])
        return html_table([(label, text) for label, text in self._details() if text], title=title)

    def describe(self, more: Sequence[str] = ()) -> str:
        """Several lines for a person. more: lines of others, such as the price, before the remarks."""
        lines = [f"{label:10}{text}" for label, text in self._details() if text]
        return "\n".join([*lines, *more, *self.notes()])

    def _details(self) -> list[tuple[str, str]]:
        """(label, text) in reading order; a text that is empty is not shown."""
        more = "~" if any(unit.stream for unit in self.units) else ""
        changes = self.difference.changes if self.difference else None
        return [
            ("table", f"{self.store.root} ({self.base.brief() if self.base else 'no snapshot yet'})"),
            ("corpus", self._describe_shards()),
            ("not read", self.passed_over.describe()),
            ("columns", self.column_changes.describe() if self.column_changes else ""),
            ("rows", remarks.format_changes(changes, keeps=self.config.table.delete == "keep") if changes else ""),
            (
                "splits",
                f"{more}{len(self.splits):,} in the changed shards, {len(self.done):,} done, "
                f"{more}{len(self.todo_splits):,} to embed",
            ),
            (
                "to embed",
                f"{'' if self.rows_are_exact else '~'}{counted(self.rows, 'row')}, "
                f"{self.text_bytes / 1e6:,.1f} MB of text, ~{counted(self.estimated_tokens, 'token')}",
            ),
            ("to copy", self._describe_copies()),
            (
                "model",
                f"{self.config.model.path}, {self.config.model.compute_dtype} on {self.config.model.device}, "
                f"fingerprint {self.card.fingerprint[:12]}",
            ),
        ]

    def _describe_shards(self) -> str:
        vanished = f", {len(self.vanished):,} vanished" if self.vanished else ""
        of = f" of version {self.config.corpus.version} of {self.config.corpus.path}" if self.corpus_version else ""
        packed = remarks.packed(sum(len(unit.whole) for unit in self.units), self.packs)
        return (
            f"{counted(len(self.carried) + len(self.changed), 'shard')}, {len(self.carried):,} unchanged"
            f"{vanished}{packed}{of}"
        )

    @cached_property
    def vectors_to_copy(self) -> int:
        """Vectors that are copied because only carried columns have changed, before the comparison at most; after it
        also those of another table."""
        if self.difference is not None:
            return self.difference.copied_vectors
        changes = self.column_changes
        return most_copies(self.base, self.recolumned) if self.base and changes and changes.copies else 0

    def _describe_copies(self) -> str:
        size = self.vectors_to_copy * vector_bytes(self.card.schema)
        return describe_copies(self.vectors_to_copy, size, exact=self.difference is not None)

    def notes(self) -> list[str]:
        """Sentences on what is unusual, or costs."""
        said = [*self.reasons, *(reread.describe() for reread in self.reread)]
        if self.lost:
            said.append(f"damaged, `embed` refuses: {tell(self.lost)}. {REPAIR}")
        if self._touched:
            said.append(remarks.touched(self._touched))
        if self._by_time:
            said.append(remarks.by_time(self._by_time))
        if self.continues:
            said.append(f"goes on with the version that the unfinished run {self.continues} has read")
        if self.settles_ids and self.difference is None:
            exact = all(rows is not None for _, rows in self.changed)
            said.append(remarks.ids_first(self.duplicate_rule, self.surveys, self.carried, exact=exact))
        if self.base is None and self.unpublished and (self.packs or self.has_to_compare):
            said.append(remarks.unpublished(len(self.unpublished), packs=bool(self.packs)))
        if self.difference and self.difference.taken:
            said.append(remarks.taken(self.difference.taken, first=self.base is None))
        if self.lender and (self.difference or self.has_to_compare):
            said.append(remarks.lender(self.lender, self.difference))
        if self.has_to_compare and self.compares_rows:
            said.append(
                "upper bound: `plan --compare` reads the changed shards and counts rows that already have vectors"
            )
        if self.newly_read:
            said.append(remarks.newly_read(self.newly_read))
        if self.accepts:
            said.append(remarks.accepts(self.later_inputs))
        if self.up_to_date:
            if not self.lost:
                said.append("up to date: nothing to do")
        elif not self.todo_splits and not self.vectors_to_copy:
            said.append("every split is done; the run would only publish a snapshot")
        return said

    def to_arrow(self) -> pa.Table:
        """The splits as a table, one row each: the content of plan.parquet."""
        return as_table(self.splits, self.done)

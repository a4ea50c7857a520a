"""Public functions: `plan`, `embed`, `verify`, `audit`, `open_table`, `promote`. A config is an object or a file."""

import os
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sfr_batch.config.loading import config_from_dict, load_config
from sfr_batch.config.settings import Config, ModelSettings, StorageSettings
from sfr_batch.errors import ConfigError, TableMismatch, TableNotFound
from sfr_batch.format import names
from sfr_batch.format.fingerprint import differences
from sfr_batch.format.records import TableCard
from sfr_batch.model.prompts import QUERY
from sfr_batch.planning.card import model_inputs
from sfr_batch.planning.executor import InProcess
from sfr_batch.planning.make import make_plan
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.storage.store import Store, absolute_uri
from sfr_batch.storage.stores import open_store
from sfr_batch.table import pointer as pointers
from sfr_batch.table.changes import Changes, changes
from sfr_batch.table.commit.compaction import MAX_UNNEEDED, ROWS_PER_FILE, Compaction, compact
from sfr_batch.table.commit.expiry import Expiry, expire
from sfr_batch.table.pointer import Pointed
from sfr_batch.table.search import Hit, top_k
from sfr_batch.table.table import Snapshot, Table

if TYPE_CHECKING:
    from sfr_batch.checks.audit.report import AuditReport, Finding
    from sfr_batch.checks.report import CheckResult
    from sfr_batch.checks.verify.report import VerifyReport
    from sfr_batch.encoder.encoder import Encoder
    from sfr_batch.pipeline.summary import Summary

ConfigOrPath = Config | str | os.PathLike[str]


def plan(config: ConfigOrPath, overrides: Sequence[str] = (), *, compare: bool = False) -> EmbedPlan:
    """What `embed` would do. Touches nothing.

    compare: whether to read the changed shards, in this process, and find which of their rows have a vector already;
    else the plan is an upper bound. Raises TooManyDeletes with it, as `embed` would.
    """
    made = make_plan(_load(config, overrides))
    return made.compare(InProcess()) if compare and made.has_to_compare else made


def verify(
    config: ConfigOrPath,
    overrides: Sequence[str] = (),
    *,
    golden: str | os.PathLike[str] | None = None,
    record: str | os.PathLike[str] | None = None,
    seconds: float = 5.0,
    each: "Callable[[CheckResult], None]" = lambda check: None,
) -> "VerifyReport":
    """The preflight of the config's model on this machine's device; needs no corpus, no table and no Ray.

    golden: a file of vectors to compare with. record: where to write one, if nothing failed. seconds: for measuring
    throughput, 0 leaves it out. each: is given every check as soon as it is done. Raises ConfigError; all else that is
    wrong is a failed check of the report.
    """
    from sfr_batch.checks.verify import preflight  # loads what planning can do without

    golden_file, record_file = (None if file is None else Path(file) for file in (golden, record))
    return preflight.verify(
        _load(config, overrides), golden_file=golden_file, record_file=record_file, seconds=seconds, each=each
    )


def embed(config: ConfigOrPath, overrides: Sequence[str] = ()) -> "Summary":
    """Make the table what the config says; do only what is missing."""
    from sfr_batch.pipeline import runner  # loads what planning can do without

    return runner.embed(_load(config, overrides))


def audit(
    path: str,
    against: ConfigOrPath | None = None,
    overrides: Sequence[str] = (),
    *,
    snapshot: int | None = None,
    storage: StorageSettings | None = None,
    each: "Callable[[Finding], None]" = lambda finding: None,
) -> "AuditReport":
    """Whether the table at ``path`` keeps its promises. Reads all of it, changes nothing; needs no model and no Ray.

    path: of the table, or of a pointer to it. against: a config whose corpus the table should hold; its table.path does
    not matter, its table.storage is used unless ``storage`` is given. snapshot: its number, default the newest, or what
    the pointer pins. each: is given every finding as soon as there is one. Raises TableNotFound, StorageError, and with
    ``against`` what planning raises.
    """
    from sfr_batch.checks.audit.auditor import audit  # loads what planning can do without

    config = None if against is None else _load(against, overrides)
    storage = storage or (config.table.storage if config else None)
    table = open_table(path, storage)
    snapshot = table.pinned if snapshot is None else snapshot
    if config is None:
        return audit(table, snapshot=snapshot, each=each)
    settings = config.table.model_copy(update={"path": table.store.root, "storage": storage})
    return audit(table, make_plan(config.model_copy(update={"table": settings})), snapshot, each=each)


def open_table(path: str, storage: StorageSettings | None = None, *, follow: bool = True) -> "EmbeddingTable":
    """The table at a local folder or an s3:// prefix, or the one that a pointer there points to. Raises TableNotFound.

    It stays at that table, also if the pointer moves on; open it again to follow. follow: whether a pointer will do;
    else it is a ConfigError.
    """
    store = open_store(path, storage)
    pointed = None
    try:
        table = Table.open(store)
    except TableNotFound:
        pointed = pointers.read_pointer(store)
        if pointed is None:
            raise
        if not follow:
            pointers.refuse_to_write(store)
        table = Table.open(open_store(pointed.table, storage))
    return EmbeddingTable(table.store, table.card, pointed)


def promote(
    pointer: str,
    table: str,
    *,
    snapshot: int | None = None,
    expect_current: str | None = None,
    storage: StorageSettings | None = None,
) -> Pointed:
    """Let a pointer, a folder or prefix of its own, point to a table from now on; made if there is none.

    Readers that open the pointer see the table before or this one, at once and whole. snapshot: the one to pin, default
    whatever is the newest when it is read. expect_current: the table that it must point to now, else PointerMoved is
    raised and nothing changes. Raises TableNotFound if nothing is published in the table.
    """
    store = open_store(pointer, storage)
    opened = open_table(table, storage, follow=False)
    expect = None if expect_current is None else absolute_uri(expect_current)
    return pointers.promote(store, opened, snapshot, expect=expect)


def promote_back(pointer: str, *, storage: StorageSettings | None = None) -> Pointed:
    """Let a pointer point to what it did before; again, and it is the one before that.

    Raises ConfigError if there is none, PointerMoved if somebody else moves it meanwhile.
    """
    return pointers.back(open_store(pointer, storage))


class EmbeddingTable(Table):
    """A table that can encode a query with the model it was made with."""

    def __init__(self, store: Store, card: TableCard, pointed: Pointed | None = None) -> None:
        super().__init__(store, card)
        self.pointed = pointed
        """By what pointer it was opened, if by one."""

    @property
    def pinned(self) -> int | None:
        """The snapshot that the pointer wants to be read."""
        return self.pointed.snapshot if self.pointed else None

    def current(self) -> Snapshot:
        """The newest snapshot, or the one that the pointer has pinned. Raises TableNotFound if there is none."""
        return super().current() if self.pinned is None else self.snapshot(self.pinned)

    @cached_property
    def encoder(self) -> "Encoder":
        """The table's model, loaded on first use on the CPU or GPU that the table's config named, if there is one.

        Raises TableMismatch if the model at that place is no longer the one that made the vectors.
        """
        from sfr_batch.encoder.devices import has_gpu  # imports torch, which planning can do without
        from sfr_batch.encoder.encoder import Encoder

        settings = ModelSettings.model_validate(self.card.model)
        made_with, here = self.card.fingerprint_inputs, model_inputs(settings, self.card.vector_dtype)
        if here != made_with:
            lines = "\n  ".join(differences(made_with, here))
            raise TableMismatch(f"The model at {settings.path} is not the one that made {self.store.root}:\n  {lines}")
        if settings.device == "cuda" and not has_gpu():
            settings = settings.model_copy(update={"device": "cpu", "dtype": settings.compute_dtype})
        return Encoder.load(settings, weight_hashes=made_with["weights"])

    def audit(self, against: EmbedPlan | None = None, snapshot: int | None = None) -> "AuditReport":
        """Whether the table keeps its promises, see `checks.audit`; against a plan of its corpus if there is one."""
        from sfr_batch.checks.audit.auditor import audit

        return audit(self, against, self.pinned if snapshot is None else snapshot)

    def expire(
        self,
        *,
        keep_last: int | None = None,
        keep_for: str | None = None,
        keep: Collection[int] = (),
        dry_run: bool = True,
    ) -> Expiry:
        """Remove old snapshots, see `sfr_batch.table.commit.expiry.expire`; by default only say what would go.

        Raises ConfigError if the table was opened by a pointer.
        """
        self._check_opened_by_name()
        return expire(self, keep_last=keep_last, keep_for=keep_for, keep=keep, dry_run=dry_run)

    def compact(
        self, *, rows_per_file: int = ROWS_PER_FILE, max_unneeded: float = MAX_UNNEEDED, dry_run: bool = True
    ) -> Compaction:
        """Make fewer data files of many small ones, see `table.commit.compaction`; by default only say which.

        Raises ConfigError if the table was opened by a pointer.
        """
        self._check_opened_by_name()
        return compact(self, rows_per_file=rows_per_file, max_unneeded=max_unneeded, dry_run=dry_run)

    def _check_opened_by_name(self) -> None:
        if self.pointed:
            raise pointers.no_place_to_write(self.pointed)

    def changes(self, from_snapshot: int, to_snapshot: int) -> Changes:
        """What to upsert and to delete to make of a copy of one snapshot the other, see `sfr_batch.table.changes`.

        from_snapshot: 0 for nothing at all. Raises TableNotFound if there is no such snapshot.
        """
        return changes(self, from_snapshot, to_snapshot)

    def search(self, query: str, k: int = 10, columns: Sequence[str] = (), *, snapshot: int | None = None) -> list[Hit]:
        """The ``k`` live rows nearest to ``query`` by cosine, best first, ties by id; exact, in bounded memory.

        columns: carried columns to return with each hit. Where documents are cut into chunks (`model.overflow:
        chunk`) each hit is one, its number and its span of the document's text are in ``Hit.row`` as ``chunk``,
        ``chunk_start`` and ``chunk_end``, and a document may be found several times. snapshot: its number, default the
        newest.
        """
        try:
            query.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"The query is not valid Unicode at character {error.start}; type it again.") from None
        searched = self.current() if snapshot is None else self.snapshot(snapshot)
        vector = self.encoder.encode([query], prompt=QUERY)
        chunk = [name for name in names.CHUNK_COLUMNS if name in self.schema.names]
        shown = list(dict.fromkeys([*chunk, *columns]))
        return top_k(searched.batches([names.ID, names.EMBEDDING, *shown]), vector, k, shown)[0]


def _load(config: ConfigOrPath, overrides: Sequence[str]) -> Config:
    if isinstance(config, Config):
        return config_from_dict(config.model_dump(), overrides) if overrides else config
    return load_config(config, overrides)

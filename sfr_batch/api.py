"""The public functions, and the table that `open_table` returns.

From arguments to the modules that do the work: a config is an object or a file, a path a table or a pointer to one.
What needs torch, Ray or planning is imported when it is called: tables are read without them.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfr_batch.config.loading import ConfigOrPath
from sfr_batch.config.loading import any_config as _load
from sfr_batch.config.overrides import Overrides
from sfr_batch.config.settings import Config, ModelSettings, StorageSettings
from sfr_batch.errors import ConfigError, TableMismatch, TableNotFound
from sfr_batch.evaluation.questions.askable import Askable
from sfr_batch.format.fingerprint import mismatches
from sfr_batch.format.records import TableCard
from sfr_batch.pipeline.watched import Watched
from sfr_batch.storage.executor import Executor
from sfr_batch.storage.locations import Location, absolute_uri
from sfr_batch.storage.store import Store
from sfr_batch.storage.stores import open_store
from sfr_batch.table import pointer as pointers
from sfr_batch.table.arguments import listed
from sfr_batch.table.changes import Changes, changes
from sfr_batch.table.choices import MAX_UNNEEDED, ROWS_PER_FILE
from sfr_batch.table.commit.compaction import Compaction
from sfr_batch.table.commit.expiry import Expiry
from sfr_batch.table.maintenance import Maintenance
from sfr_batch.table.nearest import FloatArray
from sfr_batch.table.pointer import PointerTarget
from sfr_batch.table.queries import check_texts, is_vectors, one_text, unit_vectors
from sfr_batch.table.search import Hits, Matches, Search
from sfr_batch.table.table import Snapshot, Table

if TYPE_CHECKING:
    from sfr_batch.checks.audit.report import AuditReport, Finding
    from sfr_batch.checks.report import CheckResult
    from sfr_batch.checks.verify.report import VerifyReport
    from sfr_batch.encoder.encoder import Encoder
    from sfr_batch.evaluation.mteb_adapter import MtebModel
    from sfr_batch.evaluation.report.report import Evaluation
    from sfr_batch.evaluation.results import TaskResult
    from sfr_batch.pipeline.price.price import Price
    from sfr_batch.pipeline.repair import Repair
    from sfr_batch.pipeline.summary import Summary
    from sfr_batch.planning.plan import EmbedPlan


def plan(config: "ConfigOrPath", overrides: "Overrides" = (), *, compare: bool = False, **settings: Any) -> "EmbedPlan":
    """What `embed` would do. Writes nothing; needs no GPU.

    overrides, settings: see `load_config`. compare: read the changed shards, in this process, to find rows that already
    have a vector; without it the plan is an upper bound. Raises ConfigError, CorpusError, ModelError, TableMismatch and
    StorageError; with compare also TooManyDeletes and TooManyChanges, as `embed` would.
    """
    from sfr_batch.planning import comparison
    from sfr_batch.planning.make import make_plan
    from sfr_batch.storage.executor import InProcess

    made = make_plan(_load(config, overrides, settings))
    compares = compare and made.has_to_compare and not made.lost  # what is lost, a comparison may need
    return comparison.compare(made, InProcess()).plan if compares else made


def price(
    config: "ConfigOrPath | EmbedPlan", overrides: "Overrides" = (), *, seconds: float = 6.0, **settings: Any
) -> "Price":
    """What `embed` would cost: tokens, hours and money, from splits that it tokenizes for so many ``seconds``.

    config: also what `plan` has returned. Writes nothing; needs no GPU. Raises what `plan` raises.
    """
    from sfr_batch.pipeline.price.price import EmbedPlan, find_price  # loads what planning can do without

    return find_price(config if isinstance(config, EmbedPlan) else plan(config, overrides, **settings), seconds)


def verify(
    config: "ConfigOrPath",
    overrides: "Overrides" = (),
    *,
    golden: str | os.PathLike[str] | None = None,
    record: str | os.PathLike[str] | None = None,
    seconds: float = 5.0,
    each: "Callable[[CheckResult], None] | None" = None,
    **settings: Any,
) -> "VerifyReport":
    """Check the config's model on the device of this machine. Needs no corpus, no table and no Ray.

    overrides, settings: see `load_config`. golden: file of vectors to compare with. record: new file to write such
    vectors to, if no check failed. seconds: how long to measure throughput; 0 skips it. each: is called with every
    check as soon as it is done. Raises ConfigError; every other problem is a failed check of the report.
    """
    from sfr_batch.encoder.libraries import load_libraries
    from sfr_batch.pipeline import notebook_display

    if notebook_display.in_notebook():
        notebook_display.ask_for_no_widgets()
    load_libraries()
    from sfr_batch.checks.verify import preflight

    golden_file, record_file = (None if file is None else Path(file) for file in (golden, record))
    loaded = _load(config, overrides, settings)
    return preflight.verify(
        loaded, golden_file=golden_file, record_file=record_file, seconds=seconds, each=each or _ignore
    )


def embed(config: "ConfigOrPath", overrides: "Overrides" = (), **settings: Any) -> "Summary":
    """Bring the table up to date with the corpus: embed what is missing and publish one snapshot. Safe to repeat.

    overrides, settings: see `load_config`; ``sfr.embed("job.yaml", {"corpus.path": "s3://…", "select.limit": 10})``.
    Raises RunFailed if splits failed (finished ones stay committed), TooManyDeletes, TooManyChanges, TooManyRejects,
    TooExpensive, TableInUse, SnapshotConflict, and what `plan` raises.
    """
    from sfr_batch.pipeline import notebook_display, runner  # loads what planning can do without

    with notebook_display.shown("planning"):
        return runner.embed(_load(config, overrides, settings))


def evaluate(
    config: "ConfigOrPath",
    overrides: "Overrides" = (),
    *,
    tasks: Sequence[str] = (),
    each: "Callable[[TaskResult], None] | None" = None,
    **settings: Any,
) -> "Evaluation":
    """Score the config's model in the tasks of `evaluation.tasks`, beside the scores of `evaluation.published`.

    Texts are embedded by the main job, as `embed` would, into tables below `evaluation.path`. Safe to repeat: what is
    there is not embedded again. overrides, settings: see `load_config`;
    ``sfr.evaluate("job.yaml", {"evaluation.tasks.SciFact": "data/scifact"})``. tasks: only these. each: is called with
    the result of each task as soon as it is there. Raises ConfigError, and CorpusError for wrong data, before a model
    is loaded, and what `embed` raises. Needs the extra: ``pip install 'sfr-batch[evaluation]'``.
    """
    from sfr_batch.evaluation.evaluate import evaluate  # loads what planning can do without
    from sfr_batch.pipeline import notebook_display

    with notebook_display.shown("reading the tasks"):
        return evaluate(_load(config, overrides, settings), listed("tasks", tasks), each or _ignore)


def repair(
    config: "ConfigOrPath",
    overrides: "Overrides" = (),
    *,
    write: bool = False,
    deep: bool = False,
    accept_loss: bool = False,
    **settings: Any,
) -> "Repair":
    """Have the rows of lost or damaged files of the config's table again. Reports what it would do unless ``write``.

    It embeds exactly these rows and publishes one snapshot, which condemns the lost files. overrides, settings: see
    `load_config`. deep: also read all files, to find flipped bits; else missing files and wrong sizes are found by
    listing. accept_loss: also if some documents cannot be had any more, because they have left the corpus. Raises
    TableError if there are such, ConfigError if the corpus is read with other settings than before, and what `embed`
    raises.
    """
    from sfr_batch.checks.audit.data_file import look_into_data_file  # loads what planning can do without
    from sfr_batch.pipeline import notebook_display
    from sfr_batch.pipeline import repair as repairing

    look = look_into_data_file if deep else None
    with notebook_display.shown("looking for lost files" if write else ""):
        return repairing.repair(_load(config, overrides, settings), look, write=write, accept_loss=accept_loss)


def audit(
    path: Location,
    against: "ConfigOrPath | None" = None,
    overrides: "Overrides" = (),
    *,
    snapshot: int | None = None,
    storage: StorageSettings | None = None,
    each: "Callable[[Finding], None] | None" = None,
    executor: Executor | None = None,
    **settings: Any,
) -> "AuditReport":
    """Check every promise of the table at ``path``. Reads every byte of a snapshot, changes nothing; needs no model.

    path: the table, or a pointer to it. against: a config whose corpus the table should hold; its table.path is
    ignored, its table.storage is used unless ``storage`` is given. overrides, settings: of that config, see
    `load_config`. snapshot: its number; default: the newest, or the one that the pointer pins. each: is called with
    every finding as soon as it is made. executor: of `on_ray`. Raises TableNotFound and StorageError, with ``against``
    also what `plan` raises.
    """
    from sfr_batch.checks.audit.auditor import audit  # loads what planning can do without

    if against is None and (overrides or settings):
        raise ConfigError("Overrides need a config whose settings they change: audit(path, against=CONFIG, …).")
    config = None if against is None else _load(against, overrides, settings)
    storage = storage or (config.table.storage if config else None)
    table = open_table(path, storage)
    snapshot = table.pinned if snapshot is None else snapshot
    plan = _plan_for(table, config, storage) if config else None
    return audit(table, plan, snapshot, each=each or _ignore, executor=executor)


def mteb_model(
    config: "ConfigOrPath",
    overrides: "Overrides" = (),
    *,
    name: str | None = None,
    instructions: Mapping[str, str] | None = None,
    **settings: Any,
) -> "MtebModel":
    """The model of a config for `mteb.evaluate`: mteb brings the data and scores, and the main job makes the vectors.

        mteb.evaluate(sfr.mteb_model("job.yaml"), mteb.get_tasks(["SciFact", "STSBenchmark"]))

    A corpus becomes a table below `evaluation.path`, by its data and the fingerprint; a repeated evaluation embeds
    nothing. overrides, settings: see `load_config`. name: of the model in mteb's results, owner/name; default: that of
    the model hub, or one made of the path. instructions: in the place of mteb's own, by task (SciFact), type (STS), or
    either with ``-query`` behind it; the most special one counts. Needs the extra mteb. Raises ConfigError, ModelError.
    """
    from sfr_batch.evaluation.mteb_adapter import MtebModel  # loads what planning can do without

    return MtebModel(_load(config, overrides, settings), name=name, instructions=instructions)


def open_table(path: Location, storage: StorageSettings | None = None, *, follow: bool = True) -> "EmbeddingTable":
    """The table at a local folder or an s3:// prefix, or the table that a pointer there points to.

    The result stays with that table when the pointer moves; open the pointer again to follow it. follow: False refuses
    a pointer with a ConfigError. Raises TableNotFound.
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
            pointers.refuse_pointer(store)
        table = Table.open(open_store(pointed.table, storage))
    return EmbeddingTable(table.store, table.card, pointed)


def promote(
    pointer: Location,
    table: Location,
    *,
    snapshot: int | None = None,
    expect_current: Location | None = None,
    storage: StorageSettings | None = None,
) -> PointerTarget:
    """Make a pointer, which is a folder or prefix of its own, point to a table. Creates the pointer if necessary.

    The switch is atomic: whoever opens the pointer gets the table before or this one. snapshot: the one to pin;
    default: readers get the newest. expect_current: the table that the pointer must point to now, else PointerMoved is
    raised and nothing changes. Raises TableNotFound if nothing is published in the table.
    """
    store = open_store(pointer, storage)
    opened = open_table(table, storage, follow=False)
    expect = None if expect_current is None else absolute_uri(expect_current)
    return pointers.promote(store, opened, snapshot, expect=expect, storage=storage)


def promote_back(pointer: Location, *, storage: StorageSettings | None = None) -> PointerTarget:
    """Move a pointer back to where it pointed before. Each further call goes back one more step.

    Raises ConfigError if there is nothing before, PointerMoved if somebody else moves the pointer meanwhile.
    """
    return pointers.back(open_store(pointer, storage))


class EmbeddingTable(Askable, Watched):
    """A table that can encode a query with the model it was made with. `sfr_batch.open_table` opens it.

        table.search("open a file", k=3)              hits; .to_pandas(), .to_arrow()
        table.sample(1000)                            random rows; .to_pandas(), .to_arrow(), .to_numpy()
        table.to_numpy(where="n_tokens > 20")         ids, and the matrix of their vectors
        table.to_pandas(["id", "n_tokens"])           a DataFrame; to_arrow, to_duckdb, to_ray, batches
        table.schema, table.num_rows, table.dim       columns, live rows, length of a vector
        table.current().rejects()                     rows that were not embedded, and why
        table.snapshots(), table.at(time="2026-11-24")    earlier states; each has all these readers
        table.changes(1, 2)                           what to upsert and delete elsewhere
        table.export("folder")                        plain Parquet for any engine
        table.evaluate("questions.csv")               nDCG and recall for questions of your own
        table.compare("old", "questions.csv")         what is lost and gained beside another table
        table.runs()                                  what each attempt of a run took, and how it ended
        table.progress(), table.watch()               where the run is, from any machine; watch() until it ends
        table.report()                                what the newest run did; .describe(), .to_html()
        table.audit()                                 checks every promise of the table
        table.maintenance                             .expire(), .compact(), .sweep()
        table.encoder.encode(texts)                   the model of the table

    Readers return live rows only, and take ``columns``, ``where`` and ``ids``. The names that are missing above are for
    other parts of the package.
    """

    def __init__(self, store: Store, card: TableCard, pointed: PointerTarget | None = None) -> None:
        super().__init__(store, card)
        self.pointed = pointed
        """The pointer by which the table was opened; None if it was opened by its own path."""

    @property
    def pinned(self) -> int | None:
        """Number of the snapshot that the pointer pins; None without a pointer or a pin."""
        return self.pointed.snapshot if self.pointed else None

    def current(self) -> Snapshot:
        """The newest snapshot, or the one that the pointer pins. Raises TableNotFound if there is none."""
        return super().current() if self.pinned is None else self.snapshot(self.pinned)

    @cached_property
    def encoder(self) -> "Encoder":
        """The model of the table, loaded on first use: on a GPU if the table's config says so and there is one.

        For a service that searches elsewhere: ``encode(texts, prompt="query")`` are the vectors that `search` compares
        with the table, and with ``prompt="document"`` those that `embed` writes. It stays with this table.

        Raises TableMismatch if the model at that path is no longer the one that made the vectors.
        """
        from sfr_batch.encoder.libraries import load_libraries

        load_libraries()
        from sfr_batch.encoder.devices import has_gpu
        from sfr_batch.encoder.encoder import Encoder
        from sfr_batch.model.identity import comparable
        from sfr_batch.planning.card import model_inputs

        settings = ModelSettings.model_validate(self.card.model)
        made_with, here = comparable(self.known_inputs(self.latest())), model_inputs(settings, self.card.vector_dtype)
        if lines := mismatches(made_with, here):
            shown = "\n  ".join(lines)
            raise TableMismatch(f"The model at {settings.path} is not the one that made {self.store.root}:\n  {shown}")
        if settings.device == "cuda" and not has_gpu():
            settings = settings.model_copy(update={"device": "cpu", "dtype": settings.compute_dtype})
        return Encoder.load(settings, weight_hashes=made_with["weights"])

    def audit(self, against: "EmbedPlan | ConfigOrPath | None" = None, snapshot: int | None = None) -> "AuditReport":
        """Check every promise of the table, see `sfr_batch.audit`.

        against: a config, or a plan, whose corpus the table should hold. snapshot: its number; default: the newest.
        """
        from sfr_batch.checks.audit.auditor import audit

        if isinstance(against, Config | Mapping | str | os.PathLike):
            config = _load(against)
            against = _plan_for(self, config, config.table.storage)
        return audit(self, against, self.pinned if snapshot is None else snapshot)

    @property
    def maintenance(self) -> Maintenance:
        """Expire, compact and sweep. Raises ConfigError if the table was opened by a pointer."""
        if self.pointed:
            raise pointers.read_only_pointer(self.pointed)
        return Maintenance(self)

    def expire(
        self,
        *,
        keep_last: int | None = None,
        keep_for: str | None = None,
        keep: Collection[int] = (),
        dry_run: bool = True,
    ) -> Expiry:
        """Short for `maintenance.expire`."""
        return self.maintenance.expire(keep_last=keep_last, keep_for=keep_for, keep=keep, dry_run=dry_run)

    def compact(
        self, *, rows_per_file: int = ROWS_PER_FILE, max_unneeded: float = MAX_UNNEEDED, dry_run: bool = True
    ) -> Compaction:
        """Short for `maintenance.compact`."""
        return self.maintenance.compact(rows_per_file=rows_per_file, max_unneeded=max_unneeded, dry_run=dry_run)

    def changes(self, from_snapshot: int, to_snapshot: int, *, executor: Executor | None = None) -> Changes:
        """Upserts and deletes that turn a copy of one snapshot into the other, see `sfr_batch.table.changes`.

        from_snapshot: 0 for an empty copy. executor: of `on_ray`; finds the rows on a cluster. Raises TableNotFound if
        there is no such snapshot.
        """
        return changes(self, from_snapshot, to_snapshot, executor=executor)

    def search(
        self,
        query: str,
        k: int = 10,
        columns: Sequence[str] = (),
        *,
        where: str | None = None,
        snapshot: int | None = None,
    ) -> Hits:
        """The ``k`` live rows nearest to ``query`` by cosine, best first, ties by id. Exact, in bounded memory.

        columns: to return with each hit, in ``Hit.row``. where: only among rows that match this filter. Where documents
        are cut into chunks (`model.overflow: chunk`), each hit is a chunk, and a document may be found several times;
        ``Hit.row`` has its number ``chunk`` and its span of the document's text, ``chunk_start`` to ``chunk_end``.
        snapshot: its number; default: the newest. Raises ConfigError if the query is empty or not valid Unicode, and
        what `encoder` raises.
        """
        return self.search_many([one_text(query)], k, columns, where=where, snapshot=snapshot)[0]

    def search_many(
        self,
        queries: "Sequence[str] | FloatArray",
        k: int = 10,
        columns: Sequence[str] = (),
        *,
        where: str | None = None,
        snapshot: int | None = None,
        executor: Executor | None = None,
    ) -> Matches:
        """`search` for many queries in one pass over the table.

        queries: texts, or [q, d] vectors; those of another length are divided by it. The memory for the answer is about
        100 bytes for each of its q * k rows. executor: of `on_ray`; each task searches some of the data files, with the
        same result. Raises ConfigError that names the query which is wrong.
        """
        from sfr_batch.encoder.gpu_products import products_for  # loads PyTorch where there is a GPU and much to do
        from sfr_batch.model.prompts import QUERY

        search = Search.of(self.current() if snapshot is None else self.snapshot(snapshot), k, columns, where)
        if is_vectors(queries):
            vectors = unit_vectors(queries, search.dim)
        else:
            texts = check_texts(queries)  # before the model is loaded
            vectors = self.encoder.encode(texts, prompt=QUERY)
            unit_vectors(vectors, search.dim)  # refuses those that are none; nothing is near to NaN
        return search.run(vectors, executor, products_for(vectors, search.scan.live))

    def _open(self, path: Location, storage: StorageSettings | None) -> "EmbeddingTable":
        return open_table(path, storage)


def _ignore(result: object) -> None:
    pass


def _plan_for(table: Table, config: Config, storage: StorageSettings | None) -> "EmbedPlan":
    """The plan of ``table`` for the corpus of another config."""
    from sfr_batch.planning.make import make_plan

    settings = config.table.model_copy(update={"path": table.store.root, "storage": storage})
    return make_plan(config.model_copy(update={"table": settings}))

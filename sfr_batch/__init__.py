"""sfr-batch: turn a sharded corpus into a table of embeddings on your own GPUs.

    import sfr_batch as sfr

    report = sfr.verify("configs/demo.yaml")
    plan = sfr.plan("configs/demo.yaml", {"select.limit": 1000})
    summary = sfr.embed("configs/demo.yaml")
    table = sfr.open_table("demo/table")
    table.search("how do I read a Parquet file?", k=5).to_pandas()
    ids, matrix = table.to_numpy()
    table.audit().ok

    function      returns          what it does
    load_config   Config           reads a YAML config and applies overrides
    verify        VerifyReport     checks the model of a config
    plan          EmbedPlan        what embed would do; writes nothing
    price         Price            what embed would cost: tokens, hours, money
    embed         Summary          embeds what is missing and publishes a snapshot
    submit        SubmittedJob     has a Ray cluster do that, as a job
    job           SubmittedJob     finds a submitted job again by its id
    evaluate      Evaluation       scores a model beside published scores
    open_table    EmbeddingTable   opens a table, or the table behind a pointer
    audit         AuditReport      checks every promise of a table
    repair        Repair           has the rows of lost files again
    mteb_model    MtebModel        the model of a config for mteb.evaluate
    promote       PointerTarget    makes a pointer point to a table
    promote_back  PointerTarget    moves a pointer back
    on_ray        an executor      a Ray cluster for large tables: table.export(target, executor=…)

    type             where you meet it; help(sfr.EmbeddingTable) has the calls of a table
    Config           settings of a job; its parts include ModelSettings and StorageSettings
    ModelSettings    Config.model; the argument of Encoder.load
    StorageSettings  the argument `storage` of open_table, audit and promote
    Encoder          texts to vectors, without a table: Encoder.load(settings).encode(texts)
    EmbeddingTable   search, read and audit; .maintenance expires, compacts and sweeps
    Snapshot         one published state of a table: table.current(), table.snapshots(), table.at(...)
    Hits, Hit        what table.search found: a list that prints, and its rows
    Sample           table.sample(1000)
    TableScores, TableComparison    table.evaluate("questions.csv"), table.compare("old", "questions.csv")
    Changes, Exported    table.changes(1, 2), table.export(target)
    SubmittedJob     status, progress, log, result and end of a job
    Runs, RunAccount table.runs(): every attempt to write the table, and what it took
    RunProgress      table.progress(), table.watch(): where the run is, and how it ended
    RunReport        table.report(): what the newest run did
    Expiry           table.maintenance.expire(...)
    Compaction, Orphans    table.maintenance.compact(...), table.maintenance.sweep(...)
    MtebModel        what mteb calls: encode, index, search
    SfrBatchError    the base of all errors; the others are in `errors`

Settings of a config can be overridden in each call: ["select.limit=10"] as on the command line, {"select.limit": 10},
or as keywords, select={"limit": 10}. Results show as tables in notebooks; hits, samples, changes, snapshots, runs and
reports have .to_pandas() and .to_arrow().

Names are loaded when they are first used. Importing the package, planning and reading load neither torch nor ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfr_batch import errors as errors
    from sfr_batch.api import EmbeddingTable as EmbeddingTable
    from sfr_batch.api import audit as audit
    from sfr_batch.api import embed as embed
    from sfr_batch.api import evaluate as evaluate
    from sfr_batch.api import mteb_model as mteb_model
    from sfr_batch.api import open_table as open_table
    from sfr_batch.api import plan as plan
    from sfr_batch.api import price as price
    from sfr_batch.api import promote as promote
    from sfr_batch.api import promote_back as promote_back
    from sfr_batch.api import repair as repair
    from sfr_batch.api import verify as verify
    from sfr_batch.checks.audit.report import AuditReport as AuditReport
    from sfr_batch.checks.verify.report import VerifyReport as VerifyReport
    from sfr_batch.config.loading import load_config as load_config
    from sfr_batch.config.settings import Config as Config
    from sfr_batch.config.settings import ModelSettings as ModelSettings
    from sfr_batch.config.settings import StorageSettings as StorageSettings
    from sfr_batch.encoder.encoder import Encoder as Encoder
    from sfr_batch.errors import SfrBatchError as SfrBatchError
    from sfr_batch.evaluation.mteb_adapter import MtebModel as MtebModel
    from sfr_batch.evaluation.questions.comparison import TableComparison as TableComparison
    from sfr_batch.evaluation.questions.scores import TableScores as TableScores
    from sfr_batch.evaluation.report.report import Evaluation as Evaluation
    from sfr_batch.format.run_accounts import RunAccount as RunAccount
    from sfr_batch.format.run_progress import RunProgress as RunProgress
    from sfr_batch.pipeline.on_ray import on_ray as on_ray
    from sfr_batch.pipeline.price.price import Price as Price
    from sfr_batch.pipeline.repair import Repair as Repair
    from sfr_batch.pipeline.submission.submit import job as job
    from sfr_batch.pipeline.submission.submit import submit as submit
    from sfr_batch.pipeline.submission.submitted_job import SubmittedJob as SubmittedJob
    from sfr_batch.pipeline.summary import Summary as Summary
    from sfr_batch.planning.plan import EmbedPlan as EmbedPlan
    from sfr_batch.table.changes import Changes as Changes
    from sfr_batch.table.commit.attempts import Runs as Runs
    from sfr_batch.table.commit.compaction import Compaction as Compaction
    from sfr_batch.table.commit.expiry import Expiry as Expiry
    from sfr_batch.table.commit.sweep import Orphans as Orphans
    from sfr_batch.table.export import Exported as Exported
    from sfr_batch.table.pointer import PointerTarget as PointerTarget
    from sfr_batch.table.report.value import RunReport as RunReport
    from sfr_batch.table.sampling import Sample as Sample
    from sfr_batch.table.search import Hit as Hit
    from sfr_batch.table.search import Hits as Hits
    from sfr_batch.table.table import Snapshot as Snapshot

__version__ = "0.1.0"

_HOMES = {
    "AuditReport": "checks.audit.report",
    "Changes": "table.changes",
    "Compaction": "table.commit.compaction",
    "Config": "config.settings",
    "EmbedPlan": "planning.plan",
    "EmbeddingTable": "api",
    "Encoder": "encoder.encoder",
    "Evaluation": "evaluation.report.report",
    "Expiry": "table.commit.expiry",
    "Exported": "table.export",
    "Hit": "table.search",
    "Hits": "table.search",
    "ModelSettings": "config.settings",
    "MtebModel": "evaluation.mteb_adapter",
    "Orphans": "table.commit.sweep",
    "PointerTarget": "table.pointer",
    "Price": "pipeline.price.price",
    "Repair": "pipeline.repair",
    "RunAccount": "format.run_accounts",
    "RunProgress": "format.run_progress",
    "RunReport": "table.report.value",
    "Runs": "table.commit.attempts",
    "Sample": "table.sampling",
    "SfrBatchError": "errors",
    "Snapshot": "table.table",
    "StorageSettings": "config.settings",
    "SubmittedJob": "pipeline.submission.submitted_job",
    "Summary": "pipeline.summary",
    "TableComparison": "evaluation.questions.comparison",
    "TableScores": "evaluation.questions.scores",
    "VerifyReport": "checks.verify.report",
    "audit": "api",
    "embed": "api",
    "errors": "errors",
    "evaluate": "api",
    "job": "pipeline.submission.submit",
    "load_config": "config.loading",
    "mteb_model": "api",
    "on_ray": "pipeline.on_ray",
    "open_table": "api",
    "plan": "api",
    "price": "api",
    "promote": "api",
    "promote_back": "api",
    "repair": "api",
    "submit": "pipeline.submission.submit",
    "verify": "api",
}
"""The module of each public name; `errors` is one itself."""

__all__ = sorted(name for name in _HOMES if name.islower())
"""The functions, and `errors`. Not the types, or help(sfr_batch) would have each of them in full."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_HOMES[name]}")
    return module if name == _HOMES[name] else getattr(module, name)


def __dir__() -> list[str]:
    """What completion and help() show: not the modules that happen to be loaded."""
    return sorted([*_HOMES, "__version__"])

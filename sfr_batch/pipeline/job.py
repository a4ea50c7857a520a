"""The description of a run that travels to the workers, and the text of an error that travels back. Knows no stage."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sfr_batch.config.settings import CorpusSettings, ModelSettings, StorageSettings
from sfr_batch.corpus.columns import Columns
from sfr_batch.errors import SfrBatchError
from sfr_batch.format import unforeseen
from sfr_batch.format.records import TableCard
from sfr_batch.planning.plan import EmbedPlan


@dataclass(frozen=True)
class Job:
    """Everything that the stages need to know about a run. Secrets in it are references, not values."""

    run_id: str
    generation: str
    corpus: CorpusSettings
    model: ModelSettings
    columns: Columns
    card: TableCard
    covers: str
    """What the row hashes of the data files cover, see `Receipt.covers`."""
    inputs: Mapping[str, Any]
    """The inputs of the fingerprint on the driver's node, which every node must have."""
    table: str
    table_storage: StorageSettings
    max_batch_tokens: int | None
    packed: bool | None
    fuse: bool | None
    torch_threads: int | None
    gpus: float
    """Share of a GPU that an actor has, `run.actors.gpus`."""


def make_job(plan: EmbedPlan, run_id: str) -> Job:
    """The part of a plan that travels to the workers. run_id: empty where nothing is written."""
    config = plan.config
    return Job(
        run_id=run_id,
        generation=config.table.generation,
        corpus=config.corpus,
        model=config.model,
        columns=plan.columns,
        card=plan.card,
        covers=plan.layout.covers,
        inputs=plan.inputs,
        table=plan.store.root,
        table_storage=config.table.storage,
        max_batch_tokens=config.max_batch_tokens,
        packed=config.packed,
        fuse=config.fused,
        torch_threads=config.run.actors.torch_threads,
        gpus=config.run.actors.gpus,
    )


def explain(error: BaseException) -> str:
    """The message of one of our errors, and of a package that this node lacks. Of any other exception also its stack
    trace, see `unforeseen.parts`."""
    if isinstance(error, SfrBatchError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return missing_package(error.name, socket.gethostname())
    return unforeseen.as_text(error)


def missing_package(module: str, node: str) -> str:
    """The sentence for a ``node``, by name or address, that cannot import a module."""
    where = f"Node {node}" if node else "A node"
    if module.partition(".")[0] == "sfr_batch":
        return (
            f"{where} has no Python package sfr_batch. Submit the run, which sends the package to all nodes: "
            "sfr-batch submit CONFIG. Or install sfr-batch on every node."
        )
    return (
        f"{where} has no Python module {module}. Install on every node what sfr-batch depends on, best in its image: "
        "`pip install .` in the repository does it. A submitted job brings its files along, but no packages."
    )

"""sfr-batch: turn a sharded corpus into a table of embeddings on your own GPUs.

    import sfr_batch as sfr
    report = sfr.verify("configs/demo.yaml")
    plan = sfr.plan("configs/demo.yaml")
    summary = sfr.embed("configs/demo.yaml")
    table = sfr.open_table("demo/table")
    table.search("how do I read a Parquet file?", k=5)
    table.audit().ok

Names are loaded when first used: importing the package, and planning, pull in neither torch nor ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfr_batch.api import EmbeddingTable, embed, open_table, plan, promote, promote_back, verify
    from sfr_batch.config.loading import load_config
    from sfr_batch.config.settings import Config
    from sfr_batch.encoder.encoder import Encoder
    from sfr_batch.errors import SfrBatchError

__version__ = "0.1.0"

_HOMES = {
    "Config": "sfr_batch.config.settings",
    "EmbeddingTable": "sfr_batch.api",
    "Encoder": "sfr_batch.encoder.encoder",
    "SfrBatchError": "sfr_batch.errors",
    "embed": "sfr_batch.api",
    "load_config": "sfr_batch.config.loading",
    "open_table": "sfr_batch.api",
    "plan": "sfr_batch.api",
    "promote": "sfr_batch.api",
    "promote_back": "sfr_batch.api",
    "verify": "sfr_batch.api",
}

__all__ = [
    "Config",
    "EmbeddingTable",
    "Encoder",
    "SfrBatchError",
    "embed",
    "load_config",
    "open_table",
    "plan",
    "promote",
    "promote_back",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])

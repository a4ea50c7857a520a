"""The version of a Delta or Iceberg table that a run reads, and its files as shards. Knows who reads which format.

A plan pins the version before it lists the corpus, so that whatever lists it again for that plan sees the same files.
"""

from collections.abc import Callable, Mapping, Sequence

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus import delta_tables, iceberg_tables
from sfr_batch.corpus.file_formats import DELTA, ICEBERG
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.text_template import TextTemplate
from sfr_batch.errors import CorpusError

_LIST: Mapping[str, Callable[[CorpusSettings, Sequence[str]], list[Shard]]] = {
    DELTA: delta_tables.list_files,
    ICEBERG: iceberg_tables.list_files,
}


def pin(settings: CorpusSettings) -> CorpusSettings:
    """The settings with the version of today; they stay as they are if the corpus is no table, or none is there yet.

    Raises ConfigError, CorpusError.
    """
    if settings.format == DELTA:
        return settings.model_copy(update={"version": delta_tables.newest_version(settings)})
    if settings.format == ICEBERG:
        pinned = iceberg_tables.newest_snapshot(settings)
        return settings.model_copy(update={"path": pinned.metadata, "version": pinned.snapshot})
    return settings


def list_files(settings: CorpusSettings) -> list[Shard]:
    """The live data files of the table at `corpus.path`. Raises CorpusError if there are none."""
    columns = [*TextTemplate(settings.text).columns, *settings.carried.values()]
    columns += [] if settings.id is None else [settings.id]
    shards = _LIST[settings.format](settings, columns)
    if not shards:
        raise CorpusError(f"corpus.path {settings.path}: the table has no data files at this version. Add rows to it.")
    return shards

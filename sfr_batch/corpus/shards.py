"""A shard of the corpus: one file in one version. `listing` finds them.

Knows names and versions of files; knows nothing of what is in them.
"""

from dataclasses import dataclass, field

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.file_formats import FORMATS, delimiter_by_name
from sfr_batch.corpus.partitions import Partition
from sfr_batch.corpus.table_files import TableFile


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of the corpus in one version."""

    uri: str
    version: str
    size: int
    """Bytes, as stored."""
    format: str
    compression: str = ""
    partition: Partition = ()
    """Columns that stand in the path of the file rather than in the file, the same in all rows; see `partitions`."""
    above: tuple[str, ...] = ()
    """Names in ``partition`` that stand above corpus.path: a column of the file may well mean something else."""
    table: TableFile | None = field(default=None, compare=False, repr=False)
    """What the file needs beyond what is in it, if it is a data file of a Delta or Iceberg table."""

    ctime_ns: int = field(default=0, compare=False, repr=False)
    """As in `InputFile`; 0 if unknown. No part of the version."""
    touched: bool = field(default=False, compare=False, repr=False)
    """Whether the table has the shard in this version, and only ``ctime_ns`` differs: somebody may have replaced it."""

    @property
    def named_version(self) -> str:
        """The version in the names of splits. Of a touched shard it has the ctime as well: the table may have files
        under the other names, with the rows that the shard had before."""
        return f"{self.version}-{self.ctime_ns}" if self.touched else self.version

    @property
    def is_stream(self) -> bool:
        """Whether the shard can only be read from its beginning."""
        return bool(self.compression) or FORMATS[self.format].read_from_start

    def columns_of_path(self, settings: CorpusSettings) -> dict[str, str | None]:
        """The columns that the path gives to all rows, with their values: any but the id, which it cannot give."""
        if self.table is not None:
            return {}  # the table gives them, with their types
        return {name: value for name, value in self.partition if name != settings.id}


def settings_for(shard: Shard, settings: CorpusSettings) -> CorpusSettings:
    """The settings as they hold for one shard: without an id column if its format has none."""
    return settings if FORMATS[shard.format].has_ids else settings.model_copy(update={"id": None})


def delimiter_of(shard: Shard, settings: CorpusSettings) -> str:
    """The separator of a CSV's columns: `corpus.delimiter`, else what its name says, see `FORMATS`."""
    return settings.delimiter or delimiter_by_name(shard.uri)

"""Tables of other engines: recognised in the list of files, so that they are never read as loose files.

Knows names of files; opens nothing yet.
"""

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.shards import Shard
from sfr_batch.storage.input_listing import InputListing


def list_table(path: str, settings: CorpusSettings) -> list[Shard] | None:
    """The live data files of the table at ``path``, if the settings say that it is one; else None."""
    return None


def refuse(found: InputListing, path: str) -> None:
    """Raises CorpusError if the files at ``path``, hidden ones included, are those of a table of another engine."""

"""Which rows of a data file of a table are deleted: from what planning knows, or from the files that list them.

Reads delete files through the store; knows no rows' values.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.table_files import PUFFIN, DeleteFile, unpack_deleted
from sfr_batch.errors import CorpusError, ObjectNotFound
from sfr_batch.storage.inputs import open_input, stat_input

_PATH, _POSITION = "file_path", "pos"
"""Columns of a position delete file, see the specification of Iceberg."""


def deleted_rows(shard: Shard, settings: CorpusSettings) -> NDArray[np.int64]:
    """Positions of the shard's deleted rows, ascending. Raises CorpusError if a file that lists them is gone."""
    if shard.table is None:
        return np.empty(0, np.int64)
    if shard.table.deleted:
        return unpack_deleted(shard.table.deleted)
    found = [_listed(file, shard.table.path, shard, settings) for file in shard.table.deletes]
    return np.unique(np.concatenate([np.empty(0, np.int64), *found]))


def _listed(file: DeleteFile, path: str, shard: Shard, settings: CorpusSettings) -> NDArray[np.int64]:
    """Positions that a delete file lists for the data file at ``path``, as the table spells it."""
    try:
        with open_input(file.uri, settings.storage) as stream:
            if file.format == PUFFIN:
                from sfr_batch.corpus.iceberg_io import puffin_positions  # imports pyiceberg

                return puffin_positions(stream, path)
            reader = pq.ParquetFile(stream, pre_buffer=False)
            batches = reader.iter_batches(columns=[_PATH, _POSITION], use_threads=False)
            parts = [batch.column(_POSITION).filter(pc.equal(batch.column(_PATH), path)) for batch in batches]
    except ObjectNotFound:
        raise gone(shard, file.uri) from None
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise CorpusError(
            f"{file.uri}, which lists deleted rows of {shard.uri}, cannot be read: {error}. Read an earlier version "
            "(corpus.version), or let the table's engine rewrite its files."
        ) from error
    return np.concatenate([np.empty(0, np.int64), *(part.to_numpy(zero_copy_only=False) for part in parts)])


def check_delete_files(shard: Shard, settings: CorpusSettings) -> None:
    """Raises CorpusError if a file that lists deleted rows of the shard is gone: a plan then takes another version."""
    for file in shard.table.deletes if shard.table else ():
        try:
            stat_input(file.uri, settings.storage)
        except ObjectNotFound:
            raise gone(shard, file.uri) from None


def check_there(shard: Shard, settings: CorpusSettings) -> None:
    """Raises CorpusError if the file of a table's shard is gone, or is not the file that the table names."""
    assert shard.table is not None
    try:
        size = stat_input(shard.uri, settings.storage).size
    except ObjectNotFound:
        raise gone(shard, shard.uri) from None
    if size != shard.size:
        raise CorpusError(
            f"{shard.uri} has {size:,} bytes, but {shard.table.table} says {shard.size:,}. Somebody has replaced it; "
            "repair the table with its engine."
        )


def gone(shard: Shard, uri: str) -> CorpusError:
    """The error for a file that the table's version names and that does not exist."""
    assert shard.table is not None
    return CorpusError(
        f"{uri} no longer exists, but {shard.table.table} needs it: it was cleaned up ({shard.table.cleaned_by}) after "
        "the run was planned or after that version was replaced. Run the command again, without corpus.version, for "
        "the newest version; and let clean-ups keep files for longer than a run takes."
    )

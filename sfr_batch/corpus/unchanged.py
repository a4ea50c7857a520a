"""Whether a shard is still the one that a run was planned with. Knows storage, not what is in a shard."""

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.deleted_rows import check_there
from sfr_batch.corpus.shards import Shard
from sfr_batch.errors import CorpusError, ObjectNotFound
from sfr_batch.storage.inputs import is_unchanged, local_identity


def check_unchanged(
    shard: Shard, settings: CorpusSettings, seen: tuple[int, int] | None = None
) -> tuple[int, int] | None:
    """Raises CorpusError if the shard was deleted or replaced since the run was planned.

    seen: what an earlier call on this node has returned, the inode and the ctime of a local file. A file with another
    inode and another ctime is another file, even if size and mtime are the same. One of them alone may change:
    permissions change the ctime, and some network file systems number their files anew. Other nodes, and other
    processes in containers, may see other ones of the same file.
    """
    if shard.table is not None:
        check_there(shard, settings)
        return None
    try:
        unchanged = is_unchanged(shard.uri, shard.version, settings.storage)
        now = local_identity(shard.uri)
    except ObjectNotFound:
        raise was_deleted(shard) from None
    replaced = seen is not None and now is not None and seen[0] != now[0] and seen[1] != now[1]
    if not unchanged or replaced:
        raise was_replaced(shard)
    return now


def was_deleted(shard: Shard) -> CorpusError:
    """What to raise where the file is gone."""
    return CorpusError(f"{shard.uri} was deleted after the run was planned. Run the command again.")


def was_replaced(shard: Shard) -> CorpusError:
    """What to raise where the file is another one."""
    return CorpusError(f"{shard.uri} was replaced during the run. Run the command again.")

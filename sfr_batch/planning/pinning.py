"""Which version of a Delta or Iceberg table a plan reads: that of an unfinished run of the same night, else the newest.

To go on with the version of a run that was killed keeps what it has done, although the table may have been rewritten
meanwhile: data files that a table's engine has merged have other names. Reads the logs of runs; writes nothing.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.table_versions import pin
from sfr_batch.format import names
from sfr_batch.storage.locations import absolute_uri
from sfr_batch.storage.store import Store
from sfr_batch.table.commit.unfinished import last_run
from sfr_batch.table.table import Snapshot

_SAME_NIGHT_S = 12 * 3600
"""Seconds since the last sign of life of a run, after which the next one takes the newest version."""


class Pinned(NamedTuple):
    """Settings of a corpus that name the version to read, if it is a table."""

    corpus: CorpusSettings
    continues: str = ""
    """Id of the run whose version this is; empty for the newest, and for the one that the config names."""


def versions_to_try(corpus: CorpusSettings, store: Store, base: Snapshot | None) -> Iterator[Pinned]:
    """The settings to plan with, the best first; the others are for the case that a version can no longer be read.

    Raises ConfigError, CorpusError.
    """
    if corpus.is_table and corpus.version is None:
        run_id, recorded = _unfinished(store, last_run(base))
        if recorded is not None and _is_of(recorded, corpus):
            at = {"path": recorded["path"], "version": recorded["version"]}
            yield Pinned(corpus.model_copy(update=at), run_id)
    yield Pinned(pin(corpus))


def _unfinished(store: Store, since: str) -> tuple[str, dict[str, Any] | None]:
    """Id and corpus of the newest run after run ``since``, if it showed life lately and was no trial."""
    alive: dict[str, float] = {}
    for info in store.list(names.RUNS):
        run_id = names.run_of_key(info.key)
        if run_id > since:
            alive[run_id] = max(info.modified, alive.get(run_id, 0.0))
    newest = max(alive, default="")
    if not newest or alive[newest] < store.clock() - _SAME_NIGHT_S:
        return "", None
    config = json.loads(store.read(names.run_key(newest, names.RUN_CONFIG)))
    return newest, None if config["select"]["limit"] else config["corpus"]


def _is_of(recorded: dict[str, Any], corpus: CorpusSettings) -> bool:
    """Whether a run has read this corpus, by the same settings."""
    place = absolute_uri(str(corpus.path))
    theirs = absolute_uri(str(recorded["path"])) if isinstance(recorded["path"], str) else ""
    same = {**corpus.model_dump(mode="json"), "path": "", "version": None}
    return {**recorded, "path": "", "version": None} == same and (theirs == place or theirs.startswith(f"{place}/"))

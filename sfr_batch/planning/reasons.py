"""Why many shards or rows count as changed: settings of the corpus that the newest snapshot was not read with.

A night that costs much more than the one before is often a setting that somebody has changed, so plans and refusals
name it. Functions of recorded settings and URIs; reads the shards of a snapshot and writes nothing.
"""

import itertools
import json
from collections.abc import Collection, Mapping
from typing import Any

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.errors import counted
from sfr_batch.format.records import KEPT
from sfr_batch.table.table import Snapshot

_CARRY = "carry"
"""Carried columns do not decide whether a row is embedded again."""
_EFFECTS = {
    "id": "documents are known by their ids, so those with other ids are new ones",
    "text": "rows whose text is another one are embedded again",
}
_EFFECT = "rows that are read otherwise are embedded again"


def reasons_since(
    base: Snapshot, recipe: Mapping[str, Any], shards: Collection[str], corpus: CorpusSettings
) -> list[str]:
    """Settings that differ from those of ``base``, a sentence each. recipe: the row recipe of today; shards: URIs."""
    before = {record.uri for record in base.read_shards()} - {KEPT}
    return [*changed_settings(base.manifest.row_recipe, recipe), *moved_corpus(before, shards, corpus)]


def changed_settings(before: Mapping[str, Any], today: Mapping[str, Any]) -> list[str]:
    """A sentence for each setting that differs between two row recipes. A recipe has no settings with their default."""
    usual = CorpusSettings(path="-").model_dump(mode="json")
    found = []
    for name in sorted({*before, *today} - {_CARRY}):
        was, is_ = (_show(recipe.get(name, usual.get(name))) for recipe in (before, today))
        if was != is_:
            found.append(
                f"corpus.{name} was {was} and is {is_}: all shards are read again, and {_EFFECTS.get(name, _EFFECT)}"
            )
    return found


def moved_corpus(before: Collection[str], today: Collection[str], corpus: CorpusSettings) -> list[str]:
    """A sentence if the table has shards and the corpus of today has none of them. before, today: their URIs."""
    if not before or not today or not set(before).isdisjoint(today):
        return []
    what = "rows with the same id and text keep their vectors"
    if corpus.id is None or corpus.format == "text":
        what = "ids are made from file names, so all documents are new ones"
    return [
        f"none of the {counted(len(before), 'shard')} of the table is in the corpus any more: corpus.path was "
        f"{_place_of(before)} and is {_place_of(today)}; all shards are read again, and {what}"
    ]


def _place_of(uris: Collection[str]) -> str:
    """What the paths of all shards begin with: their folder, or the only one of them."""
    if len(uris) == 1:
        return next(iter(uris))
    folders = [uri.split("/")[:-1] for uri in uris]
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    return "/".join(part for part, *_ in shared)


def _show(value: Any) -> str:
    return value if isinstance(value, str) and value.strip() == value and value else json.dumps(value)

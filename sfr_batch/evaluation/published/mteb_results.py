"""Reads result files of mteb: the JSON of a task, as its versions 1.0 to 2 and its public results repository have it.

Knows no file: it takes parsed JSON. Needs no mteb.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from sfr_batch.errors import ConfigError
from sfr_batch.evaluation.published.values import Published, RawScores, as_published

MODEL_META = "model_meta.json"
"""Beside the results of mteb: the model's name and revision."""

_OLD_NAME = "mteb_dataset_name"
_LISTS = "task_results"
_NESTED = {
    *("cos_sim", "cosine", "euclidean", "manhattan", "dot", "max", "similarity"),
    *("v_measures", "scores_per_experiment"),
}
"""What had an object of its own among the scores, {cos_sim: {spearman: …}}: other objects are subsets."""
_NO_REVISION = re.compile(r"|none|null|.*not.available", re.IGNORECASE)
_MODEL_FOLDER = re.compile(r"/([^/]+)__([^/]+)/[^/]+$")


def parse_json(text: str, source: str) -> Mapping[str, Any]:
    """The object that a JSON file holds; empty if it is something else. Raises ConfigError, which names the file."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source} is not valid JSON: {error}") from None
    return value if isinstance(value, Mapping) else {}


def is_result(value: Mapping[str, Any]) -> bool:
    """Whether this is a result of mteb: of a task, or of a model with its tasks."""
    of_task = isinstance(value.get("task_name"), str) and isinstance(value.get("scores"), Mapping)
    return of_task or isinstance(value.get(_OLD_NAME), str) or isinstance(value.get(_LISTS), list)


def parse_results(given: Mapping[str, Mapping[str, Any]], source: str) -> Published:
    """The scores of result files, which are ``given`` by URI; model_meta.json may be among them.

    Raises ConfigError if there are none, or of several models.
    """
    raw = [own for uri, value in given.items() for result in _tasks(value) for own in _raw(result, uri)]
    tasks, remarks = as_published(raw)
    if not tasks:
        raise ConfigError(
            f"{source} has no scores as mteb writes them: an object with task_name and scores, or mteb_dataset_name. "
            "Give a model card, a result file of mteb, or a folder of them."
        )
    return Published(source, "mteb", _model(given), tasks, remarks)


def _model(given: Mapping[str, Mapping[str, Any]]) -> str:
    for uri, value in given.items():
        name = value.get("name") if uri.endswith(f"/{MODEL_META}") else value.get("model_name")
        if isinstance(name, str) and name:
            return name
    found = _MODEL_FOLDER.search(next(iter(given)).rsplit("/", 1)[0])
    return f"{found[1]}/{found[2]}" if found else ""


def _tasks(value: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for result in value[_LISTS] if isinstance(value.get(_LISTS), list) else [value]:
        if isinstance(result, Mapping) and is_result(result):
            yield result


def _raw(result: Mapping[str, Any], group: str) -> Iterator[RawScores]:
    """One for each split and subset. group: what was written on one scale; the public results have files in percent."""
    name = str(result.get("task_name") or result.get(_OLD_NAME))
    revision, version = result.get("dataset_revision"), result.get("mteb_version")
    known = isinstance(revision, str) and not _NO_REVISION.fullmatch(revision.strip())
    by_split = _new_scores(result["scores"]) if "scores" in result else _old_scores(result)
    for split, subset, scores in by_split:
        yield RawScores(
            name,
            split,
            subset,
            str(revision).strip() if known else None,
            list(_flat(scores)),
            version if isinstance(version, str) else None,
            f"{group} {name}",
        )


def _new_scores(scores: object) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Since 1.11: by split a list, an object for each subset."""
    for split, entries in scores.items() if isinstance(scores, Mapping) else ():
        for entry in entries if isinstance(entries, list) else [entries]:
            if isinstance(entry, Mapping):
                yield str(split), str(entry.get("hf_subset") or "default"), entry


def _old_scores(result: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Before: splits beside the name, and in them the scores, or an object of scores for each subset."""
    for split, scores in result.items():
        if not isinstance(scores, Mapping):
            continue
        subsets = {name: own for name, own in scores.items() if isinstance(own, Mapping) and name not in _NESTED}
        for subset, own in subsets.items() if subsets else [("default", scores)]:
            yield split, subset, own


def _flat(scores: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for key, value in scores.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}_{inner}", own) for inner, own in value.items() if not isinstance(own, list | Mapping))
        elif not isinstance(value, list) and value is not None:
            yield key, value

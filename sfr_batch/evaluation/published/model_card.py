"""Reads the scores of a model card: the `model-index` in the YAML before its text.

Cards are written by many hands and tools: whatever can be read of one is. Knows no file: it takes the text.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from sfr_batch.errors import ConfigError
from sfr_batch.evaluation.published.values import Published, RawScores, as_published

_FRONT = re.compile(r"\s*---[ \t]*\n(.*?)(?:\n---[ \t]*(?:\n|$)|$(?!\n))", re.DOTALL)
_NAME = re.compile(r"(?:(?P<mteb>MTEB)\s+)?(?P<task>.*?)(?:\s*\((?P<subset>[^()]*)\))?")
_NONE = {"", "none", "null", "~", "nan", "not available", "revision_not_available"}
_HINT = "Give the card of a model that has one, or a folder of result files of mteb."


def parse_card(text: str, source: str) -> Published:
    """The scores of a card's text, or of the YAML of one. source: its URI. Raises ConfigError, which names it."""
    model, results = _results(_front_matter(text, source), source)
    tasks, remarks = as_published([raw for result in results for raw in _raw(result)])
    if not tasks:
        raise ConfigError(f"The model-index of {source} has no scores. {_HINT}")
    return Published(source, "card", model, tasks, remarks)


def _front_matter(text: str, source: str) -> Mapping[str, Any]:
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    found = _FRONT.match(lines)
    if not found and not source.lower().endswith((".yaml", ".yml")):
        raise ConfigError(f"{source} does not begin with ---, so it has no model-index with scores. {_HINT}")
    try:
        # With the lines before, so that an error names the line of the file.
        front = "\n" * lines[: found.start(1)].count("\n") + found[1] if found else lines
        # All scalars as text: a revision of digits alone is no number, and no date is made of a name.
        raw = yaml.load(front, yaml.BaseLoader)
    except yaml.YAMLError as error:
        what = "The text between the first two lines --- of " if found else ""
        raise ConfigError(f"{what}{source} is not valid YAML: {error}") from None
    if not isinstance(raw, Mapping) or "model-index" not in raw:
        raise ConfigError(f"{source} has no model-index, where a model card keeps scores. {_HINT}")
    return raw


def _results(raw: Mapping[str, Any], source: str) -> tuple[str, list[Any]]:
    """The model's name and the results of the one entry that has some."""
    index = raw["model-index"]
    entries = [
        entry
        for entry in (index if isinstance(index, list) else [index])
        if isinstance(entry, Mapping) and isinstance(entry.get("results"), list) and entry["results"]
    ]
    if not entries:
        raise ConfigError(f"The model-index of {source} has no scores. {_HINT}")
    names = [str(entry.get("name", "")) for entry in entries]
    if len(entries) > 1:
        raise ConfigError(
            f"The model-index of {source} has scores of several models: {', '.join(names)}. Copy the file and leave "
            "one of them in its model-index."
        )
    return names[0], entries[0]["results"]


def _raw(result: object) -> Iterator[RawScores]:
    """One result of a model-index; nothing where it names no data set."""
    if not isinstance(result, Mapping) or not isinstance(data := result.get("dataset"), Mapping):
        return
    found = _NAME.fullmatch(" ".join(str(data.get("name") or data.get("type") or "").split()))
    if not found or not found["task"]:
        return
    subset = _given(data.get("config")) or _given(found["subset"]) or "default"
    task = found["task"]
    if found["subset"] and not _same(found["subset"], subset):
        task = f"{task} ({found['subset']})"  # what stands in brackets is no subset, so it belongs to the name
    yield RawScores(
        task,
        _given(data.get("split")),
        subset,
        _given(data.get("revision")),
        list(_figures(result.get("metrics"))),
        group=found["mteb"] or "",
    )


def _figures(metrics: object) -> Iterator[tuple[str, object]]:
    """Names and values. A metric goes by its type; by its name, where its type is none."""
    if isinstance(metrics, Mapping):
        yield from metrics.items() if "value" not in metrics else _figures([metrics])
    for metric in metrics if isinstance(metrics, list) else ():
        if isinstance(metric, Mapping) and "value" in metric:
            name = _given(metric.get("type")) or _given(metric.get("name"))
            if name and not (isinstance(metric["value"], str) and metric["value"].strip() == ""):
                yield name, metric["value"]


def _given(value: object) -> str | None:
    text = value.strip() if isinstance(value, str) else ""
    return None if text.lower() in _NONE else text


def _same(a: str, b: str) -> bool:
    return a.casefold() == b.casefold()

"""An evaluation as JSON, and back. Knows no measure."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sfr_batch.errors import ConfigError
from sfr_batch.evaluation.published.comparison import TOLERANCES, Average, Row
from sfr_batch.evaluation.published.values import Published
from sfr_batch.evaluation.results import Made, TaskResult

_FORMAT = "sfr-batch evaluation 1"


class _Saved(BaseModel):
    """The part of the JSON that `loaded` reads."""

    model_config = ConfigDict(extra="ignore")

    format: str
    made: Made
    results: tuple[TaskResult, ...]
    published: tuple[Published, ...] = ()
    tolerances: dict[str, float] = dict(TOLERANCES)


def dumped(
    made: Made, results: Sequence[TaskResult], published: Sequence[Published], tolerances: Mapping[str, float]
) -> dict[str, Any]:
    """All values of an evaluation. Of published scores those of its tasks, and of the parts of these."""
    names = {result.task.name.casefold() for result in results}
    stems = tuple(result.task.name.removesuffix("Retrieval").casefold() for result in results if result.task.parts)
    kept = [
        dataclasses.replace(
            own,
            tasks=tuple(
                entry
                for entry in own.tasks
                if entry.task.casefold() in names or (stems and entry.task.casefold().startswith(stems))
            ),
        )
        for own in published
    ]
    saved = _Saved(format=_FORMAT, made=made, results=tuple(results), published=tuple(kept), tolerances={**tolerances})
    plain: dict[str, Any] = _without_nan(saved.model_dump(mode="python"))
    return plain


def loaded(
    text: str | bytes, source: str
) -> tuple[Made, tuple[TaskResult, ...], tuple[Published, ...], dict[str, float]]:
    """What `dumped` took. Raises ConfigError, which names the ``source``."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{source} is not valid JSON: {error}") from None
    if not isinstance(raw, dict) or not str(raw.get("format")).startswith(_FORMAT.rpartition(" ")[0]):
        raise ConfigError(f"{source} is no report of an evaluation: it does not say format: {_FORMAT!r}.")
    if raw["format"] != _FORMAT:
        raise ConfigError(f"{source} has the format {raw['format']!r}; this version of sfr-batch reads {_FORMAT!r}.")
    try:
        saved = _Saved.model_validate(_with_nan(raw))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{source} is damaged: {where}: {first['msg']}. Evaluate again.") from None
    return saved.made, saved.results, saved.published, saved.tolerances


def row(row: Row) -> dict[str, Any]:
    """A row by the names of its columns. A score that is not a number is None."""
    task = row.task
    return {
        "task": task.name,
        "type": task.type,
        "split": task.split,
        "subset": task.subset,
        "measure": task.main_score,
        "ours": _finite(row.ours),
        "seeds_mean": row.over_seeds and row.over_seeds.mean,
        "seeds_std": row.over_seeds and row.over_seeds.std,
        "published": row.published,
        "difference": _finite(row.difference),
        "tolerance": row.tolerance,
        "verdict": row.verdict,
        "why": row.why,
        "differences": list(row.differences),
        "source": row.source,
        "data_version": row.result.version,
    }


def average(average: Average) -> dict[str, Any]:
    """A mean by the names of its fields."""
    return dataclasses.asdict(average) | {"ours": _finite(average.ours)}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


_SCORES = ("scores", "parts")


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN: a score that could not be computed is null."""
    if isinstance(value, dict):
        return {key: _without_nan(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(own) for own in value]
    return _finite(value) if isinstance(value, float) else value


def _with_nan(raw: dict[str, Any]) -> dict[str, Any]:
    """The nulls among the scores as NaN again."""
    for result in raw["results"] if isinstance(raw.get("results"), list) else ():
        if isinstance(result, dict):
            result.update({name: _nulls(result[name]) for name in _SCORES if name in result})
    return raw


def _nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nulls(own) for key, own in value.items()}
    return math.nan if value is None else value

"""Tasks: which data set is scored how, with which instruction. Read from task files, which are YAML.

Knows no model and reads no data; `tasks/` holds the shipped files.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import ConfigError
from sfr_batch.storage.inputs import open_input
from sfr_batch.storage.locations import absolute_uri

RETRIEVAL, RERANKING, STS = "retrieval", "reranking", "sts"
PAIR_CLASSIFICATION, CLASSIFICATION, CLUSTERING = "pair_classification", "classification", "clustering"
SUMMARIZATION = "summarization"
QUERIES, ALL = "queries", "all"
WHOLE, SAMPLES = "whole", "samples"

MAIN_SCORES = {
    RETRIEVAL: "ndcg_at_10",
    RERANKING: "map",
    STS: "cos_sim_spearman",
    PAIR_CLASSIFICATION: "max_ap",
    CLASSIFICATION: "accuracy",
    CLUSTERING: "v_measure",
    SUMMARIZATION: "cos_sim_spearman",
}
"""The main score of each type of task, by the key that model cards use: an average of a card is one of these."""

_AT = "_at_(1|2|3|5|7|10|20|30|50|70|100|200|300|500|700|1000)"
_KNOWN_SCORES = {
    RETRIEVAL: f"(ndcg|map|recall|precision|mrr){_AT}",
    RERANKING: "map|mrr|(ndcg|map|recall|precision|mrr)_at_(10|1000)",
    STS: "(cos_sim|euclidean|manhattan)_(pearson|spearman)",
    PAIR_CLASSIFICATION: "(cos_sim|dot|euclidean|manhattan)_(accuracy|ap|f1|precision|recall)|max_(accuracy|ap|f1)",
    CLASSIFICATION: "accuracy|f1|ap",
    CLUSTERING: "v_measure(_std)?",
    SUMMARIZATION: "(cos_sim|dot)_(pearson|spearman)",
}
"""The scores that every task of a type has, by pattern: a wrong main score is found before anything is embedded."""

_ONLY_OF = {
    "samples_per_label": CLASSIFICATION,
    "clustering": CLUSTERING,
    "max_texts": CLUSTERING,
    "ignore_identical_ids": RETRIEVAL,
    "p_values": SUMMARIZATION,
}
"""Settings that one type of task has alone."""

Name = Annotated[str, Field(min_length=1)]


class Task(BaseModel):
    """One task of a task file. Unknown settings are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Name
    type: Literal[
        "retrieval", "reranking", "sts", "pair_classification", "classification", "clustering", "summarization"
    ]
    instruction: Name | None = None
    """A sentence that says what is asked for, such as "Retrieve semantically similar text."; None: queries have the
    prompt of the config, and other texts none."""
    instructed: Literal["queries", "all"]
    """Which texts get the instruction. Default: the queries of retrieval, and all texts of the other types."""
    main_score: Name
    """The score that stands for the task. Default: by its type, see MAIN_SCORES."""
    split: Name = "test"
    files: tuple[Name, ...] = Field(default=(), strict=False)
    """Names of the files that hold the split, one after the other, where the split's own name is none of a file."""
    subset: Name = "default"
    """The part of the data set that is scored, such as a language: it names the score, and finds no file."""
    parts: tuple[Name, ...] = Field(default=(), strict=False)
    """Folders below the data's path, each a data set of its own: the task's score is the mean of theirs."""
    columns: dict[str, Name] = {}
    """Columns of the data that have names of their own, by what they are, such as {text: utterance, label: intent}."""
    samples_per_label: Annotated[int, Field(ge=1)] = 8
    """Classification: from how many texts of each label an experiment learns."""
    clustering: Literal["whole", "samples"] = "whole"
    """Clustering: each set as a whole (the first tasks of mteb), or ten samples of all texts (its newer tasks)."""
    max_texts: Annotated[int, Field(ge=1)] | None = None
    """Clustering of samples: so many texts are drawn first, and only they are embedded. Default: all."""
    ignore_identical_ids: bool = False
    """Retrieval: whether a document with the id of the query itself is removed from its ranking."""
    p_values: bool = False
    """Summarization: whether the mean is taken over correlations and their p-values, as SummEval of mteb does by
    mistake: scores of it that are published were made so, and no other task should."""
    dataset: Name | None = None
    """Where the data come from, such as mteb/scifact, and their ``revision``: both are only reported."""
    revision: Name | None = None
    published_revision: Name | None = None
    """The revision of which the published score was made, where it is another one."""

    @model_validator(mode="before")
    @classmethod
    def _by_type(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        kind = given.get("type")
        defaults = {"instructed": QUERIES if kind == RETRIEVAL else ALL, "main_score": MAIN_SCORES.get(str(kind), "?")}
        return {**defaults, **given}

    @model_validator(mode="after")
    def _queries_only_where_there_are_some(self) -> "Task":
        if self.instructed == QUERIES and self.type not in (RETRIEVAL, RERANKING):
            raise ValueError(f"instructed: queries, but {self.type} has no queries: write all, or leave it out")
        return self

    @model_validator(mode="after")
    def _main_score_of_the_type(self) -> "Task":
        if not re.fullmatch(_KNOWN_SCORES[self.type], self.main_score):
            usual = MAIN_SCORES[self.type]
            raise ValueError(
                f"main_score: {self.type} has no main score {self.main_score}: write {usual}, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _settings_of_the_type(self) -> "Task":
        for name, kind in _ONLY_OF.items():
            if self.type != kind and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: {self.type} has no such setting, only {kind}: leave it out")
        if self.max_texts is not None and self.clustering != SAMPLES:
            raise ValueError(
                "max_texts: each set is clustered as a whole: write clustering: samples too, or leave it out"
            )
        return self


def shipped_tasks() -> Mapping[str, Task]:
    """The tasks of all shipped files, by name."""
    return dict(_shipped())


@cache
def _shipped() -> tuple[tuple[str, Task], ...]:
    folder = resources.files("sfr_batch.evaluation") / "tasks"
    found: dict[str, Task] = {}
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            found |= parse_tasks(file.read_text(encoding="utf-8"), file.name)
    return tuple(found.items())


def read_task_file(path: str, settings: StorageSettings) -> Mapping[str, Task]:
    """The tasks of a file, by name. Raises ConfigError, which names the file and the setting."""
    uri = absolute_uri(path)
    with open_input(uri, settings) as file:
        data = file.read()
    try:
        return parse_tasks(data.decode(), uri)
    except UnicodeDecodeError as error:
        raise ConfigError(f"The task file {uri} is not UTF-8: {error.reason} at byte {error.start}.") from None


def parse_tasks(text: str, source: str) -> dict[str, Task]:
    """The tasks of a task file's text, by name. source: its name in errors. Raises ConfigError."""
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"The task file {source} is not valid YAML: {error}") from None
    if not isinstance(raw, dict) or set(raw) != {"tasks"} or not isinstance(raw["tasks"], list) or not raw["tasks"]:
        raise ConfigError(f"The task file {source} must have one key, tasks, with a list of tasks.")
    found: dict[str, Task] = {}
    for number, given in enumerate(raw["tasks"], start=1):
        name = given.get("name") if isinstance(given, dict) else None
        try:
            task = Task.model_validate(given)
        except ValidationError as error:
            lines = [f"  {'.'.join(map(str, item['loc'])) or 'task'}: {_message(item)}" for item in error.errors()]
            raise ConfigError(f"{source}: task {number} ({name or 'without a name'}):\n" + "\n".join(lines)) from None
        if task.name in found:
            raise ConfigError(f"{source}: task {number}: there is another task {task.name}. Give it a name of its own.")
        found[task.name] = task
    return found


def _message(item: Mapping[str, object]) -> str:
    if item["type"] == "extra_forbidden":
        return f"unknown setting. Known: {', '.join(Task.model_fields)}"
    if item["type"] == "missing":
        return "missing, and it has no default"
    return str(item["msg"]).removeprefix("Value error, ")

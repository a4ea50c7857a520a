"""Which tasks are evaluated, and where their data lie: from `evaluation` of a config to tasks with paths.

Reads task files and no data.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sfr_batch.config.settings import Config
from sfr_batch.errors import ConfigError
from sfr_batch.evaluation.task_files import Task, read_task_file, shipped_tasks


@dataclass(frozen=True, slots=True)
class Chosen:
    """A task, and the path of its data."""

    task: Task
    path: str

    @property
    def parts(self) -> Mapping[str, str]:
        """The path of each part, by its name; of a task without parts its own, by an empty name."""
        return {part: f"{self.path.rstrip('/')}/{part}" for part in self.task.parts} or {"": self.path}


def choose(config: Config, names: Sequence[str] = ()) -> list[Chosen]:
    """The tasks of `evaluation.tasks`, in their order. names: only these. Raises ConfigError for an unknown name."""
    settings = config.evaluation
    if not settings.tasks:
        raise ConfigError(
            "evaluation.tasks is empty. Say where the data of a task lie: evaluation.tasks.SciFact=data/scifact."
        )
    known = dict(shipped_tasks())
    for path in settings.task_files:
        known |= read_task_file(path, config.corpus.storage)
    for name in settings.tasks:
        if name not in known:
            raise ConfigError(
                f"evaluation.tasks.{name}: there is no such task.{_near(name, known)} A task of your own goes into a "
                "file of evaluation.task_files."
            )
    for name in names:
        if name not in settings.tasks:
            raise ConfigError(
                f"The task {name} has no data: evaluation.tasks names {', '.join(settings.tasks)}. Add "
                f"evaluation.tasks.{name}=PATH."
            )
    return [Chosen(known[name], path) for name, path in settings.tasks.items() if not names or name in names]


def _near(name: str, known: Mapping[str, Task]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]}?" if close else ""

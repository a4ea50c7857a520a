"""The scores of tasks that are done, kept beside the tables, so that a repeated evaluation goes on with the others.

Knows objects of a store; knows no measure.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from sfr_batch.evaluation.report.report import Evaluation
from sfr_batch.evaluation.results import Made, TaskResult
from sfr_batch.evaluation.task_files import CLUSTERING, MAIN_SCORES, Task
from sfr_batch.format.fingerprint import digest
from sfr_batch.format.library_versions import installed
from sfr_batch.storage.store import Store

RULES = {**dict.fromkeys(MAIN_SCORES, 2), CLUSTERING: 3}
"""By type of task, the version of how scores are made from vectors: raise it if any score would come out otherwise than
before, or there is one more. Results of another version are made again, of the vectors that are there."""
_LIBRARIES = (
    "sfr-batch",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "pyarrow",
    "scipy",
    "scikit-learn",
    "pytrec-eval-terrier",
)


def library_versions() -> dict[str, str]:
    """The versions of the libraries that compute vectors and scores, as far as they are installed."""
    return installed(_LIBRARIES)


class Kept:
    """Results and their files in the folder results/ of a store."""

    def __init__(self, store: Store, made: Made) -> None:
        """made: what the results are made with."""
        self._store = store
        self._made = made
        self._there = {info.key for info in store.list("results")}

    def key(self, task: Task, made_with: Mapping[str, Any]) -> str:
        """Where a result is kept. made_with: everything else that can change it, as values of JSON."""
        made = {"model": self._made.fingerprint, "versions": dict(self._made.versions), "rule": RULES[task.type]}
        return f"results/{quote(task.name, safe='')}-{digest({**made, **made_with})[:12]}"

    def find(self, key: str) -> TaskResult | None:
        """The result that is kept there."""
        if f"{key}.json" not in self._there:
            return None
        name = f"{key}.json"
        (result,) = Evaluation.from_json(self._store.read(name), f"{self._store.root}/{name}").results
        return result

    def keep(self, key: str, result: TaskResult) -> None:
        """Keep a result, as the report of one task. Its files are written before: it says that they are whole."""
        self.write(f"{key}.json", Evaluation(self._made, (result,)).to_json().encode())

    def write(self, key: str, data: bytes) -> str:
        """Write a file, in the place of one that an evaluation left which was stopped. Returns its URI."""
        if key in self._there:
            self._store.delete([key])
        self._store.create(key, data)
        self._there.add(key)
        return f"{self._store.root}/{key}"

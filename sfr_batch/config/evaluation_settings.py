"""The section `evaluation` of a config. Pure values with their validation, as in `settings`."""

from pydantic import model_validator

from sfr_batch.config.section import Section
from sfr_batch.config.setting_types import Location, Text


class EvaluationSettings(Section):
    """What `sfr-batch evaluate` scores the model with. No other command looks at it."""

    path: Location | None = None
    """Folder or s3:// prefix for the tables, the run files and the scores of evaluations, reached with `table.storage`.
    A repeated evaluation finds there what is done. Default: `table.path` with `-evaluation` behind it."""
    tasks: dict[Location, Location] = {}
    """Where the data of each task lie, by the name of the task: `{SciFact: data/scifact}`, a folder or an s3:// prefix,
    read with `corpus.storage`."""
    task_files: list[Location] = []
    """YAML files with tasks of your own, beside those that are shipped. Of a name that both have, yours counts."""
    published: list[Location] = []
    """Published scores to lay beside: model cards with a `model-index` (README.md), result files of mteb, or folders
    of these."""
    prompt: Text | None = None
    """Form of the text before an instructed text, with `{instruction}` where the instruction of the task stands.
    Default: that of `model.prompts.query`, if it has the form "Instruct: …\\nQuery: "; else the prompts stay as they
    are, whatever the task: of `model.prompts` that with the name of the task or of its type as mteb has it (`STS`,
    `Classification`, `Retrieval-query`), else `query`."""
    unnormalized: bool = False
    """Whether classification uses the vectors before they are normalized, as the authors of SFR-Embedding-Mistral did.
    The model is then loaded in this process, too: such vectors are never written to a table."""

    @model_validator(mode="after")
    def _has_a_place_for_the_instruction(self) -> "EvaluationSettings":
        if self.prompt is not None and "{instruction}" not in self.prompt:
            raise ValueError("prompt must have {instruction} where the instruction of a task stands")
        return self

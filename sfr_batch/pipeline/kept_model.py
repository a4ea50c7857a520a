"""The model between jobs that run in this process, one after the other: it is loaded once, not for each.

Knows which jobs have the same model, and nothing of splits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from sfr_batch.pipeline import encode_stage
from sfr_batch.pipeline.job import Job

if TYPE_CHECKING:
    from sfr_batch.encoder.encoder import Encoder

_OF_TOKENS = ("prompts", "overflow", "chunk_tokens", "chunk_overlap")
_OF_ROWS = ("prompt", "overflow", "chunk_tokens", "chunk_overlap", "chunk_rule", "vector_dtype")
"""Settings of a model, and inputs of its fingerprint, that do not change what it makes of the ids of a row."""


class KeptModel:
    """Holds the model of the last job, and its memory, until another one is asked for."""

    def __init__(self) -> None:
        self._of: Any = None
        self._encode: encode_stage.Encode | None = None

    def encode(self, job: Job) -> encode_stage.Encode:
        """The stage with the model of a job, which is loaded unless it is that of the last one."""
        wanted = _same_for(job)
        if self._encode is None or self._of != wanted:
            self.forget()  # first, so that there are never two
            self._encode, self._of = encode_stage.Encode(job, own_process=False), wanted
        stage = self._encode
        if stage.problem:
            self.forget()
        return stage

    @property
    def encoder(self) -> "Encoder | None":
        """The model that is held; None if no job has run in this process."""
        return None if self._encode is None else self._encode.encoder

    def forget(self) -> None:
        """Let go of the model, such as one whose device has failed."""
        self._encode = None


_kept: ContextVar[KeptModel | None] = ContextVar("sfr_batch_kept_model", default=None)


@contextmanager
def keeping(model: KeptModel) -> Iterator[None]:
    """Jobs inside that run in this process take the model from there. After an error, the next one loads it anew."""
    token = _kept.set(model)
    try:
        yield
    except BaseException:
        model.forget()
        raise
    finally:
        _kept.reset(token)


def encode_stage_of(job: Job) -> encode_stage.Encode:
    """The encode stage of a job in this process."""
    kept = _kept.get()
    return encode_stage.Encode(job, own_process=False) if kept is None else kept.encode(job)


def _same_for(job: Job) -> Any:
    model = job.model.model_dump(exclude=set(_OF_TOKENS))
    inputs = {name: value for name, value in job.inputs.items() if name not in _OF_ROWS}
    return model, inputs, job.max_batch_tokens, job.packed, job.fuse, job.torch_threads

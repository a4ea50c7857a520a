"""The encode stage: token ids in, vectors out, with one model per actor. Never touches storage."""

import json
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from sfr_batch.encoder.encoded import WithCanaries
from sfr_batch.encoder.libraries import load_libraries
from sfr_batch.errors import DeviceError, SfrBatchError
from sfr_batch.format import names
from sfr_batch.pipeline.job import Job, explain
from sfr_batch.pipeline.model_files import check_planned
from sfr_batch.pipeline.packing import binary_column, from_ipc, ipc_buffer
from sfr_batch.pipeline.work import TIMES

if TYPE_CHECKING:
    from sfr_batch.encoder.encoder import Encoder


def load_encoder(job: Job, *, own_process: bool) -> "Encoder":
    """The model of a job on this node's device, if it is the one that the run was planned with.

    own_process: whether this process is there for the model alone, see `threads_of_a_run`. Raises ModelError,
    ConfigError or StorageError.
    """
    load_libraries()  # torch among them, which readers and writers do without
    from sfr_batch.encoder.encoder import Encoder
    from sfr_batch.encoder.threads import threads_of_a_run

    encoder = Encoder.load(
        job.model,
        max_batch_tokens=job.max_batch_tokens,
        packed=job.packed,
        fuse=job.fuse,
        torch_threads=threads_of_a_run(job.torch_threads, job.model.device, own_process=own_process),
        weight_hashes=job.inputs["weights"],
        memory_share=job.gpus if own_process else 1,
    )
    check_planned(job.model, encoder.recipe, encoder.tokenizer, job.inputs)
    return encoder


AT_ONCE = 2
"""Splits that an actor on a GPU has at once: one is given to the device while the vectors of the other are fetched."""


class Encode:
    """An actor that holds the model. Returns tables and never yields. Calls may come from several threads: they take
    turns at the device."""

    device = ""
    """The kind of its device, such as NVIDIA H200; empty without a model."""
    remark = ""
    """What is to be said of the model and its device, and does no harm; empty if there is nothing."""
    overlaps = False
    """Whether the device computes while the host does something else."""
    patience_s = 15 * 60.0
    """Seconds for which such a device may finish no batch: the largest one takes a minute on an old GPU."""
    _ended = 0.0
    """When the last split ended, by time.perf_counter."""

    def __init__(self, job: Job, *, own_process: bool = True) -> None:
        """own_process: see `load_encoder`. Raises DeviceError, as when it is called."""
        self.problem: str | None = None
        """The reason why the model cannot be used, which is then the error of every split; None if it can."""
        try:
            load_libraries()
            from sfr_batch.encoder import segments
            from sfr_batch.encoder.canaries import Canaries
            from sfr_batch.encoder.devices import count_gpus, kind_of

            self.encoder = load_encoder(job, own_process=own_process)
            self._canaries = Canaries(self.encoder)
            self.device = kind_of(job.model.device)
            self.remark = "; ".join(filter(None, (segments.let_grow(job.model.device), self.encoder.remark)))
            self.overlaps = job.model.device == "cuda"
            if self.overlaps and not own_process and (gpus := count_gpus()) > 1:  # Ray shows an actor its own
                all_of_them = f"run.actors.max={gpus} with run.ray_address=local uses all"
                self.remark = f"1 of {gpus} GPUs is used: {all_of_them}. {self.remark}".rstrip()
        except DeviceError:
            raise
        except (SfrBatchError, ModuleNotFoundError) as error:
            # An exception here would look like a lost machine and be retried; as a result it ends the run.
            self.problem = explain(error)

    @property
    def steps(self) -> int:
        """See `Encoder.steps`."""
        return self.encoder.steps

    @classmethod
    def failing(cls, problem: str) -> "Encode":
        """A stage without a model, which gives every split this error."""
        stage = cls.__new__(cls)
        stage.problem = problem
        return stage

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One split in; out comes the same with vectors instead of token ids.

        Raises DeviceError, which is no fault of the split: this process must then be replaced.
        """
        return self.begin(batch)()

    def begin(self, batch: pa.Table) -> Callable[[], pa.Table]:
        """Give a split to the device. What it returns waits for the vectors, and gives what a call does; another split
        may begin before. Raises DeviceError, as that does."""
        error, fetch = batch.column("error")[0].as_py() or self.problem, None
        started = time.perf_counter()
        if not error:
            try:
                lengths = from_ipc(batch.column("rows")).column(names.N_TOKENS).to_numpy()
                if len(lengths):
                    flat_ids = np.frombuffer(ipc_buffer(batch.column("token_ids")), dtype=np.int32)
                    fetch = self._canaries.launch(lengths, flat_ids)
            except DeviceError:
                raise
            except Exception as failure:
                error = explain(failure)
        return lambda: self._end(batch, fetch, error, started)

    def _end(
        self, batch: pa.Table, fetch: Callable[[], WithCanaries] | None, error: str | None, started: float
    ) -> pa.Table:
        vectors, tokens, padded = np.empty(0, dtype=np.float32), 0, 0
        canaries, drift = 0, 0.0
        failed: Mapping[int, str] = {}
        try:
            if fetch:
                encoded, canaries, drift = fetch()
                vectors, tokens, padded = encoded.vectors, encoded.tokens, encoded.padded_tokens
                failed = encoded.failed
        except DeviceError:
            raise
        except Exception as failure:
            error = explain(failure)
        ended = time.perf_counter()
        took, self._ended = max(0.0, ended - max(started, self._ended)), ended  # no second counts twice
        return pa.table(
            {
                "split": batch.column("split"),
                "rows": batch.column("rows"),
                "rejects": batch.column("rejects"),
                "vectors": binary_column(pa.py_buffer(np.ascontiguousarray(vectors))),
                "encoded_tokens": [tokens],
                "padded_tokens": [padded],
                "encode_seconds": [took],
                "canaries": [canaries],
                "drift": [drift],
                "failed": [json.dumps(dict(failed))],
                "error": pa.array([error], pa.string()),
                TIMES: batch.column(TIMES),
            }
        )

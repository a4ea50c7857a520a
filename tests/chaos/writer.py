"""Runs of `embed` in processes that are cheap to start and may be killed: forks of one warm process.

    python -m tests.chaos.writer

Reads orders as lines of JSON and answers each with how the run ended. The run is the real one, in one process and
without Ray. Two things are not: the store has a failpoint, and the encoder makes vectors of token ids by arithmetic.
The process that forks has no threads and no open connections; each fork opens its own.
"""

import functools
import gc
import json
import os
import signal
import subprocess
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import numpy as np
import pyarrow.dataset  # noqa: F401  # what is imported here is there in every fork
import s3fs  # noqa: F401
from botocore.session import get_session
from numpy.typing import NDArray

from sfr_batch.cli import start, streams
from sfr_batch.config.loading import config_from_dict
from sfr_batch.config.settings import Config, ModelSettings
from sfr_batch.format.fingerprint import canonical_json
from sfr_batch.pipeline import display as pipeline_display
from sfr_batch.pipeline import encode_stage, model_files, progress_record, runner, write_stage
from sfr_batch.pipeline.job import Job
from sfr_batch.planning import card, make
from sfr_batch.planning.card import model_inputs
from sfr_batch.storage.stores import open_store
from tests.chaos.bugs import BUGS
from tests.chaos.displays import Breakage, Display
from tests.chaos.failpoints import Failpoint, FailpointStore
from tests.s3server import read_models_once

ROOT = Path(__file__).parents[2]
_HANG_S = 120.0
_KILLED = -signal.SIGKILL


def vectors_of_tokens(lengths: NDArray[np.integer], flat_ids: NDArray[np.int32], dim: int) -> NDArray[np.float32]:
    """[n, dim] of unit length, each a function of its row's token ids alone."""
    rows = np.split(np.ascontiguousarray(flat_ids, dtype=np.int32), np.cumsum(lengths)[:-1])
    vectors = np.stack([np.random.default_rng(zlib.crc32(row.tobytes())).normal(size=dim) for row in rows])
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class ArithmeticEncode(encode_stage.Encode):
    """The encode stage without a model."""

    def __init__(self, job: Job, *, own_process: bool = True) -> None:
        dim = job.card.schema.field("embedding").type.list_size
        self.problem = None

        def launch(lengths: Any, flat_ids: Any) -> Callable[[], tuple[Any, int, float]]:
            vectors, tokens = vectors_of_tokens(lengths, flat_ids, dim), int(lengths.sum())
            return lambda: (SimpleNamespace(vectors=vectors, tokens=tokens, padded_tokens=tokens, failed={}), 0, 0.0)

        self._canaries: Any = SimpleNamespace(launch=launch)


@dataclass(frozen=True)
class Order:
    """One run: the config, where to die if anywhere, and a planted bug if any."""

    config: dict[str, Any]
    failpoint: Failpoint | None = None
    kill_after_s: float | None = None
    """Kill it from outside."""
    bug: str | None = None
    display: Breakage | None = None
    """If there is one, it is a run of the command, whose streams break."""


@dataclass(frozen=True)
class Ending:
    """How a run ended: exit code (-9: killed), seconds, its output, and the operations of a run that was not killed."""

    code: int
    seconds: float
    output: str
    operations: dict[str, int]
    broken: bool = False
    """Whether its display broke before it ended."""

    @property
    def killed(self) -> bool:
        return self.code == _KILLED


class Writers:
    """The warm process, seen from a test. A context manager."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._environment = {**os.environ, **(environment or {}), "TOKENIZERS_PARALLELISM": "false"}

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.writer", str(self._folder)],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def run(self, order: Order) -> Ending:
        """Carry out an order. Raises AssertionError if the run hangs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(asdict(order)) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BaseException:  # a test's timeout: the answer that is still to come must not be taken for another one's
            self._process.kill()
            self.__enter__()
            raise
        assert answer, f"the warm process has ended with {self._process.wait()}"
        ending = Ending(**json.loads(answer))
        assert ending.seconds < _HANG_S, f"a run did not end:\n{ending.output}"
        return ending


def _run(order: Order, folder: Path) -> None:
    """In the fork: one run with its output and, in the end, its operations in files."""
    output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    seen: Counter[str] = Counter()
    display = Display(order.display, folder / "broken") if order.display else None

    def with_failpoint(*arguments: Any) -> Any:
        return FailpointStore(open_store(*arguments), order.failpoint, seen, *([display.count] if display else []))

    make.open_store = write_stage.open_store = with_failpoint  # type: ignore[attr-defined]
    encode_stage.Encode = ArithmeticEncode  # type: ignore[misc]
    progress_record.EVERY_S = 0.02  # type: ignore[misc]
    if order.bug:
        BUGS[order.bug].plant()
    if display:
        _run_command(order.config, folder)
        return
    runner.embed(config_from_dict(order.config))
    (folder / "operations").write_text(json.dumps(seen))


def _run_command(config: dict[str, Any], folder: Path) -> None:
    config["run"]["progress_every_s"] = 0.01
    (folder / "job.yaml").write_text(json.dumps(config))
    pipeline_display.PATIENCE_S = streams.LAST_WORDS_S = 0.2
    sys.argv = ["sfr-batch", "embed", str(folder / "job.yaml")]
    start.main()


def _fork(order: Order, folder: Path) -> Ending:
    (folder / "operations").write_text("{}")
    (folder / "output").write_text("")
    (folder / "broken").unlink(missing_ok=True)
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            _run(order, folder)
            os._exit(0)
        except SystemExit as ended:  # of the command
            os._exit(int(ended.code or 0))
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(1)
    deadline = started + (_HANG_S if order.kill_after_s is None else order.kill_after_s)
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(ended[1])
    return Ending(
        code=code,
        seconds=time.monotonic() - started,
        output=(folder / "output").read_text(errors="replace"),
        # One that was killed may have been about to write them.
        operations={} if code == _KILLED else json.loads((folder / "operations").read_text()),
        broken=(folder / "broken").exists(),
    )


def _warm_up() -> None:
    """What every fork would do again: botocore parses megabytes of JSON for each client."""
    read_models_once()
    get_session().create_client("s3", region_name="us-east-1", aws_access_key_id="-", aws_secret_access_key="-")


def _read_model(config: Config) -> None:
    """Its small files, once for all forks, which plan with what was read."""
    inputs = _model_inputs(config.model.model_dump_json(), config.table.vector_dtype)
    card.model_inputs = lambda *_: inputs
    model_files._tokenizer(config.model.model_dump_json(), canonical_json(inputs))


@functools.cache
def _model_inputs(model_json: str, vector_dtype: str) -> dict[str, Any]:
    return model_inputs(ModelSettings.model_validate_json(model_json), vector_dtype)


def main(folder: Path) -> None:
    """Carry out orders until there are no more."""
    _warm_up()
    gc.freeze()  # no fork looks for garbage in what is loaded here, which would copy all of it
    for line in sys.stdin:
        raw = json.loads(line)
        failpoint, display = raw.pop("failpoint"), raw.pop("display")
        order = Order(
            failpoint=Failpoint(**failpoint) if failpoint else None,
            display=Breakage.from_dict(display) if display else None,
            **raw,
        )
        _read_model(config_from_dict(order.config))
        print(json.dumps(asdict(_fork(order, folder))), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Splits through the stages in this process: one thread reads ahead, the caller's thread encodes, two threads write;
from a GPU they also fetch.

The same stages and the same results as on Ray. There is no queue: a thread gets one split at a time, so memory holds a
handful of splits however large the corpus is, and stopping only waits for the splits in progress. Knows no Ray; what a
result means is the runner's.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import pyarrow as pa

from sfr_batch.corpus.splits import ReadUnit, joined
from sfr_batch.errors import RunFailed
from sfr_batch.format.records import Receipt
from sfr_batch.pipeline import display, encode_stage, kept_model, packing, read_stage, write_stage
from sfr_batch.pipeline.actor_time import ENCODING, ignored
from sfr_batch.pipeline.job import Job
from sfr_batch.pipeline.results import Failure, results
from sfr_batch.pipeline.work import untold

_READ_AHEAD = 2
"""Splits that are tokenized in advance: the second one bridges the start of the next unit."""
_TOGETHER = 8
"""Most packed splits that are read together; their texts are in memory meanwhile."""
_WRITERS = 2
"""Splits that are written while the next one is encoded."""


def execute(
    units: Sequence[ReadUnit],
    job: Job,
    enter: Callable[[str], None] = lambda stage: None,
    count: Callable[[int, str], None] = ignored,
    work: Callable[[str], None] = untold,
) -> Generator[Receipt | Failure, None, None]:
    """Read, tokenize, encode and write: yields the receipt or failure of each split as it comes.

    enter: is called with each stage of the run. count: with the number of actors, which is one as long as the model is
    there, and the kind of its device. work: see `results`. Raises RunFailed if the model cannot be loaded. Close the
    iterator to stop: it returns when the threads have ended and all encoded splits are written.
    """
    rows = (row for unit in joined(units, _TOGETHER) for row in read_stage.read_and_tokenize(_one_unit(unit), job))
    reader = ThreadPoolExecutor(1, thread_name_prefix="sfr-read")
    writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="sfr-write")
    try:
        # Before the model is loaded: that takes seconds, and the first splits are ready when it is.
        ahead = deque(reader.submit(next, rows, None) for _ in range(_READ_AHEAD))
        enter("loading the model")
        count(1, "")
        encode = kept_model.encode_stage_of(job)
        if encode.problem:
            raise RunFailed(encode.problem)
        if encode.remark:
            display.say(encode.remark)
        enter(ENCODING)
        count(1, encode.device)
        writing: set[Future[pa.Table]] = set()
        while ahead or writing:
            may_encode = bool(ahead) and len(writing) < _WRITERS
            done, _ = wait({*writing, *([ahead[0]] if may_encode else [])}, return_when=FIRST_COMPLETED)
            for written in done & writing:
                writing.remove(written)
                yield from results(written.result(), work)
            if may_encode and ahead[0].done():
                row = ahead.popleft().result()
                if row is None:
                    ahead.clear()
                else:
                    ahead.append(reader.submit(next, rows, None))
                    writing.add(writers.submit(_write, _encoded(encode, row), job))
    finally:
        count(0, "")
        reader.shutdown(cancel_futures=True)
        writers.shutdown()


def _encoded(encode: encode_stage.Encode, row: pa.Table) -> Callable[[], pa.Table]:
    """A split with its vectors. On a GPU, the one that asks for it waits for them: meanwhile the next split begins."""
    if encode.overlaps:
        return encode.begin(row)
    encoded = encode(row)
    return lambda: encoded


def _write(encoded: Callable[[], pa.Table], job: Job) -> pa.Table:
    return write_stage.write(encoded(), job)


def _one_unit(unit: ReadUnit) -> pa.Table:
    return pa.table({"unit": [packing.unit_to_json(unit)]})

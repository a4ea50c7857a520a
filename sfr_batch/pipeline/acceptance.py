"""Accepts the inputs of the fingerprint that an older table does not record: embeds drawn rows again, then records.

What is drawn and how it is judged is known to `planning.acceptance`. The rows go through the encoder of the encode
stage, where that stage gets its device: in this process, or on Ray.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sfr_batch.errors import counted
from sfr_batch.format.records import Receipt
from sfr_batch.model.prompts import DOCUMENT, resolve
from sfr_batch.pipeline import placement
from sfr_batch.pipeline.display import say
from sfr_batch.pipeline.encode_stage import load_encoder
from sfr_batch.pipeline.job import Job
from sfr_batch.planning.acceptance import draw, largest_distance
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.table.commit.writing import accept_inputs
from sfr_batch.table.table import Table


def accept(table: Table, plan: EmbedPlan, job: Job, adopted: Sequence[Receipt], place: str) -> EmbedPlan:
    """Record today's inputs that the table lacks, if they are still those that made its vectors. Returns the plan of a
    table that has accepted them.

    adopted: receipts of data files that the next snapshot takes over from interrupted runs. place: where to embed, see
    `placement`. Raises TableMismatch if they are not, or if another run has accepted other ones; else what reading the
    corpus and loading a model raise.
    """
    drawn = draw(plan, adopted)
    names = " and ".join(plan.later_inputs)
    if drawn.texts:
        say(f"An older release made this table. Embedding {counted(len(drawn.texts), 'row')} again to accept {names}.")
    if 0 < len(drawn.texts) < drawn.wanted:
        say(f"Warning: of {counted(drawn.rows, 'row')} only these have their text in the corpus.")
    vectors = _embed(drawn.texts, job, plan, place) if drawn.texts else drawn.vectors
    accept_inputs(table, plan.later_inputs, job.run_id, len(drawn.texts), largest_distance(drawn, vectors, plan))
    return dataclasses.replace(plan, accepted=plan.later_inputs)


def embed_texts(texts: Sequence[str], job: Job, *, own_process: bool = True) -> NDArray[np.float32]:
    """[n, d] vectors of ``texts`` as the stages of a run make them; NaN where a text has none. Loads the model.

    own_process: see `load_encoder`.
    """
    # A few rows: to compile kernels would take longer.
    encoder = load_encoder(dataclasses.replace(job, fuse=False), own_process=own_process)
    limit = job.model.chunk_tokens if job.model.overflow == "chunk" else None
    tokenized = encoder.tokenizer.encode(texts, resolve(encoder.recipe.prompts, DOCUMENT), limit)
    vectors = np.full((len(texts), encoder.dim), np.nan, np.float32)
    rows = np.flatnonzero(tokenized.lengths)
    if len(rows):
        some = tokenized.take(rows)
        vectors[rows] = encoder.encode_tokens(some.lengths, some.flat_ids).vectors
    return vectors


def _embed(texts: Sequence[str], job: Job, plan: EmbedPlan, place: str) -> NDArray[np.float32]:
    if place == placement.HERE:
        return embed_texts(texts, job, own_process=False)
    from sfr_batch.pipeline import execution  # imports ray, which takes seconds

    with execution.cluster(plan.config, place):
        vectors: NDArray[np.float32] = execution.call(embed_texts, texts, job, actors=plan.config.run.actors)
        return vectors

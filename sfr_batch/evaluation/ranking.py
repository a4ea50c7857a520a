"""The ranked documents of queries, with one rule for ties, and the run file that TREC's tools read.

Knows ids and scores; knows no table, no model and no measure.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sfr_batch.table.nearest import FloatArray

Qrels = Mapping[str, Mapping[str, int]]
"""Judgements: by query, the grade of each document that somebody has judged; 0 is not relevant."""

_NO_FIELD = re.compile(r"[\s%]")


@dataclass(frozen=True, slots=True)
class Ranked:
    """The documents that were found for one query, best first."""

    documents: Sequence[str]
    scores: FloatArray
    """[n] float32, strictly falling: tools that sort them again, each with a tie rule of its own, keep this order."""


Ranking = Mapping[str, Ranked]
"""What was found, by the id of the query. A query for which nothing was found has no documents, and counts."""


def ranked(documents: Sequence[str], scores: FloatArray) -> Ranked:
    """Documents in their order, best first. scores: [n] not rising.

    A score that is not below the one before becomes the next float32 below that: of equal scores, trec_eval puts the
    largest id first, and other tools any.
    """
    falling = np.array(scores, np.float32)
    ties = np.flatnonzero(falling[1:] >= falling[:-1])
    for at in range(int(ties[0]) + 1, len(falling)) if len(ties) else ():
        falling[at] = min(falling[at], np.nextafter(falling[at - 1], np.float32(-np.inf)))
    return Ranked(documents, falling)


def run_file(ranking: Ranking, tag: str) -> Iterator[str]:
    """The lines of a run file: query, Q0, document, rank from 1, score, tag. See `field` for ids with white space."""
    for query, found in ranking.items():
        for rank, (document, score) in enumerate(zip(found.documents, found.scores, strict=True), start=1):
            shown = np.format_float_positional(score, unique=True, trim="0")
            yield f"{field(query)} Q0 {field(document)} {rank} {shown} {field(tag)}\n"


def qrels_file(qrels: Qrels) -> Iterator[str]:
    """The lines of the file of judgements that goes with a run file: query, 0, document, grade."""
    for query, grades in qrels.items():
        yield from (f"{field(query)} 0 {field(document)} {grade}\n" for document, grade in grades.items())


def field(text: str) -> str:
    """An id as a field of these files, which white space divides: such characters and % are percent-encoded."""
    return _NO_FIELD.sub(lambda found: "".join(f"%{byte:02X}" for byte in found.group().encode()), text)

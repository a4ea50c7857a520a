"""What one split gives, counted as the run will count it: with the run's own reading, tokenizing and batching.

A split with much text is read whole, since repeats show in no other way; of its distinct texts some are then tokenized,
drawn by their size. Knows no device, no other split and no money.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.config.settings import LARGE_MODEL_TOKENS
from sfr_batch.corpus.rows import Rows
from sfr_batch.corpus.splits import Split
from sfr_batch.encoder.batching import length_batches, padded_tokens, unique_rows
from sfr_batch.format import names
from sfr_batch.format.parquet import encode_parquet
from sfr_batch.pipeline.job import Job
from sfr_batch.pipeline.packing import from_ipc, ipc_buffer
from sfr_batch.pipeline.read_stage import POSITION, tokenize

_LONGEST = 2**16
"""Characters of a text of which the beginning alone is tokenized where not all texts are; more, if a row takes more."""
_FEWEST, _MOST = 200, 4000
"""Texts of such a split that are tokenized."""
_CHARACTERS_A_TOKEN = 32
"""More characters than a token has in any text: of so many for each token, a row is full."""
_A_TOKEN = 8
"""Characters of a token, mostly fewer: a text of so many for each token of a full row counts as one that fills it."""
_FOOTER = 2000
"""Bytes of a data file for its receipt and for what Parquet says of vectors, about."""
_BESIDE = 16
"""Characters by which each text counts more than it has, for what is put around it."""


@dataclass(frozen=True)
class SplitCounts:
    """What a split gives. Counts may be fractions, where not all texts were tokenized."""

    rows: float = 0
    """Documents that are embedded."""
    rejected: float = 0
    vectors: float = 0
    truncated: float = 0
    tokens: float = 0
    tokens_full: float = 0
    """Tokens of the documents, before truncation."""
    encoded: float = 0
    """Tokens that are computed: without those of repeated rows."""
    padded: float = 0
    """``encoded`` with padding."""
    pairs: float = 0
    """Of ``encoded``, the sum of the squares of the rows' lengths: attention looks at pairs of tokens."""
    characters: float = 0
    """Of all texts, which are read and tokenized."""
    other_bytes: float = 0
    """Bytes of the data file beside the vectors."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Rejects by reason."""
    error: float = 0.0
    """Standard error of ``tokens``, as a share of it; 0 where all texts were tokenized."""

    def plus(self, other: "SplitCounts") -> "SplitCounts":
        """Both together."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in FIELDS}
        error = math.hypot(self.error * self.tokens, other.error * other.tokens) / max(1.0, sums["tokens"])
        return SplitCounts(**sums, reasons=self.reasons + other.reasons, error=error)


FIELDS = tuple(field.name for field in dataclasses.fields(SplitCounts) if field.name not in ("reasons", "error"))
"""Names of the counts."""


def count_split(split: Split, rows: Rows, job: Job, characters: int) -> SplitCounts:
    """The counts of a split. characters: of text that are tokenized at most, about; more than the split has: all is
    counted exactly. Raises as `read_stage.tokenize`."""
    total = sum(map(len, rows.texts))
    everything = total <= characters
    drawn = _Drawn.all(rows) if everything else _Drawn.draw(rows, job, characters)
    most = max(map(len, rows.texts), default=0) if everything else _beginning(job)
    texts = [rows.texts[number] for number in drawn.numbers]
    some = dataclasses.replace(
        rows.take(pa.array(drawn.numbers, pa.int64())),
        texts=[text[:most] for text in texts],
        positions=pa.array(np.arange(len(texts))),  # so that what comes back tells which text it is of
    )
    parts = _Parts.of(tokenize(split, some, job))
    longer = np.array([max(1.0, len(text) / max(1, most)) for text in texts])
    chunked = job.model.overflow == "chunk"
    distinct = (drawn.weights * (longer if chunked else 1.0))[parts.document]  # rows that each row stands for
    if everything:
        own = parts.lengths[unique_rows(parts.lengths, parts.flat_ids)[0]]
        encoded, padded, pairs = float(own.sum()), float(_padded(own, job)), float(own @ own)
    else:
        alike = np.repeat(parts.lengths, np.maximum(1, np.rint(distinct)).astype(np.int64))
        encoded = float(parts.lengths @ distinct)
        padded = encoded * _padded(alike, job) / max(1, int(alike.sum()))
        pairs = float(parts.lengths**2 @ distinct)
    vectors = distinct * drawn.repeats[parts.document]
    documents = drawn.weights * drawn.repeats
    heads = parts.heads
    own_documents = documents[parts.document[heads]]
    reasons: Counter[str] = Counter(rows.rejects.column(names.REASON).to_pylist())
    for reason, number in parts.rejects():
        reasons[reason] += documents[number]
    rejected = float(sum(reasons.values()))
    return SplitCounts(
        rows=len(rows.texts) + rows.rejects.num_rows - rejected,
        rejected=rejected,
        vectors=float(vectors.sum()),
        truncated=float(own_documents @ parts.column(names.TRUNCATED)[heads]),
        tokens=float(parts.lengths @ vectors),
        tokens_full=float((parts.column(names.N_TOKENS_FULL)[heads] * longer[parts.document[heads]]) @ own_documents),
        encoded=encoded,
        padded=padded,
        pairs=pairs,
        characters=total,
        other_bytes=_FOOTER + parts.bytes_beside() * float(vectors.sum()) / max(1, len(vectors)),
        reasons=reasons,
        error=drawn.error(np.bincount(parts.document, parts.lengths * distinct, len(texts)).astype(np.float64)),
    )


@dataclass(frozen=True)
class _Drawn:
    """The texts of a split that are tokenized: their numbers, how many distinct texts of the split each stands for, and
    how often it is in the split itself."""

    numbers: NDArray[np.int64]
    weights: NDArray[np.float64]
    repeats: NDArray[np.float64]
    picks: NDArray[np.float64] | None = None
    """How often each was drawn; None if all texts are here."""

    def error(self, tokens: NDArray[np.float64]) -> float:
        """The standard error of the sum of the ``tokens`` [n] that the texts stand for, as a share of it."""
        if self.picks is None or not tokens.any():
            return 0.0
        each = tokens * self.repeats / self.picks  # of one draw
        spread = np.average((each - np.average(each, weights=self.picks)) ** 2, weights=self.picks)
        return float(np.sqrt(spread * self.picks.sum()) / (tokens @ self.repeats))

    @classmethod
    def all(cls, rows: Rows) -> "_Drawn":
        ones = np.ones(len(rows.texts))
        return cls(np.arange(len(rows.texts)), ones, ones)

    @classmethod
    def draw(cls, rows: Rows, job: Job, characters: int) -> "_Drawn":
        """Drawn by size, at even steps through all texts from the shortest to the longest: no length is left out."""
        most = None if job.model.overflow == "chunk" else _A_TOKEN * _limit(job)
        keys = [text[:most] for text in rows.texts]  # what is beyond a full row makes no text another one
        count: Counter[str] = Counter(keys)
        first: dict[str, int] = {}
        for number, key in enumerate(keys):
            first.setdefault(key, number)
        numbers = np.array(sorted(first.values(), key=lambda number: len(rows.texts[number])))
        lengths = np.array([len(rows.texts[number]) for number in numbers], np.float64)
        sizes = (lengths if most is None else np.minimum(lengths, most)) + _BESIDE
        read = np.minimum(lengths, _beginning(job))
        picks = int(np.clip(characters / (float(sizes @ read) / sizes.sum()), _FEWEST, _MOST))
        ends = np.cumsum(sizes)
        step = ends[-1] / picks
        hits = np.searchsorted(ends, (np.arange(picks) + 0.5) * step, side="right")
        chosen, times = np.unique(np.minimum(hits, len(numbers) - 1), return_counts=True)
        repeats = np.array([count[keys[number]] for number in numbers[chosen]], np.float64)
        return cls(numbers[chosen], times * step / sizes[chosen], repeats, times.astype(np.float64))


@dataclass(frozen=True)
class _Parts:
    """A tokenized split whose documents are numbered: its rows, its rejects, and the tokens of each row."""

    rows: pa.Table
    rejected: pa.Table
    lengths: NDArray[np.int64]
    flat_ids: NDArray[np.int32]

    @classmethod
    def of(cls, packed: pa.Table) -> "_Parts":
        rows = from_ipc(packed.column("rows"))
        flat_ids = np.frombuffer(ipc_buffer(packed.column("token_ids")), dtype=np.int32)
        lengths = rows.column(names.N_TOKENS).to_numpy().astype(np.int64)
        return cls(rows, from_ipc(packed.column("rejects")), lengths, flat_ids)

    def column(self, name: str) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self.rows.column(name).to_numpy().astype(np.int64)
        return found

    @property
    def document(self) -> NDArray[np.int64]:
        """The number of each row's document."""
        return self.column(POSITION)

    @property
    def heads(self) -> NDArray[np.intp]:
        """Which rows are the first of their document."""
        chunked = names.CHUNK in self.rows.column_names
        return np.flatnonzero(self.column(names.CHUNK) == 0) if chunked else np.arange(self.rows.num_rows)

    def rejects(self) -> Iterator[tuple[str, int]]:
        """Reason, and number of the document."""
        columns = (self.rejected.column(name).to_pylist() for name in (names.REASON, names.POSITION))
        return zip(*columns, strict=True)

    def bytes_beside(self) -> int:
        """Bytes of a data file of the rows, without their vectors."""
        stored = [name for name in self.rows.column_names if not name.startswith("#")]
        return len(encode_parquet(self.rows.select(stored)))


def _padded(lengths: NDArray[np.int64], job: Job) -> int:
    if job.packed or job.packed is None:  # by default nearly all models are packed on nearly all GPUs
        return int(lengths.sum())
    budget = 1 if job.model.deterministic else job.max_batch_tokens or LARGE_MODEL_TOKENS
    return padded_tokens(lengths, length_batches(lengths, budget))


def _limit(job: Job) -> int:
    return int(job.inputs["max_length"])


def _beginning(job: Job) -> int:
    """Characters of a text that are tokenized where not all texts are."""
    return max(_LONGEST, _CHARACTERS_A_TOKEN * _limit(job))

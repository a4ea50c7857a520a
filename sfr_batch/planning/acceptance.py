"""Acceptance: whether config.json and tokenizer of today are those that made the vectors of an older table.

The first releases did not record them, so they may have been changed long ago. Before they are recorded, rows of the
table are embedded again. This module draws the rows, finds their texts in the corpus, and judges the new vectors; it
embeds nothing and writes nothing. Knows no Ray and no torch.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.corpus.listing import list_shards
from sfr_batch.corpus.reader import read_unit
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.splits import ReadUnit, cut, start_of
from sfr_batch.corpus.survey import survey_shards
from sfr_batch.errors import TableMismatch, counted
from sfr_batch.format import names
from sfr_batch.format.dead_rows import DeadRows
from sfr_batch.format.hashes import Hashes, halves
from sfr_batch.format.parquet import read_data_file
from sfr_batch.format.records import Receipt
from sfr_batch.model.identity import SAME_MODEL
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.planning.row_comparison import UNIT_BYTES, UNIT_ROWS
from sfr_batch.storage.parallel import in_parallel

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

ROWS = 256
"""Rows that are embedded again, or all if there are fewer; one of each data file if these are more."""
_FILES = 1024
"""Most data files that rows are drawn from."""
_CANDIDATES = 2**20
"""Most rows whose texts are looked for."""
_MOST_BYTES = 16 * 2**30
"""Most bytes of text that are read to find the rows."""
_PARALLEL_READS, _SURVEYS = 16, 32


@dataclass(frozen=True)
class DrawnRows:
    """Rows of the table with the texts that their vectors were made of."""

    texts: list[str]
    """[n] without a prompt; of a chunk, its part of the document."""
    vectors: FloatArray
    """[n, d] as stored."""
    places: list[str]
    """[n] where each row is, for people."""
    rows: int
    """Rows of the table, from which these were drawn."""

    @property
    def wanted(self) -> int:
        """How many should have been drawn."""
        return min(ROWS, self.rows)


@dataclass
class _File:
    """A data file from which rows are drawn."""

    receipt: Receipt
    dead: DeadRows | None
    """Of the snapshot that has the file."""
    rows: int
    """Number of its live rows."""
    wanted: int = 0
    drawn: int = 0

    def live(self) -> IntArray:
        """Positions of its live rows."""
        none = np.empty(0, np.int64)
        dead = self.dead.get(self.receipt.split_id, none) if self.dead else none
        return np.setdiff1d(np.arange(self.receipt.vectors), dead)


@dataclass
class _Candidates:
    """Rows that may be drawn, in the order of their hashes; of those with one text, each is one."""

    hashes: Hashes
    """[m, 2] content hashes, sorted by their first half."""
    file: IntArray
    """[m] number of the data file."""
    row: IntArray
    """[m] row in it."""
    texts: dict[int, str] = field(default_factory=dict)
    """The texts found, by candidate."""
    spare: dict[int, str] = field(default_factory=dict)
    """The same, of files from which enough is drawn."""


def draw(plan: EmbedPlan, adopted: Sequence[Receipt] = ()) -> DrawnRows:
    """Rows of the vectors that the next snapshot takes over, drawn evenly from all data files; the same ones each time.

    adopted: receipts of data files that no snapshot has yet, whose vectors are used. Rows whose text is no longer in
    the corpus are left out. Raises CorpusError, TableError, StorageError.
    """
    random = np.random.default_rng(int(plan.card.fingerprint[:8], 16))
    files = _files(plan, adopted)
    rows = sum(file.rows for file in files)
    chosen = [files[number] for number in random.permutation(len(files))[:_FILES]]
    wanted = min(ROWS, rows)
    for file in chosen:
        file.wanted = min(file.rows, -(-wanted // len(chosen)))
    candidates = _candidates(plan, chosen, random)
    read = 0
    for unit in _units(plan, chosen, random):
        if read > _MOST_BYTES or _is_enough(chosen, candidates, wanted):
            break
        for _, some in read_unit(unit, plan.config.corpus, plan.columns):
            _find(candidates, chosen, halves(some.content_hash), some.texts, wanted)
            read += sum(map(len, some.texts))
    return _with_vectors(plan, chosen, candidates, wanted, rows)


def largest_distance(drawn: DrawnRows, vectors: FloatArray, plan: EmbedPlan) -> float:
    """The largest 1 - cosine between the stored vectors and those of today [n, d]; 0 without rows.

    Raises TableMismatch if one is larger than rounding explains, or if the table has rows and none could be drawn.
    """
    root, model = plan.store.root, plan.config.model.path
    what = f"{root} was made by an older release, which did not record {' and '.join(plan.later_inputs)} of its model"
    if not drawn.texts and drawn.rows:
        raise TableMismatch(
            f"{what}. None of its {counted(drawn.rows, 'row')} has its text in the corpus any more, so nothing shows "
            f"whether {model} still makes the same vectors. Run once with the corpus and the corpus.text that it was "
            "made from, or write to a new table: table.path=<another path>."
        )
    one, other = drawn.vectors.astype(np.float64), vectors.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    bound = SAME_MODEL[plan.config.model.compute_dtype]
    other_vectors = np.flatnonzero(~(cosines >= 1 - bound))  # those that are not finite, too
    if len(other_vectors):
        worst = int(other_vectors[np.argmin(np.nan_to_num(cosines[other_vectors], nan=-2.0))])
        raise TableMismatch(
            f"{what}. Embedded again with {model} as it is now, {len(other_vectors):,} of "
            f"{counted(len(cosines), 'row')} have other vectors: the worst cosine is {cosines[worst]:.4f} "
            f"({drawn.places[worst]}), rounding explains {1 - bound:g}. So config.json or a file of the tokenizer was "
            "changed since those vectors were made. Restore the files that made them; or, if they were changed while "
            "the table grew, so that it holds both kinds, write to a new table: table.path=<another path>."
        )
    return float(max(0.0, (1 - cosines).max(initial=0.0)))


def _files(plan: EmbedPlan, adopted: Sequence[Receipt]) -> list[_File]:
    """The data files with rows that the next snapshot may hold."""
    dead = plan.base.read_deletes() if plan.base else None
    receipts = {receipt.split_id: receipt for receipt in (*plan.base_receipts, *adopted)}
    found = [
        _File(receipt, dead, receipt.vectors - (dead.count(receipt.split_id) if dead else 0))
        for receipt in receipts.values()
    ]
    return [file for file in found if file.rows]


def _candidates(plan: EmbedPlan, files: Sequence[_File], random: np.random.Generator) -> _Candidates:
    """Rows of the files with the hashes of their texts: of each file equally many, or all that it has."""
    most = _CANDIDATES // max(1, len(files))
    chosen = [
        live if len(live) <= most else np.sort(random.choice(live, most, replace=False))
        for live in (file.live() for file in files)
    ]

    def read(file_and_rows: tuple[_File, IntArray]) -> tuple[Hashes, IntArray]:
        file, rows = file_and_rows
        table = read_data_file(plan.store, file.receipt, [names.CONTENT_HASH], plan.card.fingerprint)
        return halves(table.column(names.CONTENT_HASH))[rows], rows

    parts = list(in_parallel(read, list(zip(files, chosen, strict=True)), _PARALLEL_READS))
    hashes = np.concatenate([np.empty((0, 2), np.uint64), *(hashes for hashes, _ in parts)])
    rows = np.concatenate([np.empty(0, np.int64), *(rows for _, rows in parts)])
    numbers = np.repeat(np.arange(len(files)), [len(rows) for _, rows in parts])
    order = random.permutation(len(rows))  # rows with one text, such as the chunks of a document, in any order
    order = order[np.argsort(hashes[order, 0], kind="stable")]
    return _Candidates(hashes[order], numbers[order], rows[order])


def _find(candidates: _Candidates, files: Sequence[_File], hashes: Hashes, texts: Sequence[str], wanted: int) -> None:
    """Keep the texts [k] of candidates, by their hashes [k, 2]."""
    keys = candidates.hashes[:, 0]
    first, last = (np.searchsorted(keys, hashes[:, 0], side) for side in ("left", "right"))
    for at in np.flatnonzero(first < last).tolist():
        for candidate in range(int(first[at]), int(last[at])):
            same = candidates.hashes[candidate, 1] == hashes[at, 1]
            if not same or candidate in candidates.texts or candidate in candidates.spare:
                continue
            file = files[candidates.file[candidate]]
            if file.drawn < file.wanted:
                file.drawn += 1
                candidates.texts[candidate] = texts[at]
            elif len(candidates.spare) < wanted:
                candidates.spare[candidate] = texts[at]


def _is_enough(files: Sequence[_File], candidates: _Candidates, wanted: int) -> bool:
    every = all(file.drawn >= file.wanted for file in files)
    return every and len(candidates.texts) + len(candidates.spare) >= wanted


def _units(plan: EmbedPlan, files: Sequence[_File], random: np.random.Generator) -> Iterator[ReadUnit]:
    """Units of the corpus in the order in which rows are best looked for, each once.

    First those that the files were made of, as far as their shards are as they were; then changed shards, to which rows
    may have moved; then all others.
    """
    shards = {shard.uri: shard for shard in list_shards(plan.config.corpus)}
    seen: set[tuple[str, int]] = set()
    own = [
        file for file in files if (shard := shards.get(file.receipt.shard)) and shard.version == file.receipt.version
    ]
    changed = [shard for shard, _ in plan.changed]
    others = [shards[uri] for uri in random.permutation(sorted(shards)).tolist()]
    for start in range(0, len(own), _SURVEYS):
        some = own[start : start + _SURVEYS]
        of_shard: dict[str, list[ReadUnit]] = {}
        for unit in _cut(plan, dict.fromkeys(shards[file.receipt.shard] for file in some)):
            of_shard.setdefault(unit.shard.uri, []).append(unit)
        for file in some:
            units = of_shard.get(file.receipt.shard, [])
            yield from _unseen([unit for unit in units if _begins_in(file.receipt, unit)], seen)
    for group in (changed, others):
        for start in range(0, len(group), _SURVEYS):
            yield from _unseen(_cut(plan, group[start : start + _SURVEYS]), seen)


def _cut(plan: EmbedPlan, shards: Iterable[Shard]) -> list[ReadUnit]:
    surveys = survey_shards(list(shards), plan.config.corpus)
    return [unit for survey in surveys for unit in cut(survey, UNIT_ROWS, UNIT_BYTES, ("accept",), frozenset())]


def _begins_in(receipt: Receipt, unit: ReadUnit) -> bool:
    """Whether the rows of a data file begin in a unit of its shard."""
    return not unit.splits or unit.splits[0].start <= receipt.start < unit.splits[-1].end


def _unseen(units: Iterable[ReadUnit], seen: set[tuple[str, int]]) -> Iterator[ReadUnit]:
    for unit in units:
        name = (unit.shard.uri, start_of(unit))
        if name not in seen:
            seen.add(name)
            yield unit


def _with_vectors(
    plan: EmbedPlan, files: Sequence[_File], candidates: _Candidates, wanted: int, rows: int
) -> DrawnRows:
    """The candidates whose texts were found, with their vectors: of each file, and spare ones up to ``wanted``."""
    more = max(0, wanted - len(candidates.texts))
    found = {**candidates.texts, **dict(list(candidates.spare.items())[:more])}
    by_file: dict[int, list[int]] = {}
    for candidate in sorted(found):
        by_file.setdefault(int(candidates.file[candidate]), []).append(candidate)
    chunks = names.CHUNK in plan.card.schema.names
    columns = [names.ID, names.EMBEDDING, *((names.CHUNK_START, names.CHUNK_END) if chunks else ())]
    texts, places, vectors = [], [], [np.empty((0, plan.card.schema.field(names.EMBEDDING).type.list_size), np.float32)]
    for number, its in by_file.items():
        receipt = files[number].receipt
        table = read_data_file(plan.store, receipt, columns, plan.card.fingerprint)
        table = table.take(pa.array(candidates.row[its])).combine_chunks()
        flat = table.column(names.EMBEDDING).combine_chunks().flatten().to_numpy()
        vectors.append(flat.astype(np.float32).reshape(len(its), -1))
        spans = zip(*(table.column(name).to_pylist() for name in columns[2:]), strict=True) if chunks else ()
        whole = [found[candidate] for candidate in its]
        texts += [text[start:end] for text, (start, end) in zip(whole, spans, strict=True)] if chunks else whole
        key = names.data_key(receipt.split_id)
        places += [f"id {value!r} in {key}" for value in table.column(names.ID).to_pylist()]
    return DrawnRows(texts, np.concatenate(vectors), places, rows)

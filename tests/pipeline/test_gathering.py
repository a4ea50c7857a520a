"""Vectors from any data files: rows that are dealt to splits are those that each split would read itself."""

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfr_batch.format import names
from sfr_batch.format.side_tables import to_table
from sfr_batch.pipeline.gathering import Dealt, Source, deal, gather_rows, spread_of
from sfr_batch.planning.decided_rows import WORK_DTYPE, WorkRows
from sfr_batch.table.commit.writing import create_or_open
from tests.memory_store import MemoryStore
from tests.states import Row, chunked_card, commit_file, rows_table

FILES = 5
DOCUMENTS = [(file, document) for file in range(FILES) for document in range(6)]
"""Of each file; a document has one chunk to three."""
COLUMNS = [names.EMBEDDING, names.N_TOKENS, names.CHUNK]


def chunks_of(file: int, document: int) -> list[Row]:
    return [Row(f"{file}-{document}", seed=file, chunk=chunk) for chunk in range(1 + (file + document) % 3)]


@pytest.fixture(scope="module")
def source() -> Source:
    table = create_or_open(MemoryStore(), chunked_card())
    files = [
        [row for file, document in DOCUMENTS if file == f for row in chunks_of(file, document)] for f in range(FILES)
    ]
    receipts = [commit_file(table, str(file), rows) for file, rows in enumerate(files)]
    return Source(table.store, to_table(type(receipts[0]), receipts), COLUMNS, table.card.fingerprint)


def places_of(documents: Sequence[tuple[int, int]]) -> WorkRows:
    places = np.zeros(len(documents), WORK_DTYPE)
    for place, (file, document) in zip(places, documents, strict=True):
        before = sum(len(chunks_of(file, other)) for other in range(document))
        place["file"], place["first"], place["vectors"] = file, before, len(chunks_of(file, document))
    return places


@given(st.data())
def test_what_is_dealt_is_what_each_split_would_read(source: Source, data: st.DataObject) -> None:
    documents = data.draw(st.lists(st.sampled_from(DOCUMENTS), min_size=1))
    number = st.integers(0, len(documents))
    ends = sorted(data.draw(st.sets(st.integers(1, len(documents)))) | {len(documents)})  # of splits
    groups = sorted(data.draw(st.sets(st.sampled_from(ends))) | {len(documents)})
    scans = [0, *sorted(data.draw(st.lists(number))), len(documents)]
    all_places = places_of(documents)
    rows = [all_places[max(0, start - 1) : end] for start, end in itertools.pairwise(scans)]
    spans = [(min(start, 1), len(its)) for start, its in zip(scans, rows, strict=False)]
    spread, places = spread_of(ends, spans, data.draw(st.integers(1, 7)), *rows)
    assert np.array_equal(places, all_places)
    splits = [documents[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert spread.reads == sum(len({file for file, _ in split}) for split in splits)
    assert spread.files == len({file for file, _ in documents})

    ranges = range(len(spread.bounds) + 1)
    pieces = [deal(source, number, spread.bounds, groups, places) for number in ranges]
    begins = dict(zip([0, *groups], range(len(groups) + 1), strict=True))
    dealt = None
    for start, end, split in zip([0, *ends], ends, splits, strict=False):
        if start in begins and begins[start] < len(groups):
            dealt = Dealt([its[begins[start]] for its in pieces], spread.bounds)
        assert dealt is not None
        given, read = dealt.take(places[start:end]), gather_rows(source, places[start:end])
        assert given.equals(read)
        rows_of_split = [row for document in split for row in chunks_of(*document)]
        assert read.equals(rows_table(rows_of_split, chunked_card().schema).select(COLUMNS).cast(read.schema))


@pytest.mark.parametrize(("splits", "scattered"), [(1, False), (4, False), (5, True)])
def test_files_are_dealt_where_they_would_be_read_again_and_again(
    splits: int, scattered: bool, source: Source, reads: Counter[str]
) -> None:
    """A split that has rows in every file reads each once, as dealing does."""
    documents = [(file, document) for document in range(splits) for file in range(FILES)]
    ends = range(FILES, len(documents) + 1, FILES)
    spread, places = spread_of(ends, [(0, len(documents))], 2, places_of(documents))
    assert (spread.reads, spread.files, len(spread.bounds)) == (FILES * splits, FILES, 1)
    assert spread.scattered == scattered
    for number in range(2):
        deal(source, number, spread.bounds, ends, places)
    assert set(reads.values()) == {1}
    assert len(reads) == FILES


def test_ranges_of_files_have_about_equally_many_rows() -> None:
    for documents, ranges, bounds in (
        (DOCUMENTS, 5, (1, 2, 3, 4)),
        (DOCUMENTS, 2, (3,)),
        ([(file, document) for file, document in DOCUMENTS if file in (1, 4) or document == 0], 2, (3,)),
        ([(file, document) for file, document in DOCUMENTS if file == 3], 4, ()),
    ):
        spread, _ = spread_of([len(documents)], [(0, len(documents))], ranges, places_of(documents))
        assert spread.bounds == bounds

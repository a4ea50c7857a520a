"""Figures of a report over time and over lengths: bounded, and their sums are exact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfr_batch.table.report.measures import EDGES, POINTS, Series, fewer, length_counts

WORK = st.tuples(st.floats(0, 1e6), st.floats(0, 1e5), st.integers(0, 10**9), st.integers(0, 10**6))


@settings(max_examples=60, deadline=None)
@given(st.lists(WORK, max_size=30))
def test_a_series_is_bounded_and_loses_nothing(splits: list[tuple[float, float, int, int]]) -> None:
    series = Series()
    for end, took, tokens, rows in splits:
        series.add(end - took, end, tokens, rows)
    tokens, rows = series.values()
    assert len(tokens) == len(rows) <= POINTS
    assert min(tokens, default=0) >= 0
    assert (sum(tokens), sum(rows)) == (sum(work[2] for work in splits), sum(work[3] for work in splits))
    few, together = fewer(tokens, 24)
    assert len(few) <= 24
    assert sum(few) == sum(tokens)
    assert len(tokens) <= together * len(few) or not tokens


def test_a_split_counts_evenly_over_its_time() -> None:
    series = Series()
    series.add(0.5, 2.5, 100, 4)
    series.add(3.0, 3.0, 7, 1)
    assert series.values() == ((25, 50, 25, 7), (1, 2, 1, 1))
    series.add(POINTS, POINTS + 1, 1, 1)
    assert series.every_s == 2
    assert series.values()[0][:2] == (75, 32)


def test_lengths_fall_into_their_buckets() -> None:
    lengths = np.array([0, 1, 2, 3, 4, 5, 6, 512, 767, 768, 10**7], np.int32)
    counts = length_counts(lengths)
    assert counts.sum() == len(lengths)
    assert {EDGES[n]: int(counts[n]) for n in np.flatnonzero(counts)} == {
        1: 2,
        2: 1,
        3: 1,
        4: 2,
        6: 1,
        512: 2,
        768: 1,
        EDGES[-1]: 1,
    }
    assert list(EDGES) == sorted(set(EDGES))
    assert len(EDGES) < 50
    assert length_counts(np.array([], np.int32)).sum() == pytest.approx(0)

"""Records on disk by hash: none is lost, their order stays, and the files are opened seldom."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfr_batch.storage import spill
from sfr_batch.storage.spill import Spill

RECORD = np.dtype([("hash", np.uint64), ("number", np.int64)])


def records(hashes: list[int], start: int = 0) -> Any:
    made = np.empty(len(hashes), RECORD)
    made["hash"], made["number"] = hashes, np.arange(start, start + len(hashes))
    return made


@settings(max_examples=60)
@given(
    pieces=st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5), max_size=12), max_size=8),
    partition_rows=st.integers(1, 40),
    at_once=st.integers(1, 30),
)
def test_partitions_have_every_record_in_order(pieces: list[list[int]], partition_rows: int, at_once: int) -> None:
    total = sum(map(len, pieces))
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(spill, "_PIECE", at_once)
        made, start = Spill(Path(folder), RECORD, total, partition_rows), 0
        for piece in pieces:
            made.add(records(piece, start))
            start += len(piece)
        found = list(made.partitions())
    assert len(found) == max(1, -(-total // partition_rows))
    for partition in found:
        assert (np.diff(partition["number"]) > 0).all(), "in the order in which they were added"
    where = {hash_: number for number, partition in enumerate(found) for hash_ in partition["hash"].tolist()}
    for number, partition in enumerate(found):
        assert {where[hash_] for hash_ in partition["hash"].tolist()} <= {number}, "equal hashes stand together"
    everything = np.sort(np.concatenate(found), order="number")
    assert everything.tolist() == records([hash_ for piece in pieces for hash_ in piece]).tolist()


def test_a_partition_is_opened_once_for_many_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else the files that are opened grow with the square of the table."""
    opened: list[str] = []

    def counting(path: Path, mode: str) -> Any:
        opened.append(path.name)
        return open(path, mode)

    monkeypatch.setattr(spill, "open", counting, raising=False)
    monkeypatch.setattr(spill, "_PIECE", 5_000)
    made = Spill(tmp_path, RECORD, 20_000, 1_000)
    for n in range(200):
        made.add(records(np.random.default_rng(n).integers(0, 2**63, 100).tolist(), 100 * n))
    assert sum(map(len, made.partitions())) == 20_000
    assert len(opened) == 20 * 4, "20 partitions, four times 5,000 records"

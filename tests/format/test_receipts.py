"""Receipts of data files: their counts are those of the rows, whoever writes the file."""

import pyarrow as pa

from sfr_batch.format.records import Receipt

NAMES = {"split_id": "s", "shard": "a", "version": "1", "start": 7, "attempt": "t", "run_id": "r", "generation": "g"}


def test_counts_of_whole_documents() -> None:
    rows = pa.table({"n_tokens": [3, 4], "n_tokens_full": [3, 9], "truncated": [False, True]})
    work = {"encoded_tokens": 6, "padded_tokens": 8, "encode_seconds": 0.5, "canaries": 2, "drift": 1e-7}
    receipt = Receipt.of_rows(rows, **NAMES, rejected=1, **work)  # type: ignore[arg-type]
    assert receipt == Receipt(
        "s", "a", "1", 7, "t", "r", 3, 2, 1, 2, 7, 12, 6, 8, 1, 0.5, canaries=2, drift=1e-7, generation="g"
    )
    receipt.check()


def test_counts_of_chunks() -> None:
    """Documents are counted once, and so are their tokens before chunking, which each of their rows repeats."""
    rows = pa.table(
        {
            "n_tokens": [5, 5, 2, 3],
            "n_tokens_full": [11, 11, 11, 3],
            "truncated": [False] * 4,
            "chunk": pa.array([0, 1, 2, 0], pa.int32()),
        }
    )
    receipt = Receipt.of_rows(rows, **NAMES, copied=True)  # type: ignore[arg-type]
    assert (receipt.read, receipt.embedded, receipt.vectors) == (2, 2, 4)
    assert (receipt.tokens, receipt.tokens_full, receipt.truncated) == (15, 14, 0)
    assert receipt.copied
    assert receipt.owned


def test_no_rows_are_no_tokens() -> None:
    rows = pa.table({"n_tokens": [], "n_tokens_full": [], "truncated": []}).cast(
        pa.schema({"n_tokens": pa.int32(), "n_tokens_full": pa.int32(), "truncated": pa.bool_()})
    )
    receipt = Receipt.of_rows(rows, **NAMES, rejected=4)  # type: ignore[arg-type]
    assert (receipt.read, receipt.embedded, receipt.rejected, receipt.vectors) == (4, 0, 4, 0)
    assert (receipt.tokens, receipt.tokens_full, receipt.truncated) == (0, 0, 0)

"""Parquet files on a local disk: Arrow reads them itself, and always the file that was opened."""

import sys
from pathlib import Path
from typing import IO

import pyarrow as pa
import pytest

from sfr_batch.format.parquet import encode_parquet, open_parquet, read_parquet

ROWS = pa.table({"id": [f"document {number}" for number in range(1000)]})
OTHERS = pa.table({"id": ["another"]})


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_nothing_is_read_through_python(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(encode_parquet(ROWS))
    with path.open("rb") as stream:
        assert read_parquet(stream).equals(ROWS)
        assert stream.raw.tell() == 0  # type: ignore[attr-defined]  # a binary file has it


def test_a_file_that_was_replaced_or_removed_meanwhile_is_read_as_it_was(tmp_path: Path) -> None:
    path, other = tmp_path / "rows.parquet", tmp_path / "others.parquet"
    path.write_bytes(encode_parquet(ROWS))
    other.write_bytes(encode_parquet(OTHERS))
    with path.open("rb") as stream:
        other.replace(path)
        assert read_parquet(stream).equals(ROWS)
        path.unlink()
        assert open_parquet(stream).read(use_threads=False).equals(ROWS)


def test_a_stream_that_is_no_file_is_read_as_it_is(tmp_path: Path) -> None:
    class Other:
        """What a file system of others returns: all that a reader needs."""

        def __init__(self, file: IO[bytes]) -> None:
            self._file = file
            self.read, self.seek, self.tell = file.read, file.seek, file.tell
            self.closed, self.close = False, file.close

    path = tmp_path / "rows.parquet"
    path.write_bytes(encode_parquet(ROWS))
    with path.open("rb") as stream:
        assert read_parquet(Other(stream)).equals(ROWS)  # type: ignore[arg-type]
        assert stream.tell() > 0

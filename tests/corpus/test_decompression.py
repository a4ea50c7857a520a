"""Compressed files as tapes, tar, cat and archives leave them: padding, members in a row, large windows of zstd."""

import gzip
import io
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.decompression import decompress
from sfr_batch.corpus.listing import list_shards
from sfr_batch.corpus.survey import survey_shards
from sfr_batch.errors import CorpusError
from tests.corpus.test_corpus import ids_of, read_all
from tests.tables import jsonl, put

if sys.version_info >= (3, 14):
    from compression import zstd as library
else:
    from backports import zstd as library

PADDING = bytes(512)
SKIPPABLE = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"


def zstd(data: bytes, window_log: int = 0, checksum: bool = True) -> bytes:
    """As the command makes it with --long=window_log: of a size that is not known before, in a large window."""
    options = {library.CompressionParameter.checksum_flag: checksum}
    if window_log:
        options[library.CompressionParameter.window_log] = window_log
    packer = library.ZstdCompressor(options=options)
    return packer.compress(data) + packer.flush()


def unpack(data: bytes, compression: str) -> bytes:
    return decompress(io.BytesIO(data), compression, f"/corpus/a.{compression}").read()


@given(
    st.lists(st.tuples(st.binary(max_size=300), st.integers(0, 3), st.integers(0, 9)), max_size=5),
    st.sampled_from([1, 7, 100_000]),
)
def test_members_and_their_padding_are_one_stream(members: list[tuple[bytes, int, int]], times: int) -> None:
    """As gzip itself reads them, however much comes out of a member."""
    packed = b"".join(gzip.compress(data * times, 1) + bytes(pad * 400) for data, pad, _ in members)
    assert unpack(packed, "gzip") == b"".join(data * times for data, _, _ in members)


def test_padding_may_be_longer_than_what_is_read_at_once() -> None:
    packed = gzip.compress(b"one\n") + bytes(200_000) + gzip.compress(b"two\n") + bytes(200_000)
    assert unpack(packed, "gzip") == b"one\ntwo\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (PADDING, "incorrect header"),
        (gzip.compress(b"x") + b"a signature", r"at byte 21, behind its compressed data, is not compressed"),
        (gzip.compress(b"x") + PADDING + b"\1", r"at byte 533, behind its compressed data"),
        (gzip.compress(b"x")[:-1], "Truncated"),
        (gzip.compress(b"x")[:-8] + bytes(8), "incorrect data check"),
        (gzip.compress(b"x") + gzip.compress(b"y")[:-9], "Truncated"),
    ],
    ids=["no gzip", "text behind", "a byte behind padding", "cut off", "checksum", "second member cut off"],
)
def test_what_is_damaged_is_an_error(data: bytes, message: str) -> None:
    with pytest.raises(OSError, match=message):
        unpack(data, "gzip")


def test_a_padded_file_is_read(tmp_path: Path) -> None:
    rows = [{"id": f"d{n}", "text": random.Random(n).randbytes(300).hex()} for n in range(2000)]
    put(str(tmp_path), "large.jsonl.gz", gzip.compress(jsonl(rows)) + PADDING)
    put(str(tmp_path), "small.jsonl.gz", gzip.compress(jsonl([{"id": "s", "text": "x"}])) + PADDING)
    assert ids_of(read_all(str(tmp_path))) == [*(row["id"] for row in rows), "s"]


def test_what_stands_behind_the_data_is_left_out_as_the_message_says(tmp_path: Path) -> None:
    uri = put(str(tmp_path), "a.jsonl.gz", gzip.compress(jsonl([{"id": "a", "text": "x"}])) + b"signature")
    with pytest.raises(CorpusError, match=r"cannot be decompressed: .* \(gzip -dc a\.jsonl\.gz \| gzip > new\.gz "):
        read_all(str(tmp_path))
    subprocess.run("gzip -dc a.jsonl.gz | gzip > new.gz", shell=True, cwd=tmp_path, capture_output=True, check=True)
    (tmp_path / "new.gz").replace(uri)
    assert ids_of(read_all(str(tmp_path))) == ["a"]


# --- zstd


@pytest.mark.parametrize("log", [27, 28, 31])
def test_large_windows(log: int, tmp_path: Path) -> None:
    def pack(name: str) -> bytes:
        return zstd(jsonl([{"id": name, "text": "x"}]), log)

    put(str(tmp_path), "a.jsonl.zst", SKIPPABLE + pack("a") + pack("b") + SKIPPABLE + zstd(b"\n"))
    assert ids_of(read_all(str(tmp_path))) == ["a", "b"]


def test_a_single_segment_is_a_window_of_its_own_size() -> None:
    """A frame whose size is known has no other window; this one claims 512 MiB and ends early."""
    frame = zstd(b"x")
    claims = frame[:4] + b"\xa0" + (2**29).to_bytes(4, "little") + frame[6:]
    with pytest.raises(OSError, match=r"Data corruption|Truncated|does not match|header"):
        unpack(claims, "zstd")


def test_damage_in_a_large_window() -> None:
    frame = zstd(b"hello", 31)
    assert unpack(frame, "zstd") == b"hello"
    for data, message in (
        (frame[:-2], "Truncated"),
        (frame[:-4] + b"sums", "checksum"),
        (frame + b"signature", "Unknown frame"),
    ):
        with pytest.raises(OSError, match=message):
            unpack(data, "zstd")


def test_without_the_library_the_message_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = put(str(tmp_path), "a.jsonl.zst", zstd(jsonl([{"id": "a", "text": "x"}]), 31))
    for name in ("backports", "backports.zstd", "compression", "compression.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    message = (
        r"a window of 2,048 MiB \(zstd --long=31\), which needs a library that is not installed\. Install the extra "
        r"zstd on all machines: pip install 'sfr-batch\[zstd\]'\. Or compress the file with a smaller window: "
        r"zstd -dc --long=31 a\.jsonl\.zst \| zstd -o new\.zst, and replace it by that\."
    )
    with pytest.raises(CorpusError, match=message):
        read_all(str(tmp_path))
    if not shutil.which("zstd"):
        pytest.skip("there is no zstd command to follow the message with")
    subprocess.run("zstd -dc --long=31 a.jsonl.zst | zstd -q -o new.zst", shell=True, cwd=tmp_path, check=True)
    (tmp_path / "new.zst").replace(uri)
    assert ids_of(read_all(str(tmp_path))) == ["a"]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz", "a.jsonl.zst", "a.parquet"])
def test_a_shard_that_is_replaced_after_it_was_listed_is_not_called_damaged(name: str, tmp_path: Path) -> None:
    """A longer one looks cut off, a shorter one with another beginning like another format; and a deleted one."""
    file, settings = tmp_path / name, CorpusSettings(path=str(tmp_path))
    file.write_bytes(b"PAR1" if name == "a.parquet" else gzip.compress(b"short\n"))
    shards = list_shards(settings)
    file.write_bytes(gzip.compress(random.Random(1).randbytes(2000)) if name.endswith(".gz") else b"-" * 100)
    with pytest.raises(CorpusError) as replaced:
        survey_shards(shards, settings)
    assert str(replaced.value) == f"{file} was replaced after it was listed. Run the command again."
    with pytest.raises(CorpusError, match=r"cannot be decompressed|not a readable Parquet file|no JSON object|CSV|csv"):
        survey_shards(list_shards(settings), settings)
    file.unlink()
    with pytest.raises(CorpusError) as deleted:
        survey_shards(shards, settings)
    assert str(deleted.value) == f"{file} was deleted after it was listed. Run the command again."

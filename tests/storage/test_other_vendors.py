"""S3 as other vendors make it: buckets whose reader pays, checksums that a store does not know, ETags that differ.

The relay answers in the server's place as such a store does; the codes and messages are theirs.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import StorageError
from sfr_batch.storage import s3
from sfr_batch.storage.input_listing import list_inputs
from sfr_batch.storage.inputs import fetch_input, is_unchanged, open_input, read_input_range, stat_input
from sfr_batch.storage.retries import repeated_requests
from sfr_batch.storage.stores import open_store
from tests.proxy import Relay, relay
from tests.s3server import S3Server
from tests.tables import jsonl

Fields = Mapping[str, str]
Refusal = tuple[int, str, str] | None


@pytest.fixture
def vendor(s3: S3Server) -> Iterator[Relay]:
    with relay(s3.endpoint) as made:
        yield made


def through(vendor: Relay, **settings: Any) -> StorageSettings:
    return StorageSettings(endpoint_url=vendor.endpoint, **settings)


# ---- whoever reads pays


def unpaid(method: str, path: str, fields: Fields) -> Refusal:
    return None if fields.get("x-amz-request-payer") == "requester" else (403, "AccessDenied", "Access Denied")


def test_a_bucket_whose_reader_pays_is_read_and_written(vendor: Relay, s3_prefix: str) -> None:
    vendor.refuse = unpaid
    settings = through(vendor, requester_pays=True)
    store = open_store(s3_prefix, settings)
    assert store.create("a/b.txt", b"0123456789")
    assert not store.create("a/b.txt", b"other")
    assert store.read("a/b.txt") == b"0123456789"
    assert [info.key for info in store.list("a")] == ["a/b.txt"]
    [file] = list_inputs(f"{s3_prefix}/a", settings)
    assert stat_input(file.uri, settings) == file
    assert read_input_range(file.uri, 2, 5, settings) == b"234"
    with open_input(file.uri, settings) as stream:
        assert stream.read() == b"0123456789"
    store.delete(["a/b.txt"])
    assert not list(store.list("a"))


def test_who_is_refused_is_told_of_the_setting_where_it_may_help(vendor: Relay, s3_prefix: str) -> None:
    store = open_store(s3_prefix, through(vendor))
    store.create("a", b"x")
    vendor.refuse = unpaid
    hint = "and the endpoint, and, if who reads this bucket has to pay, storage.requester_pays."
    for attempt in (
        lambda: list_inputs(s3_prefix, through(vendor)),
        lambda: store.read("a"),
        lambda: stat_input(f"{s3_prefix}/a", through(vendor)),
    ):
        with pytest.raises(StorageError) as refused:
            attempt()
        assert str(refused.value).endswith(hint)
    with pytest.raises(StorageError) as refused:  # no bucket charges for this
        store.create("b", b"x")
    assert str(refused.value).endswith("the bucket policy and the endpoint.")


# ---- checksums


def unknown_checksums(status: int, code: str, message: str) -> Callable[[str, str, Fields], Refusal]:
    """A store that refuses the headers with which clients have sent and asked for checksums since 2025."""

    def refuse(method: str, path: str, fields: Fields) -> Refusal:
        known = {"x-amz-content-sha256"}
        new = [name for name in fields if "checksum" in name or name in ("x-amz-trailer",)]
        return (status, code, message) if set(new) - known else None

    return refuse


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, "InvalidArgument", "Unsupported header 'x-amz-checksum-crc32' received for this API call."),
        (400, "InvalidRequest", "The value specified in the x-amz-sdk-checksum-algorithm header is invalid"),
        (
            400,
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        ),
        (400, "MissingContentMD5", "Missing required header for this request: Content-MD5"),
        (501, "NotImplemented", "A header you provided implies functionality that is not implemented"),
        (501, "NotImplemented", "STREAMING-UNSIGNED-PAYLOAD-TRAILER is not supported"),
        (411, "MissingContentLength", "You must provide the Content-Length HTTP header."),
    ],
)
def test_a_store_that_knows_no_checksums_gets_none(
    vendor: Relay, s3_prefix: str, status: int, code: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    vendor.refuse = unknown_checksums(status, code, message)
    store, before = open_store(s3_prefix, through(vendor)), repeated_requests()
    with caplog.at_level(logging.WARNING, "sfr_batch.storage"):
        assert store.create("a", b"some bytes")
        assert not store.create("a", b"other")
        assert store.read("a") == b"some bytes"
        store.delete(["a", "b"])
    assert [(method, path.rsplit("/", 1)[-1]) for method, path, _ in vendor.requests[:2]] == [("PUT", "a")] * 2
    assert len(vendor.requests) <= 7  # the first PUT twice; a deletion may be refused and made one by one
    assert repeated_requests() == before
    assert not list(store.list(""))
    [record] = caplog.records
    assert "AWS_REQUEST_CHECKSUM_CALCULATION=when_required" in record.getMessage()


def test_a_client_that_sends_no_checksums_is_not_asked_twice(
    vendor: Relay, s3_prefix: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    vendor.refuse = unknown_checksums(400, "InvalidArgument", "Unsupported header 'x-amz-checksum-crc32'")
    store = open_store(s3_prefix, through(vendor))
    assert store.create("a", b"some bytes")
    assert len(vendor.requests) == 1
    assert not caplog.records


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match what was computed."),
        ("InvalidArgument", "Unsupported header 'x-amz-checksum-crc32' received for this API call."),
    ],
)
def test_a_checksum_that_stays_wrong_ends_after_two_tries(
    vendor: Relay, s3_prefix: str, code: str, message: str
) -> None:
    store = open_store(s3_prefix, through(vendor))
    vendor.refuse = lambda method, path, fields: (400, code, message)
    for tries in (2, 1):
        vendor.requests.clear()
        with pytest.raises(StorageError) as refused:
            store.create("a", b"x")
        assert len(vendor.requests) == tries
        text = str(refused.value)
        assert text.startswith(f"Cannot write {s3_prefix}/a: the store refuses the checksum of the request")
        assert "AWS_REQUEST_CHECKSUM_CALCULATION=when_required" in text
        assert message in text


def test_a_store_without_conditional_writes_says_so_itself(vendor: Relay, s3_prefix: str) -> None:
    def refuse(method: str, path: str, fields: Fields) -> Refusal:
        message = "A header you provided implies functionality that is not implemented"
        return (501, "NotImplemented", message) if "if-none-match" in fields else None

    vendor.refuse = refuse
    with pytest.raises(StorageError, match=r"does not implement this request .* conditional writes \(If-None-Match\)"):
        open_store(s3_prefix, through(vendor)).create("a", b"x")
    assert len(vendor.requests) == 2


def test_settings_are_no_state_of_the_module() -> None:
    assert "request_checksum_calculation" not in s3._CLIENT


# ---- ETags

CORPUS = jsonl([{"id": "a", "text": "x"}])


def put(s3: S3Server, root: str, name: str, data: bytes) -> None:
    bucket, prefix = root.removeprefix("s3://").split("/", 1)
    s3.client().put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=data)


def in_listings(new: bytes) -> Callable[[bytes, bytes], tuple[bytes, bytes]]:
    """A store whose listing has other ETags."""
    return lambda head, body: (head, re.sub(rb"<ETag>[^<]*</ETag>", new, body))


def in_heads(new: bytes) -> Callable[[bytes, bytes], tuple[bytes, bytes]]:
    """A store whose answer to HEAD has another ETag line."""
    return lambda head, body: (head if body else re.sub(rb"(?i)etag: .*\r\n", new, head), body)


def weak(head: bytes, body: bytes) -> tuple[bytes, bytes]:
    """A proxy that compresses: its ETags of an object are weak, those of a listing pass."""
    return re.sub(rb'(?i)etag: "', b'ETag: W/"', head), body


def both(*changes: Callable[[bytes, bytes], tuple[bytes, bytes]]) -> Callable[[bytes, bytes], tuple[bytes, bytes]]:
    def change(head: bytes, body: bytes) -> tuple[bytes, bytes]:
        for one in changes:
            head, body = one(head, body)
        return head, body

    return change


CONSTANT = in_listings(b"<ETag>&quot;0x8D9953E36AF2607-1&quot;</ETag>")
NO_ETAGS = both(in_listings(b""), in_heads(b""))


def versions(vendor: Relay, root: str) -> list[tuple[str, int]]:
    """[files] versions, and whether each file is unchanged; beside them the requests that the listing took."""
    vendor.requests.clear()
    files = list_inputs(f"{root}/corpus", through(vendor))
    asked = len(vendor.requests)
    assert all(is_unchanged(file.uri, file.version, through(vendor)) for file in files)
    return [(file.version, asked) for file in files]


def test_a_sound_etag_is_the_version_and_costs_one_request(vendor: Relay, s3: S3Server, s3_prefix: str) -> None:
    for name in "abc":
        put(s3, s3_prefix, f"corpus/{name}", name.encode())
    expected = [hashlib.md5(name.encode()).hexdigest() for name in "abc"]
    assert versions(vendor, s3_prefix) == [(etag, 2) for etag in expected]
    vendor.change = weak
    assert versions(vendor, s3_prefix) == [(etag, 2) for etag in expected]
    with open_input(f"{s3_prefix}/corpus/a", through(vendor)) as file:
        assert file.read() == b"a"


@pytest.mark.parametrize(
    "change", [CONSTANT, in_listings(b""), in_heads(b""), NO_ETAGS, in_heads(b'ETag: "other"\r\n')]
)
def test_elsewhere_the_version_is_size_and_time(
    vendor: Relay, s3: S3Server, s3_prefix: str, change: Callable[[bytes, bytes], tuple[bytes, bytes]]
) -> None:
    put(s3, s3_prefix, "corpus/a.jsonl", CORPUS)
    vendor.change = change
    [(version, _)] = versions(vendor, s3_prefix)
    assert re.fullmatch(rf"{len(CORPUS)}-\d{{10}}", version)
    assert versions(vendor, s3_prefix)[0][0] == version
    uri = f"{s3_prefix}/corpus/a.jsonl"
    with open_input(uri, through(vendor)) as file:
        assert file.read() == CORPUS
    put(s3, s3_prefix, "corpus/a.jsonl", CORPUS * 2)
    assert not is_unchanged(uri, version, through(vendor))
    assert versions(vendor, s3_prefix)[0][0] != version


def test_the_times_of_an_object_may_differ_too(vendor: Relay, s3: S3Server, s3_prefix: str) -> None:
    """Only the listing is compared with the listing then."""
    put(s3, s3_prefix, "corpus/a.jsonl", CORPUS)
    old = in_heads(b'ETag: "other"\r\n')
    vendor.change = both(
        old,
        lambda head, body: (
            re.sub(rb"(?i)(last-modified: )[^\r]*", rb"\1Mon, 01 Jan 2024 00:00:00 GMT", head) if not body else head,
            body,
        ),
    )
    [(version, _)] = versions(vendor, s3_prefix)
    put(s3, s3_prefix, "corpus/a.jsonl", CORPUS * 2)
    assert not is_unchanged(f"{s3_prefix}/corpus/a.jsonl", version, through(vendor))


def test_an_object_without_etag_and_time_is_refused(vendor: Relay, s3: S3Server, s3_prefix: str) -> None:
    put(s3, s3_prefix, "corpus/a.jsonl", CORPUS)
    vendor.change = both(NO_ETAGS, lambda head, body: (head, re.sub(rb"<LastModified>[^<]*</LastModified>", b"", body)))
    with pytest.raises(StorageError, match="neither an ETag nor a time of modification"):
        list_inputs(f"{s3_prefix}/corpus", through(vendor))


def test_a_get_that_knows_another_etag_is_asked_without_it(vendor: Relay, s3: S3Server, s3_prefix: str) -> None:
    put(s3, s3_prefix, "corpus/a.jsonl", CORPUS)
    with open_input(f"{s3_prefix}/corpus/a.jsonl", through(vendor)) as file:
        vendor.refuse = lambda method, path, fields: (
            (412, "PreconditionFailed", "pre-conditions") if "if-match" in fields else None
        )
        assert file.read() == CORPUS
    with open_input(f"{s3_prefix}/corpus/a.jsonl", through(vendor)) as file:
        put(s3, s3_prefix, "corpus/a.jsonl", CORPUS[::-1])
        with pytest.raises(StorageError):
            file.read()


def test_a_model_is_fetched_whatever_its_etags(vendor: Relay, s3: S3Server, s3_prefix: str, tmp_path: Path) -> None:
    put(s3, s3_prefix, "corpus/a.jsonl", CORPUS)
    vendor.change = CONSTANT
    [file] = list_inputs(f"{s3_prefix}/corpus", through(vendor))
    fetch_input(file, tmp_path / "copy", through(vendor))
    assert (tmp_path / "copy").read_bytes() == CORPUS

"""S3 as other vendors make it: buckets whose reader pays, checksums that a store does not know.

The relay answers in the server's place as such a store does; the codes and messages are theirs.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import StorageError
from sfr_batch.storage import s3
from sfr_batch.storage.input_listing import list_inputs
from sfr_batch.storage.inputs import open_input, read_input_range, stat_input
from sfr_batch.storage.retries import repeated_requests
from sfr_batch.storage.stores import open_store
from tests.proxy import Relay, relay
from tests.s3server import S3Server

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

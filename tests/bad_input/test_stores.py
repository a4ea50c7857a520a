"""S3 as other vendors make it: what the command says where a table or a corpus cannot be there, and what it accepts."""

import os
import re
from collections.abc import Callable, Mapping

import pytest

from tests.bad_input.bench import Bench, Row, both, check_row, s3
from tests.proxy import Relay, relay
from tests.s3server import S3Server

Fields = Mapping[str, str]
Refusal = tuple[int, str, str] | None
CORPUS = "corpus.path={bucket}/corpus"
TABLE = "table.path={bucket}/table"
NOT_IMPLEMENTED = "A header you provided implies functionality that is not implemented"
MISMATCH = "The provided 'x-amz-content-sha256' header does not match what was computed."
IGNORES = (
    "The store of {bucket}/table ignores If-None-Match: {*}. Two runs at once would destroy each other's work without "
    "noticing. "
)


def before(change: Callable[[Bench, Relay], None]) -> Callable[[Bench], None]:
    """A good corpus on the real server, with a relay before it that acts as the vendor."""

    def prepare(bench: Bench) -> None:
        server: S3Server = bench.request.getfixturevalue("s3")
        vendor = bench.cleanup.enter_context(relay(server.endpoint))
        bench.monkeypatch.setenv("AWS_ENDPOINT_URL", vendor.endpoint)
        change(bench, vendor)

    return both(s3(), prepare)


def refusing(refuse: Callable[[str, Fields], Refusal]) -> Callable[[Bench], None]:
    """The vendor refuses some requests (method, fields)."""

    def change(bench: Bench, vendor: Relay) -> None:
        vendor.refuse = lambda method, path, fields: refuse(method, fields)

    return before(change)


def changing(pattern: bytes, new: bytes) -> Callable[[Bench], None]:
    """The vendor's answers to HEAD and its listings have something else, in the head and in the body."""

    def change(bench: Bench, vendor: Relay) -> None:
        vendor.change = lambda head, body: (re.sub(pattern, new, head), re.sub(pattern, new, body))

    return before(change)


def replacing(*methods: str) -> Callable[[Bench], None]:
    """The vendor lets the conditional requests with these methods replace an object."""

    def change(bench: Bench, vendor: Relay) -> None:
        server: S3Server = bench.request.getfixturevalue("s3")

        def forget(method: str, path: str) -> bool:
            name, _, query = path.partition("?")
            if method in methods and (method == "PUT") == ("uploadId" not in query) and "/_sfr/probe/" in name:
                bucket, key = name.lstrip("/").split("/", 1)
                if not key.endswith("-passed"):
                    server.client().delete_object(Bucket=bucket, Key=key)
            return False

        vendor.only = forget

    return before(change)


def unpaid(method: str, fields: Fields) -> Refusal:
    return None if "x-amz-request-payer" in fields else (403, "AccessDenied", "Access Denied")


def unconditional(method: str, fields: Fields) -> Refusal:
    return (501, "NotImplemented", NOT_IMPLEMENTED) if "if-none-match" in fields else None


def old(method: str, fields: Fields) -> Refusal:
    new = [name for name in fields if name.startswith(("x-amz-checksum", "x-amz-sdk-checksum"))]
    return (400, "InvalidArgument", f"Unsupported header '{new[0]}' received for this API call.") if new else None


def mismatch(method: str, fields: Fields) -> Refusal:
    return (400, "XAmzContentSHA256Mismatch", MISMATCH) if method == "PUT" else None


# fmt: off
ROWS = [
    Row("a store that ignores conditions",
        IGNORES.replace("{*}", "it lets a second writer replace a file")
        + "Write the table to a store with conditional writes, such as AWS S3, or to a local disk.",
        prepare=replacing("PUT"), overrides=(CORPUS, TABLE)),
    Row("the same store as a corpus", phase="done", prepare=replacing("PUT"), overrides=(CORPUS,)),
    Row("a store that ignores conditions of large files",
        IGNORES.replace("{*}", "the completion of an upload in parts replaces a file")
        + "Set table.storage.multipart: false, so that each file is uploaded by one request.",
        prepare=replacing("POST"), overrides=(CORPUS, TABLE)),
    Row("the same store without parts", phase="done", prepare=replacing("POST"),
        overrides=(CORPUS, TABLE, "table.storage.multipart=false")),
    Row("a store that refuses conditions",
        "Cannot write {bucket}/table/_sfr/probe/{*}: the store does not implement this request ({*}"
        f"{NOT_IMPLEMENTED}). A table needs a store with conditional writes (If-None-Match), such as AWS S3; a "
        "corpus only needs to be listed and read.", prepare=refusing(unconditional), overrides=(CORPUS, TABLE)),
    Row("a store that knows no checksums", phase="done", prepare=refusing(old), overrides=(CORPUS, TABLE)),
    Row("a store that takes no checksum",
        "Cannot write {bucket}/table/_sfr/probe/{*}: the store refuses the checksum of the request, also without the "
        "newer headers, as AWS_REQUEST_CHECKSUM_CALCULATION=when_required leaves them out ({*}"
        f"{MISMATCH}). Look for a proxy that changes requests on their way, and ask the store's operator which "
        "checksums it takes.", prepare=refusing(mismatch), overrides=(CORPUS, TABLE)),
    Row("a bucket whose reader pays",
        "Cannot list {bucket}/corpus: access denied (Access Denied); check the credentials, the bucket policy and the "
        "endpoint, and, if who reads this bucket has to pay, storage.requester_pays.", prepare=refusing(unpaid),
        overrides=(CORPUS,)),
    Row("a bucket whose reader pays, and does", phase="done", prepare=refusing(unpaid),
        overrides=(CORPUS, "corpus.storage.requester_pays=true")),
    Row("no ETags", phase="done", prepare=changing(rb"(?i)etag: .*\r\n|<ETag>[^<]*</ETag>", b""), overrides=(CORPUS,)),
    Row("neither ETags nor times",
        "{bucket}/corpus/good.jsonl has neither an ETag nor a time of modification, so that no change of it would be "
        "noticed. Copy the files to another store, or to a disk.", overrides=(CORPUS,),
        prepare=changing(rb"(?i)(etag|last-modified): .*\r\n|<(ETag|LastModified)>[^<]*</(ETag|LastModified)>", b"")),
]
# fmt: on


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_other_vendors(row: Row, bench: Bench) -> None:
    check_row(row, bench)
    assert os.environ["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")

"""The store on a real S3 server that throttles, breaks off, loses replies, is silent, and is killed and started again.

Faults are put between the client and the server by `tests.proxy`. What is asserted: every operation gives the right
answer or a StorageError that says what was tried, and what was repeated is counted.
"""

import asyncio
import json
import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import botocore.exceptions
import numpy as np
import pytest

import sfr_batch as sfr
from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import ConfigError, ObjectNotFound, StorageError, counted
from sfr_batch.format import names as schema
from sfr_batch.pipeline.summary import Summary
from sfr_batch.storage import parallel, retries, s3
from sfr_batch.storage.input_listing import list_inputs
from sfr_batch.storage.inputs import fetch_input, open_input, read_input_range
from sfr_batch.storage.retries import Bounds, RetriesExhausted, repeated_requests, retry
from sfr_batch.storage.s3 import S3Store
from sfr_batch.storage.s3_client import Truncated, check_length, transient_reason
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.publish import publish
from sfr_batch.table.commit.writing import create_or_open
from sfr_batch.table.search import vectors_of
from sfr_batch.table.table import Table
from tests.job_processes import config, documents, put_parquet
from tests.models import docstrings
from tests.proxy import FAULTS, Relay, relay
from tests.s3server import S3Server
from tests.tables import card_of, commit_rows, draft_of

MIB = 2**20
DOCUMENTS = 80


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_FIRST_DELAY_S", 0.01)


@pytest.fixture
def faulty(s3: S3Server) -> Iterator[Relay]:
    """Before the server; without a fault until its rates are set."""
    with relay(s3.endpoint) as made:
        yield made


def through(faulty: Relay, **bounds: Any) -> StorageSettings:
    return StorageSettings(endpoint_url=faulty.endpoint, **bounds)


def put_on(faulty: Relay, fault: str, *methods: str, containing: str = "", times: int = 10**9) -> None:
    """``fault`` for the next ``times`` requests with these methods and this in their path."""
    left = [None] * min(times, 10**6)
    lock = threading.Lock()

    def chosen(method: str, path: str) -> bool:
        with lock:
            return (not methods or method in methods) and containing in path and bool(left) and left.pop() is None

    faulty.only, faulty.rates = chosen, {fault: 1.0}


# ---- bounds, without a store


def times(request: Any, bounds: Bounds, reason: str | None = "throttled") -> tuple[Any, int]:
    """What becomes of a request (its exception, if any), and how often it was made."""
    made = 0

    async def once() -> Any:
        nonlocal made
        made += 1
        if isinstance(result := request(made), Exception):
            raise result
        return result

    try:
        return asyncio.run(retry(once, bounds, lambda _: reason, "PUT s3://b/k")), made
    except Exception as error:
        return error, made


def test_a_request_is_tried_until_it_works() -> None:
    before = repeated_requests()
    assert times(lambda n: OSError("busy") if n < 4 else "done", Bounds(9, 60)) == ("done", 4)
    assert repeated_requests() - before == {"throttled": 3}


def test_attempts_are_a_bound_and_the_error_tells_them() -> None:
    error, made = times(lambda n: OSError("busy"), Bounds(5, 60))
    assert made == 5
    assert isinstance(error, RetriesExhausted)
    assert re.fullmatch(
        r"tried 5 times over \d+ s, the last time: throttled \(busy\)\. Check endpoint, region and network, and run "
        r"the command again; storage\.attempts \(5\) and storage\.give_up_after_s \(60\) limit the retries\.",
        str(error),
    )
    error, made = times(lambda n: OSError("busy"), Bounds(1, 60))
    assert made == 1
    assert str(error).startswith("tried once, the last time: throttled (busy).")


def test_time_is_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_FIRST_DELAY_S", 100.0)
    monkeypatch.setattr(retries, "_LONGEST_DELAY_S", 100.0)
    error, made = times(lambda n: OSError("busy"), Bounds(1000, 49))
    assert isinstance(error, RetriesExhausted)
    assert made == 1


def test_what_is_final_is_not_repeated() -> None:
    before = repeated_requests()
    refused = PermissionError("no")
    assert times(lambda n: refused, Bounds(5, 60), reason=None) == (refused, 1)
    assert repeated_requests() == before


def test_pauses_grow_to_a_limit_and_sit_out_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    usual = StorageSettings()
    for _ in range(50):
        pauses = [retries.backoff(n) for n in range(1, usual.attempts)]
        assert all(0.125 <= pause <= 15 for pause in pauses)
        assert sum(pauses) > 60  # a server that is away for a minute; a budget of two minutes ends it
    assert len({retries.backoff(3) for _ in range(9)}) > 1
    assert retries.backoff(10**6) <= 15


def test_the_log_says_it_at_once_and_then_seldom(caplog: pytest.LogCaptureFixture) -> None:
    retries._last_logged = float("-inf")
    with caplog.at_level(logging.WARNING, "sfr_batch.storage.retries"):
        times(lambda n: OSError("busy") if n < 8 else "done", Bounds(9, 60), "some reason")
        [record] = caplog.records
        assert re.search(
            r"PUT s3://b/k: some reason \(busy\); try 1 of 9, the next in 0\.0 s\. Repeated so far in this process: "
            r".*some reason 1",
            record.getMessage(),
        )
        retries._last_logged -= 5.1
        times(lambda n: OSError("busy") if n < 8 else "done", Bounds(9, 60), "some reason")
        assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("length", "promised", "asked", "got"),
    [
        (9, 10, None, None),
        (2, 2, "bytes=2-5", "bytes 2-3/100"),
        (3, None, "bytes=2-5", "bytes 2-5/100"),
        (4, 4, "bytes=2-5", "bytes 0-3/100"),
        (50, 50, "bytes=2-", "bytes 2-51/100"),
        (100, 100, "bytes=2-5", None),
        (100, 100, "bytes=0-5", None),
    ],
)
def test_a_wrong_length_is_found(length: int, promised: int | None, asked: str | None, got: str | None) -> None:
    with pytest.raises(Truncated, match=f"{length} bytes"):
        check_length(length, promised, asked, got)


@pytest.mark.parametrize(
    ("length", "promised", "asked", "got"),
    [
        (10, 10, None, None),
        (10, None, None, None),
        (4, 4, "bytes=2-5", "bytes 2-5/100"),
        (2, 2, "bytes=98-150", "bytes 98-99/100"),
        (98, 98, "bytes=2-", "bytes 2-99/100"),
        (3, 3, "bytes=0-5", None),  # some stores answer with the whole object where the range covers it
    ],
)
def test_a_right_length_is_taken(length: int, promised: int | None, asked: str | None, got: str | None) -> None:
    check_length(length, promised, asked, got)


def answer(status: int, code: str) -> Exception:
    response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    translated = OSError(5, code)
    translated.__cause__ = botocore.exceptions.ClientError(response, "PutObject")
    return translated


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "AccessDenied"), (404, "NoSuchBucket"), (404, "NoSuchKey"), (412, "PreconditionFailed"),
     (400, "MalformedXML"), (403, "RequestTimeTooSkewed"), (409, "ConditionalRequestConflict"), (416, "InvalidRange"),
     (501, "NotImplemented")],
)  # fmt: skip
def test_refusals_are_final(status: int, code: str) -> None:
    assert transient_reason(answer(status, code)) is None


def test_wrong_settings_are_final() -> None:
    wrong = FileNotFoundError("no such CA bundle")
    assert transient_reason(botocore.exceptions.NoCredentialsError()) is None
    assert transient_reason(botocore.exceptions.ProfileNotFound(profile="nobody")) is None
    assert transient_reason(botocore.exceptions.HTTPClientError(error=wrong)) is None
    certificate = botocore.exceptions.SSLError(endpoint_url="u", error="CERTIFICATE_VERIFY_FAILED")
    assert transient_reason(certificate) is None
    assert transient_reason(ValueError("a bug of ours")) is None


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [(503, "503", "throttled"), (503, "SlowDown", "throttled"), (500, "InternalError", "server error"),
     (502, "502", "server error"), (400, "RequestTimeout", "broken on the way"), (429, "429", "throttled")],
)  # fmt: skip
def test_troubles_are_transient(status: int, code: str, reason: str) -> None:
    assert transient_reason(answer(status, code)) == reason


# ---- every operation under every fault


@pytest.mark.parametrize("fault", FAULTS)
def test_every_operation_is_right_under_faults(faulty: Relay, s3_prefix: str, tmp_path: Path, fault: str) -> None:
    settings = through(faulty)
    store = open_store(s3_prefix, settings)
    faulty.rates = {fault: 0.4}
    before = repeated_requests()
    data = np.random.default_rng(0).bytes(300_000)
    for number in range(4):
        key, uri = f"data/{number}", f"{s3_prefix}/data/{number}"
        # False only where a reply was lost, and then what is there is ours.
        assert store.create(key, data) or fault in ("lost_reply", "reset")
        assert not store.create(key, b"other")
        assert store.read(key) == data
        with store.open(key) as file:
            assert file.seek(-1000, os.SEEK_END) == len(data) - 1000
            assert file.read() == data[-1000:]
            file.seek(0)
            assert file.read() == data
        with open_input(uri, settings, readahead=50_000) as file:
            assert b"".join(iter(lambda file=file: file.read(70_000), b"")) == data
        assert read_input_range(uri, 100, 200_000, settings) == data[100:200_000]
        assert read_input_range(uri, 299_990, 400_000, settings) == data[299_990:]
        with pytest.raises(ObjectNotFound):
            store.read(f"{key}/nothing")
        with pytest.raises(ObjectNotFound):
            store.open(f"{key}/nothing")
    assert {(info.key, info.size) for info in store.list("data")} == {(f"data/{n}", len(data)) for n in range(4)}
    files = list_inputs(f"{s3_prefix}/data", settings)
    assert [file.size for file in files] == [len(data)] * 4
    fetch_input(files[0], tmp_path / "copy", settings)
    assert (tmp_path / "copy").read_bytes() == data
    store.delete(f"data/{n}" for n in range(4))
    assert not list(store.list("data"))
    assert faulty.done[fault] >= 5
    repeated = repeated_requests() - before
    if fault == "slow":  # slow is not wrong
        assert not repeated
    elif fault in ("reset", "lost_reply"):  # aiohttp mends a connection that it had kept by itself
        assert set(repeated) == {"connection"}
    else:
        assert repeated == {"throttled" if fault == "slow_down" else "truncated": faulty.done[fault]}


@pytest.mark.parametrize("fault", ["slow_down", "reset", "lost_reply", "truncate"])
def test_a_bound_ends_it_and_the_error_says_what_was_tried(faulty: Relay, s3_prefix: str, fault: str) -> None:
    store = open_store(s3_prefix, through(faulty, attempts=3))
    store.create("data/a", b"some bytes")
    operations = {
        "write": lambda: store.create("data/b", b"x"),
        "read": lambda: store.read("data/a"),
        "list": lambda: list(store.list("data")),
        "delete": lambda: store.delete(["data/c"]),
    }
    if fault == "truncate":
        del operations["write"]  # its answer has no body
    faulty.rates = {fault: 1.0}
    for verb, operation in operations.items():
        faulty.requests.clear()
        reason = {"slow_down": "throttled", "truncate": "truncated"}.get(fault, "connection")
        with pytest.raises(StorageError, match=rf"Cannot {verb} .*tried 3 times over \d s, the last time: {reason}"):
            operation()
        mended = 2 if fault in ("reset", "lost_reply") else 1  # by aiohttp, at once, where it had kept the connection
        assert 3 <= len(faulty.requests) <= 3 * mended, verb


def test_a_reader_that_is_open_goes_on_after_faults_and_tells_when_it_cannot(faulty: Relay, s3_prefix: str) -> None:
    store = open_store(s3_prefix, through(faulty, attempts=4))
    data = np.random.default_rng(0).bytes(9 * MIB)  # more than one read of 4 MiB fetches
    store.create("a", data)
    with store.open("a") as file:
        assert file.read(100) == data[:100]
        put_on(faulty, "truncate", "GET", times=3)
        assert file.read() == data[100:]
    put_on(faulty, "slow_down", times=0)
    with store.open("a") as file:
        file.read(100)
        put_on(faulty, "cut", "GET")
        with pytest.raises(StorageError, match=r"Cannot read .*/a: tried 4 times over .*truncated"):
            file.read()


@pytest.mark.parametrize("size", [1000, 5 * MIB])
def test_an_object_that_shrinks_under_a_reader_is_told(s3_prefix: str, size: int) -> None:
    store = open_store(s3_prefix)
    store.create("a", bytes(9 * MIB))
    with store.open("a") as file:
        file.read(100)
        store.delete(["a"])
        store.create("a", bytes(size))
        with pytest.raises(StorageError, match=r"Cannot read .*/a"):
            file.read()


def test_a_refusal_takes_one_request(faulty: Relay, s3_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAD_KEY", "nobody")
    monkeypatch.setenv("BAD_SECRET", "wrong")
    before = repeated_requests()
    settings = through(faulty, access_key_id="${BAD_KEY}", secret_access_key="${BAD_SECRET}")
    with pytest.raises(StorageError, match="access denied"):
        open_store(s3_prefix, settings).read("a")
    with pytest.raises(StorageError, match="no such bucket"):
        open_store("s3://sfr-no-such-bucket/t", through(faulty)).create("a", b"x")
    assert len(faulty.requests) == 2
    with pytest.raises(ConfigError):
        open_store(s3_prefix, StorageSettings(endpoint_url="localhost:1"))
    assert repeated_requests() == before


def test_silence_is_a_timeout(faulty: Relay, s3_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(s3._CLIENT, "read_timeout", 1)
    store = open_store(s3_prefix, through(faulty))
    before = repeated_requests()
    store.create("a", b"x" * 1000)
    faulty.let_through = 0
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(store.read, "a")
        while not repeated_requests() - before:
            time.sleep(0.05)
        faulty.release()
        assert reading.result() == b"x" * 1000
    assert set(repeated_requests() - before) == {"timeout"}


# ---- lost replies


def test_a_writer_whose_replies_are_lost_takes_what_is_its_own(faulty: Relay, s3_prefix: str) -> None:
    """Every first PUT of a name takes effect and is not answered: card, splits, side files, lists and manifest."""
    store = open_store(s3_prefix, through(faulty))
    store.create("warm", b"")
    put_on(faulty, "lost_reply", "PUT")
    seen: set[str] = set()
    inner = faulty.only

    def first(method: str, path: str) -> bool:
        if method != "PUT" or path in seen:
            return False
        seen.add(path)
        return inner(method, path)

    faulty.only = first
    card = card_of()
    table = create_or_open(store, card)
    receipts = [commit_rows(store, card, str(n), [f"{n}", f"{n}b", f"{n}"], start=n) for n in range(3)]
    snapshot = publish(table, None, draft_of(receipts))
    assert snapshot.number == 1
    assert faulty.done["lost_reply"] == len(seen) == 10
    found = Table.open(open_store(s3_prefix)).current()
    assert found.manifest == snapshot.manifest
    assert sorted(found.to_arrow()["id"].to_pylist()) == ["0", "0b", "1", "1b", "2", "2b"]


def big(first: bytes) -> bytes:
    data = bytearray(101 * MIB)  # s3fs cuts from 100 MiB on
    data[: len(first)] = first
    return bytes(data)


def leftovers(s3: S3Server, root: str) -> list[Any]:
    bucket, prefix = root.removeprefix("s3://").split("/", 1)
    return list(s3.client().list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads", []))


@pytest.mark.parametrize(
    ("fault", "method", "won"),
    [
        ("lost_reply", "POST", False),
        ("slow_down", "POST", True),
        ("slow_down", "PUT", True),
        ("lost_reply", "PUT", True),
    ],
)
def test_a_multipart_upload_with_a_fault(
    s3: S3Server, faulty: Relay, s3_prefix: str, fault: str, method: str, won: bool
) -> None:
    """Of one part, and of the completion: lost, it gives False like any lost reply, and the object is there."""
    store = open_store(s3_prefix, through(faulty))
    put_on(faulty, fault, method, containing="uploadId=", times=1)
    assert store.create("big", big(b"mine")) == won
    assert faulty.done[fault] == 1
    (info,) = store.list("")
    assert info.size == 101 * MIB
    with store.open("big") as file:
        assert file.read(4) == b"mine"
    assert not leftovers(s3, s3_prefix)
    store.delete(["big"])


def test_of_two_multipart_uploads_that_are_completed_in_turn_the_first_wins(
    s3: S3Server, faulty: Relay, s3_prefix: str
) -> None:
    """Both have uploaded all parts before the first is completed; the second gets False and leaves no parts behind.

    In turn, for what two completions at the very same time give is the store's affair: AWS lets one win. SeaweedFS 4.48
    looks whether the key is taken and then completes, so that in half of such pairs both win, with a plain client, too
    (its PUTs are atomic). `sfr_batch/format/README.md` says why a table bears that.
    """
    uploaded, answered = threading.Barrier(2), threading.Event()
    completed: list[str] = []

    def in_turn(method: str, path: str) -> bool:
        if method == "POST" and "uploadId=" in path:
            second = uploaded.wait(60)
            assert not second or answered.wait(60)
            completed.append(path)
        return False

    faulty.only = in_turn

    def upload(name: bytes) -> bool:
        won = open_store(s3_prefix, through(faulty)).create("big", big(name))
        answered.set()
        return won

    with ThreadPoolExecutor(2) as pool:
        won = list(pool.map(upload, [b"0", b"1"]))
    assert sorted(won) == [False, True]
    assert len(completed) == 2
    assert [path for method, path, _ in faulty.requests if method == "DELETE"] == [completed[1]]
    assert not leftovers(s3, s3_prefix)
    store = open_store(s3_prefix)
    with store.open("big") as file:
        assert file.read(1) == b"%d" % won.index(True)
        assert file.seek(0, os.SEEK_END) == 101 * MIB
    store.delete(["big"])


def test_a_multipart_upload_that_was_aborted_begins_again(s3: S3Server, faulty: Relay, s3_prefix: str) -> None:
    """As by a lifecycle rule, between the last part and the completion."""
    bucket, prefix = s3_prefix.removeprefix("s3://").split("/", 1)
    store = open_store(s3_prefix, through(faulty))
    aborted = []

    def abort(method: str, path: str) -> bool:
        if method == "POST" and "uploadId=" in path and not aborted:
            (upload,) = leftovers(s3, s3_prefix)
            aborted.append(upload["UploadId"])
            s3.client().abort_multipart_upload(Bucket=bucket, Key=f"{prefix}/big", UploadId=aborted[0])
        return False

    faulty.only, faulty.rates = abort, {"slow": 1.0}
    assert store.create("big", big(b"mine"))
    assert aborted
    assert [info.size for info in store.list("")] == [101 * MIB]
    store.delete(["big"])


# ---- many


@pytest.mark.parametrize("count", [1100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_listing_of_many_pages_under_faults(faulty: Relay, s3_prefix: str, count: int) -> None:
    bucket, prefix = s3_prefix.removeprefix("s3://").split("/", 1)
    writer = open_store(s3_prefix)
    assert isinstance(writer, S3Store)
    names = [f"many/{n:05}" for n in range(count)]
    with ThreadPoolExecutor(16) as pool:  # without a condition, which costs the server time
        list(pool.map(lambda name: writer._fs.pipe_file(f"{bucket}/{prefix}/{name}", b"x"), names))
    store = open_store(s3_prefix, through(faulty))
    faulty.rates = {"slow_down": 0.3, "truncate": 0.3}
    assert sorted(info.key for info in store.list("many")) == names
    pages = [path for method, path, _ in faulty.requests if method == "GET"]
    assert len(pages) == -(-count // 1000) + faulty.done.total()
    store.delete(names)
    assert not list(store.list("many"))


@pytest.mark.parametrize("names", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_sixteen_writers_of_a_name_under_faults(faulty: Relay, s3_prefix: str, names: int) -> None:
    """A lost reply may hide the winner from itself; nobody else ever believes to have won."""
    faulty.rates = {"slow_down": 0.1, "reset": 0.05, "lost_reply": 0.05}
    barrier = threading.Barrier(16)
    store = open_store(s3_prefix, through(faulty))

    def write(number: int, writer: int) -> bool:
        barrier.wait()
        return store.create(f"race/{number}", b"writer %d" % writer)

    with ThreadPoolExecutor(16) as pool:
        for number in range(names):
            won = list(pool.map(lambda writer, number=number: write(number, writer), range(16)))
            there = store.read(f"race/{number}")
            assert won.count(True) <= 1
            if True in won:
                assert there == b"writer %d" % won.index(True)
            else:
                assert faulty.done["lost_reply"] + faulty.done["reset"]
                assert re.fullmatch(rb"writer \d+", there)
    assert faulty.done["slow_down"]


def test_the_server_is_killed_and_comes_back_while_writers_and_readers_work(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was acknowledged is there, and no operation has failed."""
    monkeypatch.setattr(retries, "_FIRST_DELAY_S", 0.25)
    server = S3Server(tmp_path)
    server.start()
    try:
        root = f"{server.create_bucket('restart')}/t"
        settings = StorageSettings(endpoint_url=server.endpoint)
        written: dict[str, bytes] = {}
        failures: list[Exception] = []
        stop = threading.Event()
        before = repeated_requests()

        def work(name: str) -> None:
            store, rng, number = open_store(root, settings), np.random.default_rng(0), 0
            try:
                while not stop.is_set():
                    key, data = f"{name}/{number}", rng.bytes(5000)
                    if not store.create(key, data):  # a reply was lost: the name is ours alone
                        assert store.read(key) == data
                    written[key] = data
                    number += 1
                    other, expected = list(written.items())[int(rng.integers(len(written)))]
                    with store.open(other) as file:
                        assert file.read() == expected
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(2):
            wait_for(written, len(written) + 40, failures)
            server.kill()
            time.sleep(1)
            server.start()
        wait_for(written, len(written) + 40, failures)
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures
        assert (repeated_requests() - before)["connection"]
        store = open_store(root, settings)
        keys = {info.key for name in range(4) for info in store.list(f"w{name}")}
        assert keys == set(written)
        assert parallel.read_many(store, sorted(keys)) == [written[key] for key in sorted(keys)]
    finally:
        server.stop()


def wait_for(written: dict[str, bytes], count: int, failures: list[Exception]) -> None:
    while len(written) < count and not failures:
        time.sleep(0.05)


# ---- whole jobs


def embeddings(table: str) -> tuple[list[str], np.ndarray[Any, Any]]:
    arrow = sfr.open_table(table).to_arrow(["id", "embedding"])
    return arrow["id"].to_pylist(), vectors_of(arrow["embedding"].combine_chunks())


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", [DOCUMENTS, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_job_with_a_tenth_of_all_answers_faulty(
    number: int, faulty: Relay, s3_prefix: str, small_model: Path
) -> None:
    """The same table, byte by byte; the slow one of documents of any length."""
    texts = sorted(docstrings(600), key=len)[:number] if number == DOCUMENTS else docstrings(number)
    for shard in range(4):
        put_parquet(f"{s3_prefix}/corpus/{shard}.parquet", documents(texts[shard::4], f"s{shard}"))
    usual = config(small_model, s3_prefix, "run.actors.torch_threads=1", rows_per_split=2, ray_address="none")
    calm = sfr.embed(usual)
    # The client's library itself repeats some requests whose connection was lost. Of the others there should be many.
    faulty.rates = {"slow_down": 0.04, "truncate": 0.03, "reset": 0.01, "lost_reply": 0.01, "slow": 0.01}
    before = repeated_requests()
    detour = [f"{section}.storage.endpoint_url={faulty.endpoint}" for section in ("corpus", "table")]
    summary = sfr.embed(usual, [f"table.path={s3_prefix}/faulty", *detour])
    assert summary.splits == calm.splits == number // 2
    ids, vectors = embeddings(f"{s3_prefix}/faulty")
    assert Counter(ids) == Counter(f"s{n % 4}-{n // 4:05}" for n in range(number))
    expected_ids, expected = embeddings(f"{s3_prefix}/table")
    assert ids == expected_ids
    assert vectors.tobytes() == expected.tobytes()
    assert summary.snapshot.manifest.counts == calm.snapshot.manifest.counts
    assert faulty.done
    assert 0 < sum(repeated(summary).values()) <= (repeated_requests() - before).total()
    assert repeated(calm) == {}
    assert f"\nRepeated  {counted(sum(repeated(summary).values()), 'request')} to S3 (" in summary.describe()
    assert "Repeated" not in calm.describe()


def repeated(summary: Summary) -> dict[str, int]:
    data = open_store(summary.table).read(schema.run_key(summary.snapshot.manifest.run_id, "report.json"))
    found: dict[str, int] = json.loads(data)["repeated_requests"]
    return found

"""The contract of a store, on memory, on local disk and on a real S3 server; and how failures are told."""

import gzip
import io
import os
import pickle
import socket
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import ConfigError, ObjectNotFound, StorageError
from sfr_batch.storage import inputs, parallel, synced_file
from sfr_batch.storage import store as storage
from sfr_batch.storage.input_listing import list_inputs
from sfr_batch.storage.inputs import open_input, read_input_range
from sfr_batch.storage.local import LocalStore
from sfr_batch.storage.s3 import S3Store
from sfr_batch.storage.store import Store
from sfr_batch.storage.stores import open_store
from tests.s3server import S3Server

PLAIN = StorageSettings()


def keys(store: Store, prefix: str) -> list[str]:
    return sorted(info.key for info in store.list(prefix))


def put(root: str, *names: str, data: bytes = b"x") -> None:
    store = open_store(root)
    for name in names:
        assert store.create(name, data)


# ---- create, read, list, delete


def test_create_names_the_winner_and_keeps_the_first_bytes(store: Store) -> None:
    assert store.create("data/a.parquet", b"first")
    assert not store.create("data/a.parquet", b"second")
    assert store.read("data/a.parquet") == b"first"
    assert keys(store, "data") == ["data/a.parquet"]


def test_objects_may_be_empty_and_hold_any_byte(store: Store) -> None:
    every_byte = bytes(range(256)) * 300
    assert store.create("a", b"")
    assert not store.create("a", b"x")
    assert store.create("b", every_byte)
    assert (store.read("a"), store.read("b")) == (b"", every_byte)


def test_a_function_may_write_the_content(store: Store) -> None:
    def write(file: IO[bytes]) -> None:
        file.write(b"one")
        assert file.tell() == 3
        file.write(b"two")

    def break_off(file: IO[bytes]) -> None:
        file.write(b"half of it")
        raise KeyError("no more")

    assert store.create("data/a", write)
    assert not store.create("data/a", write)
    with pytest.raises(KeyError, match="no more"):
        store.create("data/b", break_off)
    assert [(info.key, info.size) for info in store.list("")] == [("data/a", 6)]
    assert store.read("data/a") == b"onetwo"


def test_a_local_disk_holds_what_a_function_has_written_so_far(tmp_path: Path) -> None:
    def write(file: IO[bytes]) -> None:
        file.write(block)
        (temporary,) = (tmp_path / storage.TEMPORARY).iterdir()
        assert temporary.stat().st_size == len(block)

    block = bytes(2**20)
    local = LocalStore(str(tmp_path))
    assert local.create("a", write)

    def never(file: IO[bytes]) -> None:
        raise AssertionError("the object is there already")

    assert not local.create("a", never)
    assert local.read("a") == block


def test_one_of_several_racing_writers_wins(store: Store) -> None:
    # Contended conditional writes are right on the S3 server but slow, so its race is short.
    writers, rounds = (3, 4) if isinstance(store, S3Store) else (4, 50)
    barrier = threading.Barrier(writers)

    def write(number: int, writer: int) -> bool:
        barrier.wait()
        return store.create(f"race/{number}", f"writer {writer}".encode())

    with ThreadPoolExecutor(writers) as pool:
        for number in range(rounds):
            won = list(pool.map(lambda writer, number=number: write(number, writer), range(writers)))
            assert won.count(True) == 1
            assert store.read(f"race/{number}") == f"writer {won.index(True)}".encode()


def test_open_seeks_and_reads_lines_and_feeds_pyarrow(store: Store) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": [1, 2, 3]}), buffer)
    store.create("data/t.parquet", buffer.getvalue())
    store.create("lines", b"one\ntwo\nthree")
    with store.open("data/t.parquet") as file:
        file.seek(-4, os.SEEK_END)
        assert file.read() == b"PAR1"
        assert file.tell() == len(buffer.getvalue())
    with store.open("data/t.parquet") as file:
        assert pq.read_table(file).column("id").to_pylist() == [1, 2, 3]
    with store.open("lines") as file:
        assert list(file) == [b"one\n", b"two\n", b"three"]


@pytest.mark.parametrize("prefix", ["data", "data/", "data/deep"])
def test_list_is_by_folder_not_by_beginning(store: Store, prefix: str) -> None:
    for key in ("data/a", "data/deep/b", "data/deep/er/c", "data2/d", "dat", "data/deeper"):
        store.create(key, key.encode())
    expected = {"data": 4, "data/": 4, "data/deep": 2}[prefix]
    found = list(store.list(prefix))
    assert len(found) == expected
    assert all(info.key.startswith(prefix.rstrip("/") + "/") and info.size == len(info.key) for info in found)


def test_list_knows_the_time(store: Store) -> None:
    before = store.now if hasattr(store, "now") else time.time()
    store.create("a/b", b"x")
    (info,) = store.list("a")
    assert abs(info.modified - before) < 30


def test_list_of_nothing_is_empty(store: Store) -> None:
    assert keys(store, "data") == []
    store.create("other/a", b"x")
    store.create("file", b"x")
    assert keys(store, "data") == []
    assert keys(store, "file") == []  # an object is not a folder


def test_list_and_delete_more_keys_than_one_answer_holds(store: Store) -> None:
    names = [f"many/{n:04}" for n in range(1050)]
    if isinstance(store, S3Store):
        # Straight to the server: 1,050 conditional writes are not what is tested here.
        bucket, prefix = store.root.removeprefix("s3://").split("/", 1)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: store._fs.pipe_file(f"{bucket}/{prefix}/{name}", b"x"), names))
    else:
        for name in names:
            store.create(name, b"x")
    assert keys(store, "many") == names
    store.create("kept", b"x")
    store.delete(names)
    assert keys(store, "many") == []
    assert store.read("kept") == b"x"


def test_delete_removes_these_keys_and_nothing_else(store: Store) -> None:
    for key in ("data/a", "data/b", "data/c", "data/*", "data/[ab]", "data/?"):
        store.create(key, b"x")
    store.delete(["data/*", "data/[ab]", "data/?", "data/a", "never/was"])
    assert keys(store, "data") == ["data/b", "data/c"]
    store.delete(info.key for info in store.list("data"))
    assert keys(store, "data") == []
    store.delete([])


def test_delete_of_a_folder_leaves_its_objects(store: Store) -> None:
    for key in ("data/a", "data/b"):
        store.create(key, b"x")
    if isinstance(store, LocalStore):
        with pytest.raises(StorageError, match="Cannot delete"):
            store.delete(["data"])
    else:
        store.delete(["data", "data/"])
    assert keys(store, "data") == ["data/a", "data/b"]


def test_a_deleted_name_is_free_again(store: Store) -> None:
    store.create("lease", b"one")
    store.delete(["lease"])
    assert store.create("lease", b"two")
    assert store.read("lease") == b"two"


@pytest.mark.parametrize("read", [lambda s, k: s.read(k), lambda s, k: s.open(k).read()], ids=["read", "open"])
def test_a_missing_object_is_told_by_name(store: Store, read: Callable[[Store, str], bytes]) -> None:
    store.create("data/a", b"x")
    with pytest.raises(ObjectNotFound, match=r"data/b.*does not exist"):
        read(store, "data/b")


def test_a_folder_is_not_an_object(place: str) -> None:
    put(place, "data/a")
    with pytest.raises(StorageError, match="data"):
        open_store(place).open("data").read()


def test_read_many_keeps_the_order(store: Store) -> None:
    names = [f"r/{n}" for n in range(40)]
    for name in names:
        store.create(name, name.encode())
    assert parallel.read_many(store, names[::-1]) == [name.encode() for name in names[::-1]]


def test_a_store_travels_to_a_worker_without_its_keys(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(place, "a")
    settings = PLAIN
    if place.startswith("s3://"):
        monkeypatch.setenv("MY_KEY", os.environ["AWS_ACCESS_KEY_ID"])
        monkeypatch.setenv("MY_SECRET", os.environ["AWS_SECRET_ACCESS_KEY"])
        settings = StorageSettings(access_key_id="${MY_KEY}", secret_access_key="${MY_SECRET}")
    data = pickle.dumps(open_store(place, settings))
    assert os.environ.get("AWS_SECRET_ACCESS_KEY", "no secret").encode() not in data
    assert pickle.loads(data).read("a") == b"x"


def test_the_root_may_be_a_bucket(s3_bucket: str) -> None:
    store = open_store(s3_bucket)
    assert store.create("a/b", b"x")
    assert keys(store, "") == keys(store, "a") == ["a/b"]
    store.delete(["a/b"])
    assert keys(store, "") == []


# ---- whole or not at all


@pytest.mark.parametrize("broken", ["fsync", "link"])
def test_a_failed_local_write_leaves_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    store = LocalStore(str(tmp_path))
    store.create("data/first", b"x")  # the folders are there, so that the file's own fsync is the first

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken_disk:
        broken_disk.setattr(os, broken, fail)
        with pytest.raises(StorageError, match="no space left; free some"):
            store.create("data/a", b"x" * 100_000)
    assert keys(store, "") == ["data/first"]  # the temporary file is gone as well
    assert store.create("data/a", b"again")


@pytest.mark.parametrize("broken", ["fsync", "link"])
def test_a_crash_before_the_name_is_given_leaves_only_a_temporary_file(tmp_path: Path, broken: str) -> None:
    store = LocalStore(str(tmp_path))
    store.create("data/first", b"x")
    pid = os.fork()
    if pid == 0:  # the child dies inside create, as by kill -9: no finally, no flush
        setattr(os, broken, lambda *_: os._exit(9))
        store.create("data/a", b"x" * 100_000)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert keys(store, "data") == ["data/first"]
    (left,) = keys(store, storage.TEMPORARY)
    assert len(store.read(left)) == 100_000
    assert store.create("data/a", b"again")


class Disk:
    """Counts the syncs of files that are not empty; fails at the one with the number ``fails``, and never again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: int = 0) -> None:
        self._fails, self._fsync, self._lock = fails, os.fsync, threading.Lock()
        self.sizes: list[int] = []
        monkeypatch.setattr(os, "fsync", self._sync)

    def _sync(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            with self._lock:
                self.sizes.append(status.st_size)
                if len(self.sizes) == self._fails:
                    raise OSError(5, "Input/output error")
        self._fsync(descriptor)


def written_slowly(file: IO[bytes]) -> None:
    for _ in range(10):
        file.write(b"x" * 100_000)
        time.sleep(0.01)


def test_a_large_file_is_synced_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synced_file, "_SYNCED_AT_ONCE", 200_000)
    disk, threads = Disk(monkeypatch), threading.active_count()
    store = LocalStore(str(tmp_path))
    assert store.create("data/a", written_slowly)
    assert store.read("data/a") == b"x" * 10**6
    assert len(disk.sizes) > 2
    assert disk.sizes[0] < 10**6
    assert disk.sizes[-1] == 10**6, "the last sync is of the whole file"
    assert threading.active_count() <= threads, "its own has ended"
    disk.sizes.clear()
    store.create("data/b", b"x" * 100_000)
    assert disk.sizes == [100_000]


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_no_sync_of_a_large_file_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int) -> None:
    """Linux tells once that it could not write a page, and then takes it for written: a later sync succeeds."""
    monkeypatch.setattr(synced_file, "_SYNCED_AT_ONCE", 200_000)
    store, disk = LocalStore(str(tmp_path)), Disk(monkeypatch, fails)
    with pytest.raises(StorageError, match="Input/output error"):
        store.create("data/a", written_slowly)
    assert len(disk.sizes) >= fails
    assert keys(store, "") == []


def test_bytes_are_on_disk_before_the_name_and_the_name_before_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut leaves a name without its bytes, or forgets a file that a receipt tells of. Told apart by inode:
    the temporary file is the one that gets the name."""
    store = LocalStore(str(tmp_path / "table"))
    done: list[tuple[str, int]] = []
    fsync, link = os.fsync, os.link

    def count_fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        assert stat.S_ISDIR(status.st_mode) or status.st_size == 1, "a buffer still has the bytes"
        done.append(("fsync", status.st_ino))
        fsync(descriptor)

    def count_link(source: str, target: str) -> None:
        done.append(("link", Path(source).stat().st_ino))
        link(source, target)

    monkeypatch.setattr(os, "fsync", count_fsync)
    monkeypatch.setattr(os, "link", count_link)

    assert store.create("data/a", b"x")
    file, folder = ((tmp_path / "table" / name).stat().st_ino for name in ("data/a", "data"))
    assert done[-3:] == [("fsync", file), ("link", file), ("fsync", folder)]
    # Before that the names of the folders that are new, each in the folder above it.
    new = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert sorted(done[:-3]) == sorted(("fsync", path.parent.stat().st_ino) for path in new)
    done.clear()
    assert store.create("data/b", b"x")
    file = (tmp_path / "table" / "data/b").stat().st_ino
    assert done == [("fsync", file), ("link", file), ("fsync", folder)]
    done.clear()
    assert not store.create("data/b", b"y")
    assert done == []


def test_a_disk_without_hard_links_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError, match="no hard links"):
        LocalStore(str(tmp_path)).create("a", b"x")


def test_a_file_where_a_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"")
    with pytest.raises(StorageError, match="file is where a folder should be"):
        LocalStore(str(tmp_path)).create("data/a", b"x")


def test_a_multipart_upload_also_has_one_winner(s3: S3Server, s3_prefix: str) -> None:
    store = open_store(s3_prefix)
    size = 101 * 2**20  # s3fs cuts from 100 MiB on
    data = bytearray(size)
    data[:5], data[-5:] = b"first", b"final"
    assert store.create("big", bytes(data))
    data[:5] = b"secnd"
    assert not store.create("big", bytes(data))
    del data
    (info,) = (info for info in store.list("") if info.key == "big")
    assert info.size == size
    with store.open("big") as file:
        assert file.read(5) == b"first"
        file.seek(-5, os.SEEK_END)
        assert file.read() == b"final"
    bucket, prefix = s3_prefix.removeprefix("s3://").split("/", 1)
    head = s3.client().head_object(Bucket=bucket, Key=f"{prefix}/big")
    assert "-" in head["ETag"]  # it was a multipart upload
    assert not s3.client().list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads")
    store.delete(["big"])


def test_a_conflict_on_s3_is_asked_again(s3_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # AWS answers 409 while another conditional write is under way; the test server never does.
    store = open_store(s3_prefix)
    assert isinstance(store, S3Store)
    real, answers = store._fs.pipe_file, iter(["ConditionalRequestConflict"] * 2)

    def pipe_file(*arguments: Any, **options: Any) -> Any:
        for code in answers:
            cause = Exception()
            cause.response = {"Error": {"Code": code}}  # type: ignore[attr-defined]
            raise OSError(5, code) from cause
        return real(*arguments, **options)

    monkeypatch.setattr(store._fs, "pipe_file", pipe_file)
    assert store.create("a", b"x")
    assert store.read("a") == b"x"


# ---- failures


def operations(root: str, settings: StorageSettings) -> dict[str, Callable[[], Any]]:
    store = open_store(root, settings)
    return {
        "create": lambda: store.create("a", b"x"),
        "read": lambda: store.read("a"),
        "open": lambda: store.open("a").read(),
        "list": lambda: list(store.list("data")),
        "delete": lambda: store.delete(["a", "b"]),
        "list_inputs": lambda: list_inputs(root, settings),
        "list_inputs glob": lambda: list_inputs(f"{root}/*.parquet", settings),
        "open_input": lambda: open_input(f"{root}/a", settings).read(),
    }


def explain_all(root: str, settings: StorageSettings) -> dict[str, str]:
    """What each operation says when it fails, all at once so that waiting is shared."""

    def explain(name: str) -> str:
        with pytest.raises(StorageError) as caught:
            pytest.fail(f"{name} gave {named[name]()!r}")
        assert not isinstance(caught.value, ObjectNotFound)  # that would read as: nothing there yet
        return str(caught.value)

    named = operations(root, settings)
    with ThreadPoolExecutor(len(named)) as pool:
        return dict(zip(named, pool.map(explain, named), strict=True))


@pytest.mark.parametrize("key", ["known", "unknown"])
def test_wrong_keys_are_told_without_the_keys(
    s3: S3Server, s3_prefix: str, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    access = s3.access_key if key == "known" else "AKIANOBODY"
    monkeypatch.setenv("BAD_KEY", access)
    monkeypatch.setenv("BAD_SECRET", "not-the-secret-word")
    settings = StorageSettings(access_key_id="${BAD_KEY}", secret_access_key="${BAD_SECRET}")
    started = time.monotonic()
    for operation, text in explain_all(s3_prefix, settings).items():
        assert "access denied" in text, (operation, text)
        assert "check the credentials" in text, (operation, text)
        assert s3_prefix in text, (operation, text)
        assert not any(word in text for word in ("not-the-secret-word", access, s3.secret_key)), operation
    assert time.monotonic() - started < 20


def test_a_missing_bucket_is_told(s3: S3Server) -> None:
    for operation, text in explain_all("s3://sfr-no-such-bucket/table", PLAIN).items():
        assert "no such bucket; create it" in text, (operation, text)


def test_a_dead_endpoint_is_told_soon(s3: S3Server) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # bound but not listening: refused
        endpoint = f"http://127.0.0.1:{sock.getsockname()[1]}"
        started = time.monotonic()
        texts = explain_all("s3://bucket/table", StorageSettings(endpoint_url=endpoint, attempts=3))
    assert time.monotonic() - started < 60
    for operation, text in texts.items():
        assert endpoint in text, (operation, text)
        assert "tried 3 times over" in text, (operation, text)
        assert "Check endpoint, region and network" in text, (operation, text)


def test_an_endpoint_without_scheme_is_a_config_error(s3: S3Server) -> None:
    with pytest.raises(ConfigError, match="http://localhost:8333"):
        open_store("s3://bucket/table", StorageSettings(endpoint_url="localhost:8333"))


def test_an_impossible_bucket_name_is_told(s3: S3Server) -> None:
    with pytest.raises(StorageError, match="bucket name"):
        open_store("s3://No Bucket!/table").create("a", b"x")


def test_an_unknown_scheme_is_told() -> None:
    with pytest.raises(ConfigError, match="gs:// is not supported"):
        open_store("gs://bucket/table")


def test_what_was_read_lazily_is_explained(s3_prefix: str) -> None:
    store = open_store(s3_prefix)
    store.create("a", b"x" * 100)
    with store.open("a") as file:
        store.delete(["a"])
        with pytest.raises(ObjectNotFound, match="/a: it does not exist"):
            file.read()


def test_refused_deletes_are_told(s3_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A store answers a bulk delete with 200 and a list of what it did not delete.
    store = open_store(s3_prefix)
    assert isinstance(store, S3Store)
    answer = {"Errors": [{"Key": "t/b", "Code": "AccessDenied", "Message": "Access Denied"}]}
    monkeypatch.setattr(store._fs, "call_s3", lambda *_, **__: answer)
    with pytest.raises(StorageError, match=r"Cannot delete 1 of 2 objects.*t/b: AccessDenied"):
        store.delete(["a", "b"])


def test_a_public_bucket_is_read_without_keys(s3: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(s3_bucket, "corpus/a.jsonl")
    s3.make_public(s3_bucket.removeprefix("s3://"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    anonymous = StorageSettings(anonymous=True)
    (file,) = list_inputs(f"{s3_bucket}/corpus", anonymous)
    with open_input(file.uri, anonymous) as reader:
        assert reader.read() == b"x"
    with pytest.raises(StorageError, match="access denied"):
        open_store(s3_bucket, anonymous).create("corpus/b", b"x")


def test_an_unreadable_folder_is_told_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(str(tmp_path), "data/a/b")
    real = os.scandir

    def scandir(path: str) -> Any:  # not chmod: root reads every folder
        if str(path).endswith("data/a"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(StorageError, match="check its permissions"):
        list(LocalStore(str(tmp_path)).list("data"))
    with pytest.raises(StorageError, match="check its permissions"):
        list_inputs(str(tmp_path), PLAIN)


# ---- corpora


def listed(path: str, root: str) -> list[str]:
    return [file.uri.removeprefix(root + "/") for file in list_inputs(path, PLAIN)]


def test_inputs_of_a_file_a_folder_and_a_glob(place: str) -> None:
    put(place, "c/b.jsonl", "c/a.jsonl", "c/deep/x.parquet", "c/_SUCCESS", "c/.a.crc", "c/_old/z.jsonl", "c2/y.jsonl")
    assert listed(f"{place}/c", place) == ["c/a.jsonl", "c/b.jsonl", "c/deep/x.parquet"]
    assert listed(f"{place}/c/", place) == ["c/a.jsonl", "c/b.jsonl", "c/deep/x.parquet"]
    assert listed(f"{place}/c/a.jsonl", place) == ["c/a.jsonl"]
    assert listed(f"{place}/c/_SUCCESS", place) == ["c/_SUCCESS"]  # named itself
    assert listed(f"{place}/c/_old", place) == ["c/_old/z.jsonl"]
    assert listed(f"{place}/c/*.jsonl", place) == ["c/a.jsonl", "c/b.jsonl"]
    assert listed(f"{place}/c*/*.jsonl", place) == ["c/a.jsonl", "c/b.jsonl", "c2/y.jsonl"]
    assert listed(f"{place}/c/**/*.parquet", place) == ["c/deep/x.parquet"]
    assert listed(f"{place}/c/[b-z]*", place) == ["c/b.jsonl"]
    assert listed(f"{place}/?/a.jsonl", place) == ["c/a.jsonl"]
    assert listed(f"{place}/c/d*/x.parquet", place) == ["c/deep/x.parquet"]
    assert listed(f"{place}/c/de*", place) == []  # a pattern names files, not folders
    assert listed(f"{place}/nothing", place) == []
    assert listed(f"{place}/*.csv", place) == []


def test_a_folder_marker_of_a_console_is_no_input(s3: S3Server, s3_prefix: str) -> None:
    bucket, prefix = s3_prefix.removeprefix("s3://").split("/", 1)
    s3.client().put_object(Bucket=bucket, Key=f"{prefix}/c/", Body=b"")
    put(s3_prefix, "c/a.jsonl")
    assert listed(f"{s3_prefix}/c", s3_prefix) == ["c/a.jsonl"]
    assert keys(open_store(s3_prefix), "c") == ["c/a.jsonl"]


def test_a_local_name_with_glob_characters_is_a_name(tmp_path: Path) -> None:
    put(str(tmp_path), "year[2024]/a.jsonl")
    assert listed(f"{tmp_path}/year[2024]", str(tmp_path)) == ["year[2024]/a.jsonl"]


def test_an_input_is_read_whole_and_by_ranges(place: str) -> None:
    put(place, "a.txt", data=b"0123456789")
    uri = f"{place}/a.txt"
    with open_input(uri, PLAIN) as file:
        assert file.read() == b"0123456789"
    assert read_input_range(uri, 2, 5, PLAIN) == b"234"
    assert read_input_range(uri, 8, 50, PLAIN) == b"89"
    assert read_input_range(uri, 5, 5, PLAIN) == b""
    assert read_input_range(uri, 10, 20, PLAIN) == b""
    assert read_input_range(uri, 30, 40, PLAIN) == b""


def test_an_input_streams_through_gzip(place: str) -> None:
    lines = b"".join(b'{"id": %d}\n' % n for n in range(50_000))
    put(place, "a.jsonl.gz", data=gzip.compress(lines))
    with open_input(f"{place}/a.jsonl.gz", PLAIN) as file, gzip.open(file) as unpacked:
        assert b"".join(unpacked) == lines


def test_missing_inputs_are_told(place: str) -> None:
    put(place, "folder/a")
    for read in (open_input, inputs.stat_input, lambda uri, settings: read_input_range(uri, 0, 1, settings)):
        with pytest.raises(ObjectNotFound, match="no-such-file"):
            read(f"{place}/no-such-file", PLAIN)


def test_a_version_changes_with_the_content_and_only_then(place: str) -> None:
    put(place, "a.jsonl", data=b"one")
    (first,) = list_inputs(place, PLAIN)
    assert list_inputs(place, PLAIN) == [first]
    assert inputs.stat_input(first.uri, PLAIN) == first
    store = open_store(place)
    store.delete(["a.jsonl"])
    store.create("a.jsonl", b"two")
    (second,) = list_inputs(place, PLAIN)
    assert (second.uri, second.size) == (first.uri, first.size)
    assert second.version != first.version


# ---- many reads at a time


@pytest.mark.parametrize("at_once", [2, 5])
def test_reads_ahead_are_few_and_small(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[int] = []

    class Noting(ThreadPoolExecutor):
        def submit(self, function: Any, /, thing: Any) -> Any:  # type: ignore[override]
            submitted.append(thing)
            return super().submit(function, thing)

    monkeypatch.setattr(parallel, "ThreadPoolExecutor", Noting)
    sizes = [3, 4, 1, 1, 1, 1, 1, 1, 12, 2, 9, 5, 5, 1]
    most = 0
    for place, found in enumerate(parallel.in_parallel(lambda n: -n, range(14), at_once, sizes, 8)):
        assert found == -place
        ahead = [sizes[n] for n in submitted[place:]]
        assert len(ahead) <= at_once
        assert len(ahead) == 1 or sum(ahead) <= 8
        most = max(most, len(ahead))
    assert submitted == list(range(14))
    assert most == at_once


def test_reads_without_sizes_are_bounded_by_number_alone() -> None:
    everyone = threading.Barrier(4)
    reads = parallel.in_parallel(lambda n: (everyone.wait(20), n)[1], range(8), 4)
    assert list(reads) == list(range(8))  # the barrier falls only if four are read at a time


# ---- the server of these tests


def test_what_was_acknowledged_survives_a_kill_of_the_server(tmp_path: Path) -> None:
    server = S3Server(tmp_path)
    server.start()
    try:
        client = server.client()
        server.create_bucket("durable")
        for n in range(20):
            client.put_object(Bucket="durable", Key=str(n), Body=str(n).encode())
        server.kill()
        server.start()
        client = server.client(attempts=10)  # the volumes may come up a moment after the S3 port
        for n in range(20):
            assert client.get_object(Bucket="durable", Key=str(n))["Body"].read() == str(n).encode()
    finally:
        server.stop()

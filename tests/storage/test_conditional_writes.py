"""A store that ignores If-None-Match is found out, once, and a death on the way misleads nobody.

The server obeys; a store that does not is the same server, of which the object goes just before it is written again.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import StorageError
from sfr_batch.format import names
from sfr_batch.storage.conditional_writes import check_conditional_writes
from sfr_batch.storage.stores import open_store
from tests.memory_store import MemoryStore
from tests.proxy import Relay, relay
from tests.s3server import S3Server

TARGET, PASSED = names.probe_keys("0" * 32)


@pytest.fixture
def faulty(s3: S3Server) -> Iterator[Relay]:
    with relay(s3.endpoint) as made:
        yield made


def check(faulty: Relay, root: str, **settings: Any) -> None:
    storage = StorageSettings(endpoint_url=faulty.endpoint, attempts=1, **settings)
    check_conditional_writes(open_store(root, storage), TARGET, PASSED, multipart=storage.multipart)


def ignore(s3: S3Server, faulty: Relay, root: str, *methods: str) -> None:
    """Let these methods replace the object."""
    bucket, prefix = root.removeprefix("s3://").split("/", 1)

    def forget(method: str, path: str) -> bool:
        part = method == "PUT" and "uploadId=" in path
        if method in methods and not part and path.split("?")[0].endswith(TARGET):
            s3.client().delete_object(Bucket=bucket, Key=f"{prefix}/{TARGET}")
        return False

    faulty.only = forget


def keys(root: str) -> list[str]:
    return sorted(info.key for info in open_store(root).list(""))


def uploads(s3: S3Server, root: str) -> list[Any]:
    bucket, prefix = root.removeprefix("s3://").split("/", 1)
    return list(s3.client().list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads", []))


def test_a_store_that_obeys_is_asked_once(s3: S3Server, faulty: Relay, s3_prefix: str) -> None:
    check(faulty, s3_prefix)
    assert [method for method, _, _ in faulty.requests] == ["GET", "PUT", "PUT", "POST", "PUT", "POST", "DELETE", "PUT"]
    assert keys(s3_prefix) == [TARGET, PASSED]
    assert open_store(s3_prefix).read(TARGET) == b"first\n"
    assert not uploads(s3, s3_prefix)
    faulty.requests.clear()
    check(faulty, s3_prefix)
    assert [method for method, _, _ in faulty.requests] == ["GET"]


def test_a_put_that_replaces_is_found_out_each_time(s3: S3Server, faulty: Relay, s3_prefix: str) -> None:
    ignore(s3, faulty, s3_prefix, "PUT")
    for _ in range(2):
        with pytest.raises(StorageError) as refused:
            check(faulty, s3_prefix)
        assert str(refused.value) == (
            f"The store of {s3_prefix} ignores If-None-Match: it lets a second writer replace a file. Two runs at once "
            "would destroy each other's work without noticing. Write the table to a store with conditional writes, "
            "such as AWS S3, or to a local disk."
        )
        assert not keys(s3_prefix)


def test_a_completion_that_replaces_is_found_out_and_the_way_out_works(
    s3: S3Server, faulty: Relay, s3_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignore(s3, faulty, s3_prefix, "POST")
    with pytest.raises(StorageError, match=r"in parts replaces a file.* Set table\.storage\.multipart: false, so"):
        check(faulty, s3_prefix)
    assert not keys(s3_prefix)
    check(faulty, s3_prefix, multipart=False)
    assert keys(s3_prefix) == [TARGET, PASSED]
    monkeypatch.setattr("sfr_batch.storage.s3._PART", 5 * 2**20)
    for multipart, expected in ((True, ["POST", "PUT", "PUT", "POST"]), (False, ["PUT"])):
        faulty.requests.clear()
        store = open_store(s3_prefix, StorageSettings(endpoint_url=faulty.endpoint, multipart=multipart))
        assert store.create(f"large{multipart}", bytes(10 * 2**20))
        assert [method for method, _, _ in faulty.requests] == expected


@pytest.mark.parametrize("obeys", [True, False])
@pytest.mark.parametrize("answered", [True, False])
def test_a_death_at_any_request_misleads_nobody(
    s3: S3Server, faulty: Relay, s3_prefix: str, obeys: bool, answered: bool
) -> None:
    """After the request has taken effect or before it, at each of them."""
    for last in range(1, 9 if obeys else 4):
        root = f"{s3_prefix}/{last}"
        faulty.requests.clear()

        def dies(method: str, path: str, last: int = last) -> bool:
            return len(faulty.requests) >= last

        faulty.only, faulty.rates = dies, {"lost_reply" if answered else "reset": 1.0}
        with pytest.raises(StorageError):
            check(faulty, root)
        faulty.only, faulty.rates = lambda method, path: False, {}
        if obeys:
            check(faulty, root)
            assert keys(root) == [TARGET, PASSED]
        else:
            ignore(s3, faulty, root, "PUT")
            with pytest.raises(StorageError, match="ignores If-None-Match"):
                check(faulty, root)
            assert PASSED not in keys(root)


def test_other_stores_are_not_asked(tmp_path: Any) -> None:
    memory = MemoryStore()
    for store in (memory, open_store(str(tmp_path / "local"))):
        check_conditional_writes(store, TARGET, PASSED)
        assert not list(store.list(""))

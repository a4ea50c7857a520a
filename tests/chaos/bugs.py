"""Bugs to plant in a writer's process: what a protocol may get wrong. The harness has to find each, for its reason."""

import contextlib
import dataclasses
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sfr_batch.config.settings import Config
from sfr_batch.corpus import splits
from sfr_batch.errors import TableError
from sfr_batch.format import names
from sfr_batch.format.parquet import read_receipt
from sfr_batch.format.records import Manifest, Receipt, TableCard
from sfr_batch.pipeline import runner, write_stage
from sfr_batch.planning import make
from sfr_batch.planning.make import make_plan
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.storage.local import LocalStore
from sfr_batch.storage.parallel import read_many
from sfr_batch.storage.s3 import S3Store
from sfr_batch.storage.store import TEMPORARY, Content, ObjectInfo, Store, whole
from sfr_batch.table.commit import publish as commit
from sfr_batch.table.commit import writing
from sfr_batch.table.table import Table


@dataclass(frozen=True)
class Bug:
    """``plant`` puts it into this process; ``at``: kills (moment and operation) that bring it to light soon;
    ``symptom``: a pattern for what the harness then says."""

    plant: Callable[[], None]
    at: str
    symptom: str


def replace(owner: Any, name: str, value: Any) -> None:
    """Put ``value`` in the place of what ``owner``, a module or class, has under ``name``.

    Raises AttributeError where it has nothing: what is put there would be called by nobody.
    """
    if name not in vars(owner):
        raise AttributeError(f"{owner.__name__} has no {name}: this bug is planted in a place that is no more")
    setattr(owner, name, value)


class _Wrapped:
    """A store with another create."""

    def __init__(self, store: Store, create: Callable[[str, Content], bool]) -> None:
        self._store, self.create = store, create

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def create_that_overwrites() -> None:
    def create(self: LocalStore, key: str, data: Content) -> bool:
        target, temporary = self._path(key), self._path(f"{TEMPORARY}/{secrets.token_hex(16)}")
        for path in (target, temporary):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(whole(data))
        os.replace(temporary, target)
        return True

    replace(LocalStore, "create", create)


def unconditional_put() -> None:
    def create(self: S3Store, key: str, data: Content) -> bool:
        self._fs.pipe_file(self._path(key), whole(data))
        return True

    replace(S3Store, "create", create)


def written_in_place() -> None:
    def create(self: LocalStore, key: str, data: Content) -> bool:
        target = self._path(key)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        try:
            with open(target, "xb") as file:
                file.write(whole(data))
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            return False
        return True

    replace(LocalStore, "create", create)


def half_a_file_is_passed_over() -> None:
    """Written in place, and a resume that takes a name for a finished split, and what it cannot read for nothing."""
    written_in_place()

    def recover(table: Table, plan: EmbedPlan) -> list[Receipt]:
        found = []
        for split_id in plan.done:
            with contextlib.suppress(TableError):
                found.append(read_receipt(table.store, split_id))
        return found

    replace(runner, "recover_receipts", recover)


def receipt_before_data() -> None:
    """And a resume that believes receipts."""
    folder = names.run_key("finished", "receipts")

    def commit_split(store: Store, card: TableCard, receipt: Receipt, rows: pa.Table, *more: Any) -> Receipt:
        def create(key: str, data: Content) -> bool:
            if names.split_of_data_key(key):
                told = dataclasses.replace(receipt, size=len(whole(data)))
                store.create(f"{folder}/{receipt.split_id}.jsonl", told.to_json().encode())
            return store.create(key, data)

        return writing.commit_split(_Wrapped(store, create), card, receipt, rows, *more)  # type: ignore[arg-type]

    def committed(self: Table) -> dict[str, ObjectInfo]:
        keys = [info.key for info in self.store.list(folder)]
        receipts = [Receipt.from_json(data) for data in read_many(self.store, keys)]
        return {r.split_id: ObjectInfo(names.data_key(r.split_id), r.size, 0) for r in receipts}

    replace(write_stage, "commit_split", commit_split)
    replace(Table, "committed", committed)


def rejects_after_data() -> None:
    def commit_split(store: Store, card: TableCard, receipt: Receipt, rows: pa.Table, *more: Any) -> Receipt:
        late: list[tuple[str, Content]] = []

        def create(key: str, data: Content) -> bool:
            if key.startswith(names.REJECTS):
                late.append((key, data))
                return True
            return store.create(key, data)

        done = writing.commit_split(_Wrapped(store, create), card, receipt, rows, *more)  # type: ignore[arg-type]
        for key, data in late:
            store.create(key, data)
        return done

    replace(write_stage, "commit_split", commit_split)


def manifest_before_side_files() -> None:
    late: list[tuple[str, bytes]] = []
    publish_manifest = commit._create_manifest
    replace(commit, "create_own", lambda _, key, data: late.append((key, data)))

    def create_manifest(table: Table, manifest: Manifest) -> Any:
        snapshot = publish_manifest(table, manifest)
        for key, data in late:
            table.store.create(key, data)
        return snapshot

    replace(commit, "_create_manifest", create_manifest)


def committed_files_ignored() -> None:
    replace(runner, "make_plan", lambda config: dataclasses.replace(make_plan(config), committed={}))


def splits_cut_for_the_workers() -> None:
    whole = make.rows_per_split

    def plan(config: Config) -> EmbedPlan:
        workers = config.run.actors.min
        replace(make, "rows_per_split", lambda *numbers: max(1, whole(*numbers) // workers))
        return make_plan(config)

    replace(runner, "make_plan", plan)


def appended_again() -> None:
    """Fresh names each time, as most writers of Parquet have it, in a table that is all that lies in its folder."""
    replace(splits, "name_split", lambda *_: secrets.token_hex(16))
    replace(EmbedPlan, "done", property(lambda self: self.committed))


def published_unfinished() -> None:
    """A snapshot of what there is by now, after the first split."""
    embed_missing = runner._embed_missing
    replace(runner, "_embed_missing", lambda *arguments: embed_missing(*arguments)[:1])
    replace(EmbedPlan, "missing", lambda *_: 0)


BUGS = {
    "create overwrites": Bug(create_that_overwrites, ".* data file", "has changed or is gone: _sfr/table.json"),
    "put without a condition": Bug(unconditional_put, ".* data file", "has changed or is gone: _sfr/table.json"),
    "written in place": Bug(written_in_place, "torn create data file", "no readable receipt in its footer"),
    "half a file is passed over": Bug(
        half_a_file_is_passed_over,
        "torn create data file",
        r"rows? read, but|\d ids missing|stream .* is not complete|receipts\[splits\.split_ids",
    ),
    "receipt before data": Bug(receipt_before_data, "before create data file", "data/.* does not exist"),
    "rejects after data": Bug(rejects_after_data, "after create data file", "The rejects of split .* are missing"),
    "manifest before side files": Bug(
        manifest_before_side_files, "after create manifest", "_sfr/snapshots/.* does not exist"
    ),
    "committed files ignored": Bug(
        committed_files_ignored,
        "after create data file",
        "finished ones were repeated|splits were written, .* missing",
    ),
    "cut for the workers": Bug(splits_cut_for_the_workers, "after create data file", "splits were written, .* missing"),
    "appended again": Bug(
        appended_again,
        "after create data file",
        "ids more than once|rows? read, but|splits were written, .* missing",
    ),
    "published unfinished": Bug(published_unfinished, ".* data file", "rows? read, but|ids missing|KeyError"),
}

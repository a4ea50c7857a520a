"""What must stay harmless or secret: no code from files, no secrets left behind, no names that lead elsewhere."""

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import sfr_batch as sfr
from sfr_batch.cli.main import main
from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import ConfigError, StorageError
from sfr_batch.format import names
from sfr_batch.format.parquet import read_receipt
from sfr_batch.format.records import Manifest
from sfr_batch.storage.store import Store, in_memory
from sfr_batch.storage.stores import open_store
from tests.job_processes import ROOT, config, put_parquet, settings
from tests.s3server import S3Server
from tests.tables import make_table

# --- no code from files

FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader", "yaml.BaseLoader"}
"""They make plain values alone, BaseLoader nothing but texts, lists and mappings."""


def dangers(tree: ast.AST) -> Iterator[str]:
    """Places where what comes from a file or a network could be run."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            yield from (f"{name} at {node.lineno}" for name in modules if name.split(".")[0] in FORBIDDEN_MODULES)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        arguments = {word.arg: ast.unparse(word.value) for word in node.keywords}
        loader = [*map(ast.unparse, node.args[1:]), arguments.get("Loader", "")]
        if (
            name in ("eval", "exec", "compile", "__import__", "torch.load", "os.system", "np.load", "numpy.load")
            or (name in ("yaml.load", "yaml.load_all") and not any(word in SAFE_LOADERS for word in loader))
            or name.startswith(("yaml.unsafe", "yaml.full"))
            or arguments.get("trust_remote_code", "False") != "False"
            or arguments.get("allow_pickle", "False") != "False"
            or arguments.get("weights_only", "True") != "True"
            or arguments.get("shell", "False") != "False"
        ):
            yield f"{name} at {node.lineno}"


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "eval(x)",
        "exec(x)",
        "torch.load(f)",
        "yaml.load(f)",
        "yaml.load(f, Loader=yaml.Loader)",
        "yaml.unsafe_load(f)",
        "AutoModel.from_pretrained(p, trust_remote_code=True)",
        "np.load(f, allow_pickle=True)",
        "subprocess.run(x, shell=True)",
    ],
)
def test_a_danger_is_seen(code: str) -> None:
    assert list(dangers(ast.parse(code)))


def test_nothing_runs_what_it_reads() -> None:
    files = [*(ROOT / "sfr_batch").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]
    assert len(files) > 50
    found = {str(file): list(dangers(ast.parse(file.read_text(encoding="utf-8")))) for file in files}
    assert not {file: places for file, places in found.items() if places}


def test_a_model_is_loaded_from_safetensors_without_its_code() -> None:
    """Said aloud wherever one is loaded; that other folders are refused is in test_model.py and test_weights.py."""
    loads = [
        (ast.unparse(call.func), {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords})
        for path in (ROOT / "sfr_batch").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(".from_pretrained")
    ]
    assert {name.split(".")[-2] for name, _ in loads} == {"AutoConfig", "model_class"}
    for name, options in loads:
        assert options["trust_remote_code"] == "False"
        assert options.get("use_safetensors") == ("True" if "model_class" in name else None)  # a config has no weights


# --- secrets

WRONG = "planted-wrong-secret-4b1d"
TOKEN = "planted-token-93c0"


def job_file(folder: Path, place: str, model: Path, storage: dict[str, Any]) -> Path:
    raw = settings(model, place, progress_every_s=1)
    raw["corpus"]["storage"] = raw["table"]["storage"] = storage
    file = folder / "job.yaml"
    file.write_text(json.dumps(raw))
    return file


def run_job(file: Path, environment: dict[str, str], *overrides: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, ROOT / "jobs" / "embed.py", file, *overrides],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=250, cwd=ROOT,
    )  # fmt: skip
    return done.returncode, done.stdout


def left_behind(store: Store, folder: Path) -> dict[str, bytes]:
    """Everything in the table, its Parquet footers and contents decoded, and every file in the folder."""
    found = {}
    for info in store.list(""):
        found[info.key] = data = store.read(info.key)
        if info.key.endswith(".parquet"):
            table = pq.read_table(in_memory(data))
            found[f"{info.key} decoded"] = repr((table.schema.metadata, table.to_pydict())).encode()
    for path in folder.rglob("*"):
        if path.is_file():
            found[str(path)] = path.read_bytes()
    return found


def leaks(secret: str, found: dict[str, bytes]) -> list[str]:
    return [name for name, data in found.items() if secret.encode() in data]


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    folder = tempfile.mkdtemp(prefix="sfr-", dir="/tmp")  # sockets have short names
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("way", "ray_address"),
    [
        pytest.param("reference", "none", marks=pytest.mark.slow),
        ("reference", "local"),
        ("profile", "none"),
    ],
)
def test_secrets_are_left_nowhere(
    way: str, ray_address: str, s3: S3Server, s3_prefix: str, tmp_path: Path, ray_folder: Path, small_model: Path
) -> None:
    """A run that succeeds and, with another secret, one that fails, and all that they say and leave."""
    put_parquet(f"{s3_prefix}/corpus/a.parquet", [{"id": f"{n}", "text": f"text {n}", "lang": "en"} for n in range(9)])
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))}
    environment |= {"HOME": str(home), "RAY_TMPDIR": str(ray_folder), "AWS_EC2_METADATA_DISABLED": "true"}
    environment |= {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_worker_niceness": "0", "MY_TOKEN": TOKEN}
    storage: dict[str, Any] = {"endpoint_url": s3.endpoint, "region": s3.region}
    if way == "reference":
        storage |= {"access_key_id": "${MY_ID}", "secret_access_key": "${MY_SECRET}"}

    def give(secret: str) -> None:
        environment.update({"MY_ID": s3.access_key, "MY_SECRET": secret} if way == "reference" else {})
        text = f"[default]\naws_access_key_id = {s3.access_key}\naws_secret_access_key = {secret}\n"
        (home / ".aws" / "credentials").write_text(text if way == "profile" else "")

    file = job_file(tmp_path, s3_prefix, small_model, storage)
    give(s3.secret_key)
    code, output = run_job(file, environment, f"run.ray_address={ray_address}")
    assert code == 0, output
    assert "core_worker" not in output, "Ray's own lines, on which nobody can act"
    missing = run_job(file, environment, f"run.ray_address={ray_address}", "table.path=s3://there-is-no-such-bucket/t")
    assert missing[0] == 1
    give(WRONG)
    wrong = run_job(file, environment, f"run.ray_address={ray_address}", f"table.path={s3_prefix}/other")
    assert wrong[0] == 1
    assert "Traceback" not in wrong[1] + missing[1]

    found = left_behind(open_store(f"{s3_prefix}/table"), ray_folder)
    assert names.TABLE_JSON in found
    assert any(name.endswith("config.json") for name in found)
    assert ray_address == "none" or sum("/logs/" in name for name in found) > 3, "Ray's own logs were not looked at"
    found |= {"output": output.encode(), "no bucket": missing[1].encode(), "wrong secret": wrong[1].encode()}
    for secret in (s3.secret_key, WRONG, TOKEN):
        assert not leaks(secret, found)
    # Whoever greps must be able to find: it does find what is no secret.
    assert leaks("endpoint_url", found)
    if way == "reference":
        assert leaks("${MY_SECRET}", found)


@pytest.mark.parametrize("endpoint", ["http://key:hunter2@127.0.0.1:1", "key:hunter2@127.0.0.1:1"])
def test_credentials_in_an_endpoint_are_refused_and_not_repeated(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_model: Path
) -> None:
    def refused(*arguments: str) -> None:
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2, result.output
        assert "credentials before its host" in result.output
        assert "hunter2" not in result.output + repr(result.exception)

    for section in ("corpus", "table", "model"):
        with pytest.raises(ConfigError, match="credentials before its host") as caught:
            config(small_model, str(tmp_path), f"{section}.storage.endpoint_url={endpoint}")
        assert "hunter2" not in str(caught.value)
    refused("status", "s3://bucket/table", "--endpoint-url", endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    refused("status", "s3://bucket/table")


def test_credentials_in_a_path_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="credentials before its bucket") as caught:
        open_store("s3://key:hunter2@bucket/table", StorageSettings())
    assert "hunter2" not in str(caught.value)


# --- names that lead elsewhere

HARMFUL = ["../x", "data/../../x", "..", "data/..", "/etc/passwd", "data/\0x", "./x", "data/./x"]


@pytest.mark.parametrize("key", HARMFUL)
def test_a_store_refuses_keys_that_leave_its_root(place: str, key: str) -> None:
    store = open_store(f"{place}/table")
    above = open_store(place)
    assert above.create("x", b"not yours")
    for use in (store.read, store.open, lambda key: store.create(key, b""), lambda key: store.delete([key])):
        with pytest.raises(StorageError, match=r"The key .* leads out of .*\. The file .* is damaged or malicious"):
            use(key)
    with pytest.raises(StorageError, match="leads out of"):
        list(store.list(key))
    assert above.read("x") == b"not yours"
    assert [info.key for info in above.list("")] == ["x"]


def test_keys_with_dots_in_a_name_are_names(place: str) -> None:
    store = open_store(f"{place}/table")
    for key in ("a..b", "..a/b", "a/...", "%2e%2e/x", "a b'\"ü*?[x]#%2F"):
        assert store.create(key, key.encode()), key
        assert store.read(key) == key.encode()
    assert {info.key for info in store.list("")} >= {"a..b", "%2e%2e/x"}


@pytest.mark.parametrize("key", ["../x", "_sfr/../../x"])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(place: str, key: str) -> None:
    """As in a table that somebody else has made."""
    store = open_store(f"{place}/table")
    make_table(store, {"a": ["one", "one"]})
    manifest = Manifest.from_json(store.read(names.manifest_key(1)), "it")
    assert manifest.duplicates
    open_store(place).create("x", store.read(manifest.files.name))
    for update in ({"files": manifest.files.model_copy(update={"name": key})}, {"duplicates": key}):
        store.delete([names.manifest_key(1)])
        store.create(names.manifest_key(1), manifest.model_copy(update=update).to_json())
        with pytest.raises(StorageError, match="leads out of"):
            sfr.open_table(f"{place}/table").current().rejects()
    with pytest.raises(StorageError, match="leads out of"):
        read_receipt(store, "../../x")


IDS = [
    "../../etc/passwd", "a\nb", "a\r\nb", "nul\0here", "'; DROP TABLE x; --", '"', "x" * 10_000, "\x1b[2J", "ü/ß\u202e",
    "%2F..%2F", " ", "s3://bucket/key", "$(touch /tmp/x)", "{text}",
]  # fmt: skip
SHARDS = [
    "a b.parquet",
    "it's.parquet",
    'say "x".parquet',
    "%2F..%2Fx.parquet",
    "a..b.parquet",
    "ü\u4e2d.parquet",
    "x#1.parquet",
]


def test_odd_ids_and_shard_names_are_harmless(place: str, request: pytest.FixtureRequest, small_model: Path) -> None:
    """They come back as they are, and nothing is written but what a table consists of."""
    for number, name in enumerate(SHARDS):
        rows = [{"id": f"{id_}{number or ''}", "text": f"text {n}", "lang": id_} for n, id_ in enumerate(IDS)]
        put_parquet(f"{place}/corpus/{name}", rows)
    job = config(small_model, place, ray_address="none")
    summary = sfr.embed(job)
    expected = {f"{id_}{number or ''}" for number in range(len(SHARDS)) for id_ in IDS}
    arrow = sfr.open_table(f"{place}/table").to_arrow(["id", "lang"])
    assert set(arrow["id"].to_pylist()) == expected
    assert set(arrow["lang"].to_pylist()) == set(IDS)
    assert {Path(shard.uri).name for shard in summary.snapshot.read_shards()} == set(SHARDS)
    everything = {info.key for info in open_store(place).list("")}
    assert {key.split("/")[0] for key in everything} == {"corpus", "table"}
    ours = {key.removeprefix("table/").split("/")[0] for key in everything if key.startswith("table/")}
    assert ours == {"data", "_sfr"}
    assert all(key.isascii() and len(key) < 200 for key in everything if key.startswith("table/"))
    assert not sfr.embed(job).published


def test_a_table_path_with_dots_is_where_it_says(tmp_path: Path) -> None:
    store = open_store(f"{tmp_path}/a/../table")
    assert store.root == f"{tmp_path}/table"
    store.create("x", b"")
    assert (tmp_path / "table" / "x").exists()

"""Weights: fetched from S3 once a node, whole, the right ones, mapped and not copied; and the errors otherwise."""

import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import sfr_batch as sfr
from sfr_batch.config.settings import ModelSettings, StorageSettings
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.encoder.loading import bytes_needed, load_model, to_device
from sfr_batch.errors import ConfigError, ModelError, StorageError, TableMismatch
from sfr_batch.model.recipe import read_recipe
from sfr_batch.model.repository import weights
from sfr_batch.model.repository.folder import weight_files
from sfr_batch.model.sources import checksums, lock_file, room, s3_cache
from sfr_batch.model.sources.location import locate
from sfr_batch.model.sources.weight_hashes import check_weights, weight_hashes
from sfr_batch.pipeline import encode_stage, packing, read_stage, write_stage
from sfr_batch.pipeline.runner import make_job
from sfr_batch.planning.card import model_inputs
from sfr_batch.storage import local_files
from sfr_batch.storage.input_listing import list_inputs
from sfr_batch.storage.inputs import fetch_input
from tests.encoder.cards import GIB, plant_gpu
from tests.job_processes import ROOT, config, documents, put, put_parquet
from tests.models import build_tiny_mistral, edit_json, minilm_folder, write_sfr_files
from tests.proxy import Relay, relay
from tests.s3server import S3Server

MIB = 2**20
FETCHED = {
    "config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
}


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user cache of each test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg" / "sfr-batch"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_mistral(tmp_path_factory.mktemp("tiny"), hidden=8, heads=2, kv_heads=1)


@pytest.fixture(scope="module")
def minilm_uri(_s3_session_bucket: str) -> str:
    return upload(minilm_folder(), f"{_s3_session_bucket}/minilm")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder that a test may spoil. Its weights are only bytes."""
    made = write_sfr_files(tmp_path / "model")
    (made / weights.WEIGHTS).write_bytes(b"weights")
    return made


def upload(folder: Path, uri: str) -> str:
    for file in folder.rglob("*"):
        if file.is_file():
            put(f"{uri}/{file.relative_to(folder)}", file.read_bytes())
    return uri


def settings_of(path: str | Path, **values: Any) -> ModelSettings:
    return ModelSettings(path=str(path), **{"device": "cpu", **values})


def names_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# -------------------------------------------------------------------------------------------- a model on S3


def test_a_model_on_s3_is_the_local_one(minilm_uri: str) -> None:
    """90 MB in six ranges: the same vectors, and the same fingerprint, for a path is not in it."""
    local, remote = settings_of(minilm_folder()), settings_of(minilm_uri)
    texts = ["how do vaccines work?", "a short one", "def f(x):\n    return x"]
    here, there = Encoder.load(local), Encoder.load(remote)
    assert there.recipe == dataclasses.replace(here.recipe, folder=there.recipe.folder)
    assert np.array_equal(here.encode(texts), there.encode(texts))
    assert model_inputs(local, "float32") == model_inputs(remote, "float32")


def test_only_the_files_of_the_model_are_fetched(tiny: Path, s3_prefix: str, cache_home: Path) -> None:
    uri = upload(tiny, f"{s3_prefix}/my-model")
    for name in ("pytorch_model.bin", "onnx/model.safetensors", "onnx/model.onnx", "README.md", "evil.py"):
        put(f"{uri}/{name}", b"x")
    put(f"{s3_prefix}/my-model-2/config.json", b"{}")
    small = locate(settings_of(uri), weights=False)
    assert names_in(small) == FETCHED
    assert (small.parent, small.name.rsplit("-", 1)[0]) == (cache_home / "models", "my-model")
    assert locate(settings_of(f"{uri}/"), weights=True) == small
    assert names_in(small) == {*FETCHED, weights.WEIGHTS}
    assert all((small / name).read_bytes() == (tiny / name).read_bytes() for name in names_in(small))


def test_cache_dir(folder: Path, s3_prefix: str, tmp_path: Path) -> None:
    found = locate(settings_of(upload(folder, s3_prefix), cache_dir=str(tmp_path / "disk")), weights=True)
    assert found.parent == tmp_path / "disk"


def test_a_replaced_model_is_another_folder(folder: Path, s3_prefix: str) -> None:
    settings = settings_of(upload(folder, s3_prefix))
    old = locate(settings, weights=True)
    put(f"{s3_prefix}/{weights.WEIGHTS}", b"WEIGHTS")
    put(f"{s3_prefix}/README.md", b"not fetched, so no new version")
    new = locate(settings, weights=True)
    assert ((old / weights.WEIGHTS).read_bytes(), (new / weights.WEIGHTS).read_bytes()) == (b"weights", b"WEIGHTS")
    put(f"{s3_prefix}/another.txt", b"x")
    assert locate(settings, weights=True) == new


def test_a_cached_file_of_another_size_is_fetched_again(folder: Path, s3_prefix: str) -> None:
    settings = settings_of(upload(folder, s3_prefix))
    file = locate(settings, weights=True) / weights.WEIGHTS
    file.write_bytes(b"wei")
    assert locate(settings, weights=True) == file.parent
    assert file.read_bytes() == b"weights"


def test_a_file_that_is_replaced_while_it_is_fetched(s3_prefix: str, tmp_path: Path) -> None:
    put(f"{s3_prefix}/file", b"one")
    [file] = list_inputs(s3_prefix, StorageSettings())
    for data in (b"two", b"three", b"1"):
        put(file.uri, data)
        with pytest.raises(StorageError, match="file changed while it was downloaded; run the command again"):
            fetch_input(file, tmp_path / "file", StorageSettings())
        assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("size", [0, 1, 16 * MIB, 32 * MIB + 1])
def test_fetching_in_ranges(s3_prefix: str, tmp_path: Path, size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    put(f"{s3_prefix}/file", data)
    [file] = list_inputs(s3_prefix, StorageSettings())
    sha256 = fetch_input(file, tmp_path / "a" / "file", StorageSettings())
    assert (tmp_path / "a" / "file").read_bytes() == data
    assert sha256 == local_files.sha256_of(tmp_path / "a" / "file")
    assert names_in(tmp_path / "a") == {"file"}


def test_a_table_made_with_a_model_on_s3(tiny: Path, s3_prefix: str, tmp_path: Path) -> None:
    """It is found again by a search, and a run with the local copy of the model has nothing to do."""
    upload(tiny, f"{s3_prefix}/model")
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(["one", "two", "three"]))
    overrides = ["run.ray_address=none", "run.actors.max=1"]
    summary = sfr.embed(config(f"{s3_prefix}/model", str(tmp_path)), overrides)
    assert (summary.published, summary.embedded) == (True, 3)
    [hit] = sfr.open_table(f"{tmp_path}/table").search("two", k=1)
    assert (hit.id, round(hit.score, 5)) == ("doc-00001", 1.0)
    assert not sfr.embed(config(tiny, str(tmp_path)), overrides).published
    *others, last = (tiny / weights.WEIGHTS).read_bytes()
    put(f"{s3_prefix}/model/{weights.WEIGHTS}", bytes([*others, last ^ 1]))
    with pytest.raises(TableMismatch, match=f"The model at {s3_prefix}/model is not the one that made .*table"):
        sfr.open_table(f"{tmp_path}/table").search("two", k=1)


# ---------------------------------------------------------------------------------- many processes of a node

LOCATE = """
import sys
from sfr_batch.config.settings import ModelSettings
from sfr_batch.model.repository.folder import weight_files
from sfr_batch.model.sources.location import locate
from sfr_batch.model.sources.checksums import hashes
print("ready", flush=True)
sys.stdin.readline()
folder = locate(ModelSettings(path=sys.argv[1], device="cpu"), weights=True)
print(folder, hashes(weight_files(folder)), flush=True)
"""


def process(uri: str, endpoint: str) -> subprocess.Popen[str]:
    """A process that locates the model as soon as it is sent a line."""
    environment = {**os.environ, "AWS_ENDPOINT_URL": endpoint, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", LOCATE, uri]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def fetched(through: Relay, name: str) -> list[str]:
    """The ranges of ``name`` that were asked for, in order of their bytes."""
    return sorted(r for method, path, r in through.requests if method == "GET" and path.endswith(f"/{name}"))


def test_processes_of_a_node_fetch_once(minilm_uri: str, s3: S3Server) -> None:
    """Four at the same moment. Counted are the GET requests that reach the server: each range of each file once."""
    with relay(s3.endpoint) as through:
        processes = [process(minilm_uri, through.endpoint) for _ in range(4)]
        for one in processes:
            go(one)
        answers = {answer(one) for one in processes}
        assert len(answers) == 1
        starts = range(0, (minilm_folder() / weights.WEIGHTS).stat().st_size, 16 * MIB)
        ranges = fetched(through, weights.WEIGHTS)
        assert {int(re.split("[=-]", r)[1]) for r in ranges} == set(starts)
        assert len(ranges) == len(starts) == 6
        assert len(fetched(through, "config.json")) == 2  # its own and that of 1_Pooling


def test_killed_while_it_fetches(minilm_uri: str, s3: S3Server, cache_home: Path) -> None:
    """The next one completes what is missing; nothing of the dead one's is taken for a model."""
    with relay(s3.endpoint) as through:
        first, second = process(minilm_uri, through.endpoint), process(minilm_uri, through.endpoint)
        through.let_through = 40 * MIB
        go(first)
        deadline = time.monotonic() + 60
        while through.let_through > 0 or not list(cache_home.glob(f"models/*/.{weights.WEIGHTS}.part")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        first.kill()
        first.communicate()
        assert not list(cache_home.glob(f"models/*/{weights.WEIGHTS}"))
        through.release()
        go(second)
        folder, _, found = answer(second).partition(" ")
        assert found.strip() == str(checksums.hashes(weight_files(minilm_folder())))
        assert not [name for name in names_in(Path(folder)) if name.endswith(".part")]


def test_threads_and_processes_of_a_node_hash_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is one of files, which threads do not share either; counted are calls of the function that reads."""
    calls, hash_file = [], local_files.sha256_of

    def counted(file: Path) -> str:
        calls.append(file)
        time.sleep(0.1)
        return hash_file(file)

    monkeypatch.setattr(checksums, "sha256_of", counted)
    together = threading.Barrier(8)

    def hashed(_: int) -> dict[str, str]:
        together.wait()
        return checksums.hashes(weight_files(folder))

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(hashed, range(8)))
    assert all(result == results[0] for result in results)
    assert len(calls) == 1


def test_what_was_fetched_needs_no_second_reading(
    folder: Path, s3_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = locate(settings_of(upload(folder, s3_prefix)), weights=True)
    expected = local_files.sha256_of(folder / weights.WEIGHTS)
    monkeypatch.delattr(checksums, "sha256_of")
    assert checksums.hashes(weight_files(found)) == {weights.WEIGHTS: expected}


# ------------------------------------------------------------------------------------ lock file, right weights


def test_with_a_lock_file_planning_fetches_no_weights(folder: Path, s3_prefix: str, cache_home: Path) -> None:
    settings = settings_of(upload(folder, s3_prefix))
    put(f"{s3_prefix}/{lock_file.LOCK}", lock_file.lock_text(weight_files(folder)).encode())
    assert model_inputs(settings, "float32") == model_inputs(settings_of(folder), "float32")
    assert not list(cache_home.rglob("*.safetensors*"))
    before = locate(settings, weights=True)
    put(f"{s3_prefix}/{lock_file.LOCK}", b"{}")
    assert locate(settings, weights=True) == before  # a lock file is no part of the version


def test_without_a_lock_file_planning_fetches_the_weights_and_says_so(
    folder: Path, s3_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_of(upload(folder, s3_prefix))
    expected = checksums.hashes(weight_files(folder))
    assert weight_hashes(settings, folder) == expected
    assert f"{s3_prefix} has no sfr-model.lock.json beside its weights, so all 7 bytes are fetched" in caplog.text
    caplog.clear()
    assert weight_hashes(settings, folder) == expected
    assert not caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "sfr-model.lock.json is not the lock file of a model. Recreate it, or remove it"),
        ('{"files": {"model.safetensors": 7}}', "is not the lock file of a model"),
        (
            '{"files": {}}',
            "is out of date: model.safetensors has 7 bytes, but the lock file says no such file. "
            "Recreate it, or remove",
        ),
        (
            '{"files": {"model.safetensors": {"sha256": "ab", "size": 8000}}}',
            "out of date: model.safetensors has 7 bytes, but the lock file says 8,000 bytes",
        ),
        (
            '{"files": {"model.safetensors": {"sha256": "ab", "size": 7}, "x": {"sha256": "ab", "size": 7}}}',
            "out of date: x has no such file, but the lock file says 7 bytes",
        ),
    ],
)
def test_lock_files_that_are_refused(folder: Path, s3_prefix: str, text: str, message: str) -> None:
    (folder / lock_file.LOCK).write_text(text)
    for settings in (settings_of(folder), settings_of(upload(folder, s3_prefix))):
        with pytest.raises(ModelError, match=message):
            weight_hashes(settings, folder)


def test_a_lock_file_is_believed_by_the_plan_and_not_by_the_encoder(tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    lock = json.loads(lock_file.lock_text(weight_files(folder)))
    lock["files"][weights.WEIGHTS]["sha256"] = "ab" * 32
    (folder / lock_file.LOCK).write_text(json.dumps(lock))
    settings = settings_of(folder)
    believed = weight_hashes(settings, folder)
    assert believed == {weights.WEIGHTS: "ab" * 32}
    real = local_files.sha256_of(folder / weights.WEIGHTS)
    message = (
        rf"{folder}/model.safetensors on node {socket.gethostname()} does not match .* SHA-256 {real}, expected abab"
    )
    with pytest.raises(ModelError, match=message):
        Encoder.load(settings, weight_hashes=believed)
    assert Encoder.load(settings, weight_hashes={weights.WEIGHTS: real}).dim == 8


def test_weights_of_other_names(folder: Path) -> None:
    files = weight_files(folder)
    with pytest.raises(
        ModelError, match=r"model-1-of-1.safetensors on node .* SHA-256 none \(no such file\), expected ab"
    ):
        check_weights(files, {"model-1-of-1.safetensors": "ab"})
    with pytest.raises(ModelError, match=r"expected none \(not in the fingerprint\)"):
        check_weights(files, {})


def test_a_hash_is_not_remembered_for_another_file_of_the_same_size_and_time(folder: Path) -> None:
    file = folder / weights.WEIGHTS
    before, times = checksums.hashes([file]), file.stat()
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert checksums.hashes([file]) != before
    assert len(checksums._remembered()) == 1  # that of the file as it was is forgotten


@pytest.mark.parametrize("change", ["weights", "pooling", "tokenizer"])
def test_an_actor_refuses_another_model_than_the_plan_was_made_with(tiny: Path, tmp_path: Path, change: str) -> None:
    """The folder stands for a node whose copy differs from the driver's. Nothing is encoded or written."""
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(["one", "two"]))
    plan = sfr.plan(config(folder, str(tmp_path)))
    job = make_job(plan, "run")
    units = pa.table({"unit": [packing.unit_to_json(unit) for unit in plan.todo]})
    [row] = read_stage.read_and_tokenize(units, job)
    before = plan.card.fingerprint_inputs["weights"][weights.WEIGHTS]
    if change == "weights":
        data = bytearray((folder / weights.WEIGHTS).read_bytes())
        data[-1] ^= 1
        (folder / weights.WEIGHTS).write_bytes(data)
        words = [
            f"{folder}/model.safetensors",
            socket.gethostname(),
            before,
            local_files.sha256_of(folder / weights.WEIGHTS),
        ]
    elif change == "pooling":
        edit_json(folder / "1_Pooling" / "config.json", pooling_mode_lasttoken=False, pooling_mode_cls_token=True)
        words = [str(folder), socket.gethostname(), "differs in pooling"]
    else:
        edit_json(folder / "tokenizer_config.json", add_eos_token=False)
        words = [str(folder), socket.gethostname(), "differs in golden_ids"]
    [result] = write_stage.write(encode_stage.Encode(job)(row), job).to_pylist()
    assert result["receipt"] is None
    assert not [word for word in words if word not in result["error"]], result["error"]
    assert "Traceback" not in result["error"]


# --------------------------------------------------------------------------------------------------- errors


def test_prefixes_without_a_model(folder: Path, s3_prefix: str, s3_bucket: str) -> None:
    upload(folder, f"{s3_prefix}/deep")
    for path, message in (
        (f"{s3_bucket}-none/model", rf"model.path: Cannot list {s3_bucket}-none/model: there is no such bucket"),
        (f"{s3_prefix}/nothing", rf"model.path: {s3_prefix}/nothing is not a model folder: no object has this prefix"),
        (s3_prefix, rf"model.path: {s3_prefix} is not a model folder: it has no config.json. Set it to the prefix"),
    ):
        for with_weights in (False, True):
            with pytest.raises((ModelError, StorageError), match=message):
                locate(settings_of(path), weights=with_weights)


def test_credentials_of_the_model(folder: Path, s3_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the model's own, by reference: wrong ones, none, and the right ones where the environment has none."""
    upload(folder, s3_prefix)
    keys = {"access_key_id": "${MODEL_KEY}", "secret_access_key": "${MODEL_SECRET}"}
    settings = settings_of(s3_prefix, storage=keys)
    with pytest.raises(ConfigError, match="MODEL_KEY is not set"):
        locate(settings, weights=True)
    monkeypatch.setenv("MODEL_KEY", os.environ["AWS_ACCESS_KEY_ID"])
    monkeypatch.setenv("MODEL_SECRET", "wrong")
    with pytest.raises(StorageError, match=rf"model.path: Cannot list {s3_prefix}: access denied .* credentials"):
        locate(settings, weights=True)
    monkeypatch.setenv("MODEL_SECRET", os.environ["AWS_SECRET_ACCESS_KEY"])
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert (locate(settings, weights=True) / weights.WEIGHTS).read_bytes() == b"weights"


def test_s3_without_usable_weights(folder: Path, s3_prefix: str, cache_home: Path) -> None:
    (folder / weights.WEIGHTS).unlink()
    upload(folder, s3_prefix)
    settings = settings_of(s3_prefix)
    for act in (lambda: locate(settings, weights=True), lambda: weight_hashes(settings, folder)):
        with pytest.raises(ModelError, match=f"{s3_prefix} has no weights"):
            act()
    put(f"{s3_prefix}/pytorch_model.bin", b"pickle")
    for act in (lambda: locate(settings, weights=True), lambda: weight_hashes(settings, folder)):
        with pytest.raises(ModelError, match=f"{s3_prefix} has its weights only as pickle files.*Convert them"):
            act()
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    put(f"{s3_prefix}/{shards[0]}", b"one")
    put(f"{s3_prefix}/{weights.INDEX}", json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}).encode())
    with pytest.raises(ModelError, match=rf"weights in {s3_prefix} are incomplete: {shards[1]} is missing"):
        locate(settings, weights=True)
    assert not list(cache_home.rglob("*.safetensors")), "what cannot be whole is not fetched"
    put(f"{s3_prefix}/{shards[1]}", b"two")
    assert list(weight_hashes(settings, folder)) == shards


def test_remote_code_on_s3(folder: Path, s3_prefix: str) -> None:
    edit_json(folder / "config.json", auto_map={"AutoModel": "modeling.Model"})
    settings = settings_of(upload(folder, s3_prefix))
    with pytest.raises(ModelError, match=r"asks for code from the repository \(auto_map\), which is never run"):
        read_recipe(locate(settings, weights=False), settings)


def shortened(data: bytes) -> bytes:
    return data[:-100]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shortened, r"is damaged: it has [\d,]+ bytes, but its header describes [\d,]+. Remove it and fetch the model"),
        (lambda data: data + b"\0", "is damaged: it has"),
        (lambda data: data[:1000], "is damaged or not a safetensors file: its header cannot be read"),
        (lambda data: b"", "its header cannot be read"),
        (lambda data: data[:8] + b"?" + data[9:], "its header cannot be read"),
        (lambda data: b"\x02" + bytes(7) + b"[]", "its header cannot be read"),
        (lambda data: b"\x80\x02}q\x00.", "its header cannot be read"),
    ],
)
def test_damaged_weights(tiny: Path, tmp_path: Path, spoil: Any, message: str) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    (folder / weights.WEIGHTS).write_bytes(spoil((tiny / weights.WEIGHTS).read_bytes()))
    with pytest.raises(ModelError, match=rf"{folder}/model.safetensors .*{message}"):
        Encoder.load(settings_of(folder))


# ----------------------------------------------------------------------------------------------- enough room


def test_too_small_a_disk(folder: Path, s3_prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Said before anything is fetched. The free space is given here; that of the disk is asked below."""
    settings = settings_of(upload(folder, s3_prefix), cache_dir=str(tmp_path / "disk"))
    locate(settings, weights=False)
    monkeypatch.setattr(s3_cache, "free_bytes", lambda folder: 6)
    message = rf"{tmp_path}/disk on node .* has too little space for {s3_prefix}: 7 bytes needed, 6 bytes free.*"
    with pytest.raises(ModelError, match=message + "set model.cache_dir to a larger disk"):
        locate(settings, weights=True)
    assert not list((tmp_path / "disk").rglob("*model.safetensors*"))
    monkeypatch.setattr(s3_cache, "free_bytes", lambda folder: 7)
    locate(settings, weights=True)
    locate(settings, weights=True)  # what is there needs no room


def test_free_space_is_that_of_the_disk(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    assert local_files.free_bytes(tmp_path / "not" / "yet") <= disk.f_blocks * disk.f_frsize
    free = local_files.free_bytes(Path("/dev/shm/not/yet"))
    assert free <= shutil.disk_usage("/dev/shm").total
    with pytest.raises(ModelError, match=r"1,048,576.0 GiB needed"):
        room.check_disk(tmp_path, 2**50, local_files.free_bytes(tmp_path), "a model")


def test_a_disk_that_is_full_all_the_same(s3_prefix: str, tmp_path: Path) -> None:
    put(f"{s3_prefix}/file", b"x" * MIB)
    [file] = list_inputs(s3_prefix, StorageSettings())
    local_files.partial_name(tmp_path / "file").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=rf"Cannot write {tmp_path}/file: no space left; free some"):
        fetch_input(file, tmp_path / "file", StorageSettings())
    assert not (tmp_path / "file").exists()


def test_a_cache_that_cannot_be_written(folder: Path, s3_prefix: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    settings = settings_of(upload(folder, s3_prefix), cache_dir=str(tmp_path / "file"))
    with pytest.raises(StorageError, match=f"Cannot lock {tmp_path}/file/"):
        locate(settings, weights=True)


def test_too_small_a_device() -> None:
    room.check_device(10, 10 + room.BESIDE_WEIGHTS, "cuda")
    sfr_embedding_mistral = 7_110_660_096
    room.check_device(2 * sfr_embedding_mistral, 16 * 2**30, "cuda")
    message = r"does not fit into the memory of cuda on node .* need 26.5 GiB, 16.0 GiB free. Use a device"
    with pytest.raises(ModelError, match=message):
        room.check_device(4 * sfr_embedding_mistral, 16 * 2**30, "cuda")


@pytest.mark.parametrize("fits", [False, True])
def test_weights_are_fetched_only_for_a_gpu_that_has_room(
    tiny: Path, s3_prefix: str, cache_home: Path, monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    """A model on S3. What is missing of a GPU here is what the weights are moved to."""
    settings = settings_of(upload(tiny, s3_prefix), device="cuda")
    recipe = read_recipe(locate(settings, weights=False), settings)
    needed = bytes_needed(recipe, "bfloat16")
    plant_gpu(monkeypatch, total=(needed + (room.BESIDE_WEIGHTS if fits else -1)) / GIB, used=0)
    hashed: list[Any] = []
    monkeypatch.setattr("sfr_batch.encoder.encoder.check_weights", lambda *_: hashed.append(1))
    said = "not compiled with CUDA" if fits else rf"on node gpu-7: its weights need {needed:,} bytes, {needed - 1:,} "
    with pytest.raises(AssertionError if fits else ModelError, match=said):
        Encoder.load(settings, weight_hashes={})
    assert names_in(Path(recipe.folder)) == {*FETCHED, *({weights.WEIGHTS} if fits else ())}
    assert len(hashed) == fits


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), r"need 400 bytes, 399 bytes free"),
        (RuntimeError("CUDA error: device-side assert triggered"), "device-side assert"),
    ],
)
def test_moving_to_a_device(monkeypatch: pytest.MonkeyPatch, failure: RuntimeError, expected: str) -> None:
    """Others may have filled it while the weights were read. What a copy raises on CUDA is planted."""

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(50, dtype=torch.bfloat16))
            self.register_buffer("table", torch.zeros(75))

        def to(self, *args: Any, **kwargs: Any) -> Any:
            raise failure

    plant_gpu(monkeypatch, total=399 / GIB, used=0)
    kind = type(failure) if "assert" in str(failure) else ModelError
    with pytest.raises(kind, match=expected):
        to_device(Model(), "cuda")


# ---------------------------------------------------------------------------------------------------- mapped


def mapped_files(addresses: list[int]) -> set[str]:
    """Names of the files that are mapped at these addresses of this process; "" where none is."""
    spans = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, name = (*line.split(maxsplit=5), "")[:6]
        start, end = (int(part, 16) for part in span.split("-"))
        spans.append((start, end, Path(name).name))
    return {next((name for start, end, name in spans if start <= at < end), "") for at in addresses}


@pytest.mark.parametrize("build", [minilm_folder, None], ids=["minilm", "mistral"])
def test_weights_stay_in_their_file(tiny: Path, build: Any) -> None:
    """All parameters are views of the mapped file, and nothing was drawn to fill them first."""
    folder = build() if build else tiny
    state = torch.get_rng_state()
    model = load_model(read_recipe(folder, settings_of(folder)), torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    addresses = [parameter.data_ptr() for parameter in model.parameters()]
    assert len(addresses) > 10
    assert mapped_files(addresses) == {weights.WEIGHTS}

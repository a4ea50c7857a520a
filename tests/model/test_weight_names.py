"""Which files are the weights: as transformers and modules.json choose them, wherever the model lies."""

import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from sfr_batch.config.settings import ModelSettings
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.errors import ModelError
from sfr_batch.model.repository.folder import weight_files
from sfr_batch.model.sources import lock_file
from sfr_batch.model.sources.location import locate
from sfr_batch.model.sources.weight_hashes import weight_hashes
from sfr_batch.planning.card import model_inputs
from tests.job_processes import put
from tests.model.test_model import REPO, Hub
from tests.models import write_json
from tests.repositories import write_chain, write_repository

TEXTS = ["a short text", "another one"]
DENSE = "2_Dense/model.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_repository(tmp_path_factory.mktemp("weights") / "base")
    pooling = {"embedding_dimension": 32, "pooling_mode": "mean"}
    return write_chain(folder, [("Pooling", pooling), ("Dense", {"in_features": 32, "out_features": 6})])


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "model"))


def settings_of(path: Path | str) -> ModelSettings:
    return ModelSettings(path=str(path), device="cpu")


def shard(folder: Path, names: list[str]) -> None:
    """The weights of the transformer in files of these names, as an index says."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts: dict[str, dict[str, Any]] = {name: {} for name in names}
    where = {tensor: names[number % len(names)] for number, tensor in enumerate(sorted(tensors))}
    for tensor, name in where.items():
        parts[name][tensor] = tensors[tensor]
    for name, part in parts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        safetensors.torch.save_file(part, folder / name, metadata={"format": "pt"})
    write_json(folder / INDEX, {"metadata": {}, "weight_map": where})


@pytest.mark.parametrize(
    "names",
    [
        ["model.safetensors-00001-of-00002.safetensors", "model.safetensors-00002-of-00002.safetensors"],
        ["first.safetensors", "second.safetensors"],
        ["shards/a.safetensors", "shards/b.safetensors"],
    ],
)
def test_shards_of_any_name(folder: Path, names: list[str], s3_prefix: str) -> None:
    """Leftovers of another sharding are no part of the model."""
    before = Encoder.load(settings_of(folder)).encode(TEXTS)
    shard(folder, names)
    (folder / "model-00001-of-00003.safetensors").write_bytes(b"left over")
    hashes = weight_hashes(settings_of(folder), folder)
    assert list(hashes) == [*names, DENSE]
    uri = upload(folder, s3_prefix)
    assert weight_hashes(settings_of(uri), folder) == hashes
    for path in (str(folder), uri):
        encoder = Encoder.load(settings_of(path), weight_hashes=hashes)
        assert np.abs(encoder.encode(TEXTS) - before).max() <= 1e-6
    lock_file.write_lock(weight_files(folder), folder)
    assert weight_hashes(settings_of(folder), folder) == hashes


def test_a_single_file_counts_before_an_index(folder: Path) -> None:
    """As transformers chooses; the index is left over then."""
    write_json(folder / INDEX, {"weight_map": {"a": "gone.safetensors"}})
    assert [str(file.relative_to(folder)) for file in weight_files(folder)] == ["model.safetensors", DENSE]
    Encoder.load(settings_of(folder))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "one.safetensors"}}, r"are incomplete: one.safetensors is missing"),
        ({"weight_map": {"a": "../one.safetensors"}}, rf"{INDEX} in .* does not name the weight files \(weight_map\)"),
        ({"weight_map": ["one.safetensors"]}, r"does not name the weight files"),
        (
            {"weight_map": {"a": "one.bin"}},
            r"names one.bin \(weight_map\), which is not a safetensors file",
        ),
        ({}, r"has no weights"),
    ],
)
def test_refused_indexes(folder: Path, index: dict[str, Any], message: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "one.bin").write_bytes(b"pickle")
    write_json(folder / INDEX, index)
    if not index:
        (folder / "one.bin").unlink()
    with pytest.raises(ModelError, match=message):
        locate(settings_of(folder), weights=True)


def test_an_adapter_is_refused(folder: Path, s3_prefix: str) -> None:
    write_json(folder / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "somewhere"})
    for path in (str(folder), upload(folder, s3_prefix)):
        with pytest.raises(ModelError, match=r"is an adapter of another model \(adapter_config.json\).*Merge it into"):
            locate(settings_of(path), weights=True)


def test_modules_with_pickles_or_without_weights(folder: Path, s3_prefix: str) -> None:
    (folder / DENSE).unlink()
    with pytest.raises(ModelError, match=r"model/2_Dense has no weights"):
        weight_hashes(settings_of(folder), folder)
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"pickle")
    for path in (str(folder), upload(folder, s3_prefix)):
        with pytest.raises(ModelError, match=r"/2_Dense has its weights only as pickle files .*Convert them"):
            weight_hashes(settings_of(path), folder)


def test_weights_of_modules_are_weights(folder: Path, s3_prefix: str, tmp_path: Path) -> None:
    """In the fingerprint, in the lock file, on S3, and where an actor loads them."""
    hashes = weight_hashes(settings_of(folder), folder)
    assert hashes[DENSE] == hashlib.sha256((folder / DENSE).read_bytes()).hexdigest()
    assert model_inputs(settings_of(folder), "float32")["weights"] == hashes
    uri = upload(folder, s3_prefix)
    assert weight_hashes(settings_of(uri), folder) == hashes
    lock_file.write_lock(weight_files(folder), folder)
    lock = json.loads((folder / lock_file.LOCK).read_text())
    assert {name: entry["sha256"] for name, entry in lock["files"].items()} == hashes
    locked = upload(folder, f"{s3_prefix}/locked")
    assert weight_hashes(settings_of(locked), folder) == hashes
    before = Encoder.load(settings_of(folder)).encode(TEXTS)
    assert np.array_equal(Encoder.load(settings_of(locked), weight_hashes=hashes).encode(TEXTS), before)
    cut = (folder / DENSE).read_bytes()[:-4]
    (folder / DENSE).write_bytes(cut)
    with pytest.raises(ModelError, match=r"2_Dense/model.safetensors on node .* does not match"):
        Encoder.load(settings_of(folder), weight_hashes=hashes)
    with pytest.raises(ModelError, match=r"2_Dense/model.safetensors is damaged"):
        Encoder.load(settings_of(folder))


def upload(folder: Path, uri: str) -> str:
    for file in folder.rglob("*"):
        if file.is_file():
            put(f"{uri}/{file.relative_to(folder)}", file.read_bytes())
    return uri


def test_a_hub_model(folder: Path, tmp_path: Path) -> None:
    """Only what is loaded is downloaded, and hashed by the hub. In a process of its own: the hub's client reads its
    environment when it is imported."""
    shard(folder, ["first.safetensors", "second.safetensors"])
    for name in ("left.safetensors", "pytorch_model.bin", "onnx/model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not loaded")
    code = f"""
import json
from sfr_batch.config.settings import ModelSettings
from sfr_batch.model.repository.folder import weight_files
from sfr_batch.model.sources.location import locate
from sfr_batch.model.sources.weight_hashes import check_weights, weight_hashes
settings = ModelSettings(path={REPO!r}, device="cpu", cache_dir={str(tmp_path / "hub")!r})
hashes = weight_hashes(settings, locate(settings, weights=False))
folder = locate(settings, weights=True)
check_weights(weight_files(folder), hashes, folder)
print(json.dumps(hashes))
"""
    downloads: list[str] = []
    handler = type("FolderHub", (Hub,), {"folder": folder, "downloads": downloads})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        environment = {**os.environ, "HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
        environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
        )
        server.shutdown()
    assert done.returncode == 0, done.stderr
    hashes = json.loads(done.stdout)
    assert hashes == weight_hashes(settings_of(folder), folder)
    assert {name for name in downloads if name.endswith((".safetensors", ".bin"))} == set(hashes)

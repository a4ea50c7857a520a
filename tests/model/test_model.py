"""Recipes, weight hashes and fingerprints: what a model folder says, and what is refused."""

import functools
import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sfr_batch.config.loading import config_from_dict
from sfr_batch.config.settings import ModelSettings
from sfr_batch.errors import ConfigError, ModelError
from sfr_batch.format import fingerprint
from sfr_batch.model.identity import fingerprint_inputs
from sfr_batch.model.recipe import Recipe, read_recipe
from sfr_batch.model.repository.architecture import read_architecture
from sfr_batch.model.sources import location
from sfr_batch.model.sources.location import locate
from sfr_batch.model.sources.weight_hashes import published_hashes, weight_hashes
from sfr_batch.model.tokenization.tokenizer import Tokenizer
from sfr_batch.planning.card import model_inputs
from tests.models import edit_json, minilm_folder, write_json, write_sfr_files

REPO = "owner/tiny"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user cache of each test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    return tmp_path / "xdg"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder in SFR's layout that a test may spoil. Its weights are only bytes."""
    made = write_sfr_files(tmp_path / "model")
    (made / "model.safetensors").write_bytes(b"weights")
    return made


def settings_of(folder: Path, **values: Any) -> ModelSettings:
    return ModelSettings(path=str(folder), **{"device": "cpu", **values})


# ---------------------------------------------------------------------------------------------------- recipes


def test_recipe_of_the_sfr_layout(folder: Path) -> None:
    assert read_recipe(folder, settings_of(folder)) == Recipe(
        folder=str(folder),
        model_type="mistral",
        causal=True,
        pooling="last_token",
        max_length=4096,
        dim=64,
        prompts={},
        config=read_architecture(folder).config,
        hidden=64,
    )


def test_recipe_of_minilm() -> None:
    recipe = read_recipe(minilm_folder(), settings_of(minilm_folder(), max_length=128, pooling="mean"))
    assert (recipe.model_type, recipe.causal, recipe.pooling, recipe.dim) == ("bert", False, "mean", 384)
    assert recipe.max_length == 128


@pytest.mark.parametrize(
    ("mode", "pooling"), [("lasttoken", "last_token"), ("mean", "mean"), ("cls", "cls"), (["cls"], "cls")]
)
def test_the_newer_spelling_of_pooling(folder: Path, mode: Any, pooling: str) -> None:
    write_json(folder / "1_Pooling" / "config.json", {"embedding_dimension": 64, "pooling_mode": mode})
    assert read_recipe(folder, settings_of(folder)).pooling == pooling


@pytest.mark.parametrize(
    ("repository", "ours", "expected"),
    [
        ({}, {"query": "q: "}, {"query": "q: "}),
        ({"prompts": {"query": "a ", "document": ""}}, {"query": "b "}, {"query": "b ", "document": ""}),
        ({"prompts": {"passage": "p: "}}, {}, {"passage": "p: ", "document": "p: "}),
        (
            {"prompts": {"query": "q ", "sts": "s "}, "default_prompt_name": "sts"},
            {},
            {"query": "q ", "sts": "s ", "document": "s "},
        ),
    ],
)
def test_prompts(folder: Path, repository: dict[str, Any], ours: dict[str, str], expected: dict[str, str]) -> None:
    write_json(folder / "config_sentence_transformers.json", repository)
    assert read_recipe(folder, settings_of(folder, prompts=ours)).prompts == expected


def test_max_length_where_the_repository_has_no_max_seq_length(folder: Path) -> None:
    (folder / "sentence_bert_config.json").unlink()
    edit_json(folder / "tokenizer_config.json", model_max_length=2048)
    assert read_recipe(folder, settings_of(folder)).max_length == 2048
    assert read_recipe(folder, settings_of(folder, max_length=3000)).max_length == 3000
    edit_json(folder / "tokenizer_config.json", model_max_length=1e30)
    edit_json(folder / "config.json", sliding_window=None)
    assert read_recipe(folder, settings_of(folder)).max_length == 32768


@pytest.mark.parametrize(
    ("changes", "causal"),
    [
        ({"model_type": "qwen3", "sliding_window": 10, "use_sliding_window": False}, True),
        ({"model_type": "roberta", "pad_token_id": 1, "max_position_embeddings": 4098}, False),
        ({"model_type": "new", "architectures": ["NewForCausalLM"]}, True),
        ({"model_type": "new", "architectures": ["NewForMaskedLM"]}, False),
    ],
)
def test_direction_of_attention(folder: Path, changes: dict[str, Any], causal: bool) -> None:
    edit_json(folder / "config.json", **changes)
    assert read_recipe(folder, settings_of(folder)).causal is causal


def pooling_file(**value: Any) -> Callable[[Path], Any]:
    return lambda folder: write_json(folder / "1_Pooling" / "config.json", value)


def edited(name: str, **changes: Any) -> Callable[[Path], Any]:
    return lambda folder: edit_json(folder / name, **changes)


def modules(*modules: tuple[str, str]) -> Callable[[Path], Any]:
    value = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for kind, path in modules]
    return lambda folder: write_json(folder / "modules.json", value)


def removed(*names: str) -> Callable[[Path], Any]:
    return lambda folder: [(folder / name).unlink() for name in names]


REFUSED: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str]] = {
    "no config.json": (removed("config.json"), {}, r"is not a model folder: it has no config.json"),
    "broken json": (
        lambda folder: (folder / "config.json").write_text("{"),
        {},
        r"config.json is not valid JSON .*Fetch the model again",
    ),
    "not an object": (
        lambda folder: write_json(folder / "config.json", [1]),
        {},
        r"config.json should hold a JSON object",
    ),
    "remote code": (
        edited("config.json", auto_map={"AutoModel": "modeling.Model"}),
        {},
        r"config.json asks for code from the repository \(auto_map\), which is never run",
    ),
    "no type": (edited("config.json", model_type=None), {}, r"config.json has no model_type, so the architecture is"),
    "bidirectional decoder": (
        edited("config.json", model_type="gpt_neo", is_causal=False),
        {},
        r"changes the direction of attention",
    ),
    "causal encoder": (
        edited("config.json", model_type="bert", is_decoder=True),
        {},
        r"changes the direction of attention of a bert model",
    ),
    "no hidden size": (
        edited("config.json", hidden_size=...),
        {},
        r"has no hidden_size, so the length of a vector is unknown",
    ),
    "unknown module": (
        modules(("Transformer", ""), ("Pooling", "1_Pooling"), ("CNN", "2_CNN")),
        {},
        r"modules.json lists a module CNN \(sentence_transformers.models.CNN\), which is not supported",
    ),
    "transformer elsewhere": (
        modules(("Transformer", "0_Transformer"), ("Pooling", "1_Pooling")),
        {},
        r"the transformer lies in 0_Transformer",
    ),
    "no pooling": (
        removed("1_Pooling/config.json", "modules.json", "sentence_bert_config.json"),
        {},
        r"does not say how to pool .*Set model.pooling to last_token, mean or cls",
    ),
    "other pooling": (
        lambda folder: None,
        {"pooling": "mean"},
        r"model.pooling is mean in the config, but .*1_Pooling/config.json says last_token",
    ),
    "unsupported pooling": (
        pooling_file(pooling_mode="attention"),
        {},
        r"1_Pooling/config.json sets pooling_mode to \[\"attention\"\]. Supported is one of cls, max, mean",
    ),
    "pooling without prompt": (
        pooling_file(pooling_mode="mean", include_prompt=False),
        {"prompts": {"query": "q: "}},
        r"1_Pooling/config.json leaves the prompt out of pooling \(include_prompt: false\).*\(query\)",
    ),
    "too long for the repository": (
        edited("sentence_bert_config.json", max_seq_length=512),
        {"max_length": 1024},
        r"model.max_length is 1024 in the config, but max_seq_length is 512 in .*sentence_bert_config.json",
    ),
    "too long for the positions": (
        edited("config.json", max_position_embeddings=2048),
        {"max_length": 4000},
        r"4000 tokens per row \(model.max_length in the config\) exceed 2048, the limit by max_position_embeddings in",
    ),
    "repository contradicts itself": (
        edited("config.json", max_position_embeddings=2048),
        {},
        r"4096 tokens per row \(max_seq_length in .*\) exceed 2048.*Set model.max_length to at most 2048",
    ),
    "roberta counts positions from 2": (
        edited("config.json", model_type="roberta", pad_token_id=1, max_position_embeddings=514),
        {"max_length": 514},
        r"514 tokens .* exceed 512, the limit by max_position_embeddings",
    ),
    "longer than the window": (
        edited("sentence_bert_config.json", max_seq_length=8192),
        {},
        r"8192 tokens .* exceed 4096, the limit by sliding_window .*; beyond the window results differ",
    ),
    "longer than the window by default": (
        lambda folder: [
            edit_json(folder / "sentence_bert_config.json", max_seq_length=...),
            edit_json(folder / "config.json", sliding_window=...),
        ],
        {},
        r"32768 tokens .* exceed 4096, the limit by sliding_window",
    ),
    "no length at all": (
        lambda folder: [
            edit_json(folder / "sentence_bert_config.json", max_seq_length=...),
            edit_json(folder / "config.json", max_position_embeddings=...),
        ],
        {},
        r"does not limit the number of tokens per row. Set model.max_length",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_recipes(folder: Path, case: str) -> None:
    spoil, values, message = REFUSED[case]
    spoil(folder)
    with pytest.raises(ModelError, match=message):
        read_recipe(folder, settings_of(folder, **values))


def test_settings_fill_what_the_repository_leaves_out(folder: Path) -> None:
    removed("1_Pooling/config.json", "modules.json", "sentence_bert_config.json")(folder)
    recipe = read_recipe(folder, settings_of(folder, pooling="mean", max_length=100))
    assert (recipe.pooling, recipe.max_length) == ("mean", 100)


# -------------------------------------------------------------------------------------------- places, weights


def test_local_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locate(settings_of(folder), weights=True) == folder
    monkeypatch.chdir(folder.parent)
    for name in ("model", "./model"):
        assert locate(ModelSettings(path=name), weights=False) == folder


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nowhere/model", r"the folder /nowhere/model does not exist"),
        ("./nowhere", r"the folder .*/nowhere does not exist"),
        ("a/b/c", r"neither a folder on this machine \(.*/a/b/c\), nor an s3:// prefix, nor a model hub name"),
    ],
)
def test_places_that_do_not_exist(path: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        locate(ModelSettings(path=path), weights=False)


def test_a_place_of_another_scheme_names_the_setting() -> None:
    with pytest.raises(ConfigError, match=r"^model\.path: gs://bucket/model: the scheme gs:// is not supported"):
        locate(ModelSettings(path="gs://bucket/model"), weights=False)


def test_a_hub_model_without_a_network(tmp_path: Path) -> None:
    settings = ModelSettings(path=REPO, revision=COMMIT, cache_dir=str(tmp_path / "hub"))
    message = rf"{REPO} at revision {COMMIT} cannot be downloaded from the model hub .*Without a network: .*hf download"
    with pytest.raises(ModelError, match=message):
        locate(settings, weights=False)
    with pytest.raises(ModelError, match=message):
        weight_hashes(settings, tmp_path)


def test_a_cached_hub_model_without_a_network_is_hashed(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"cached")
    found = weight_hashes(ModelSettings(path=REPO, revision=COMMIT), tmp_path)
    assert found == {"model.safetensors": hashlib.sha256(b"cached").hexdigest()}
    assert published_hashes(ModelSettings(path=REPO, revision=COMMIT), tmp_path) is None


def test_folders_without_usable_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no weights \(model.safetensors or its shards\)"):
        locate(settings_of(folder), weights=True)
    assert locate(settings_of(folder), weights=False) == folder
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match=r"only as pickle files .*Convert them to model.safetensors"):
        locate(settings_of(folder), weights=True)
    with pytest.raises(ModelError, match="only as pickle files"):
        weight_hashes(settings_of(folder), folder)


def test_shards(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    (folder / names[0]).write_bytes(b"one")
    with pytest.raises(ModelError, match=r"incomplete: model.safetensors.index.json is missing"):
        locate(settings_of(folder), weights=True)
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"a": names[0], "b": names[1]}})
    with pytest.raises(ModelError, match=rf"incomplete: {names[1]} is missing. Fetch the model again"):
        locate(settings_of(folder), weights=True)
    (folder / names[1]).write_bytes(b"two")
    assert list(weight_hashes(settings_of(folder), folder)) == names


def test_weight_hashes_are_remembered_until_the_file_changes(folder: Path, cache_home: Path) -> None:
    file, cache = folder / "model.safetensors", cache_home / "sfr-batch" / f"weight-hashes-{socket.gethostname()}.json"
    first = weight_hashes(settings_of(folder), folder)
    assert first == {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}

    (key,) = json.loads(cache.read_text())
    write_json(cache, {key: "remembered"})
    assert weight_hashes(settings_of(folder), folder) == {"model.safetensors": "remembered"}

    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=(1, 1))
    assert weight_hashes(settings_of(folder), folder) != first
    for spoilt in ("[1]", "{"):
        cache.write_text(spoilt)
        file.write_bytes(b"weights")
        assert weight_hashes(settings_of(folder), folder) == first
    assert {path.name for path in cache.parent.iterdir()} == {cache.name, cache.with_suffix(".lock").name}


def test_a_cache_that_cannot_be_written_is_no_error(folder: Path, cache_home: Path) -> None:
    cache_home.write_text("a file where a folder should be")
    assert len(weight_hashes(settings_of(folder), folder)) == 1


# -------------------------------------------------------------------------------------------------- model hub


class Hub(http.server.SimpleHTTPRequestHandler):
    """The part of the model hub's protocol that a download and `model_info` use, over one folder.

    Safetensors files are LFS files there: their hash is in the answer to `?blobs=true` and is their ETag.
    """

    folder: Path
    downloads: list[str]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        names = sorted(str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file())
        resolve = f"/{REPO}/resolve/{COMMIT}/"
        if path in (f"/api/models/{REPO}/revision/{ref}" for ref in ("main", COMMIT)):
            siblings = [self.sibling(name) for name in names]
            self.send_json({"id": REPO, "sha": COMMIT, "private": False, "siblings": siblings})
        elif path == f"/api/models/{REPO}/tree/{COMMIT}":
            entries = [
                {"type": "file", "path": s["rfilename"], "oid": s["blobId"], **s} for s in map(self.sibling, names)
            ]
            for entry in entries:
                if entry["lfs"]:
                    entry["lfs"] = {"oid": entry["lfs"]["sha256"], **entry["lfs"]}
                else:
                    del entry["lfs"]
            self.send_json(entries)
        elif path.startswith(resolve) and path.removeprefix(resolve) in names:
            name = path.removeprefix(resolve)
            data = (self.folder / name).read_bytes()
            if body:
                self.downloads.append(name)
            self.send_data(data if body else b"", len(data), "application/octet-stream", self.etag(name))
        else:
            self.send_error(404)

    def sibling(self, name: str) -> dict[str, Any]:
        size = (self.folder / name).stat().st_size
        lfs = {"sha256": self.etag(name), "size": size, "pointerSize": 134} if name.endswith(".safetensors") else None
        return {"rfilename": name, "size": size, "blobId": self.etag(name)[:40], "lfs": lfs}

    def etag(self, name: str) -> str:
        return hashlib.sha256((self.folder / name).read_bytes()).hexdigest()

    def send_json(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_data(data, len(data), "application/json", "-")

    def send_data(self, data: bytes, size: int, kind: str, etag: str) -> None:
        self.send_response(200)
        for key, value in (
            ("Content-Type", kind),
            ("Content-Length", str(size)),
            ("ETag", f'"{etag}"'),
            ("X-Repo-Commit", COMMIT),
        ):
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """URL of a hub that holds ``folder`` as REPO, and the list of the files that were downloaded from it."""
    downloads: list[str] = []
    handler = type("FolderHub", (Hub,), {"folder": folder, "downloads": downloads})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", downloads
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_hub_model(hub: tuple[str, list[str]], folder: Path, tmp_path: Path) -> None:
    """Hashes come without a download, weights only when asked for. In a process of its own: the hub's client reads
    its environment when it is imported."""
    url, downloads = hub
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.safetensors").write_bytes(b"another copy")
    code = f"""
import json, os
from sfr_batch.model.sources import hub
from sfr_batch.config.settings import ModelSettings
from sfr_batch.errors import ModelError
from sfr_batch.model.repository.folder import weight_files
from sfr_batch.model.sources.location import locate
from sfr_batch.model.recipe import read_recipe
from sfr_batch.model.sources.weight_hashes import check_weights, published_hashes, weight_hashes
from sfr_batch.planning.card import model_inputs
settings = ModelSettings(path={REPO!r}, device="cpu", cache_dir={str(tmp_path / "hub")!r})
small = locate(settings, weights=False)
recipe, before = read_recipe(small, settings), sorted(os.listdir(small))
hashes = weight_hashes(settings, small)
assert published_hashes(settings, small) == (hashes, "the model hub")
inputs = model_inputs(settings, "float32")
def refused(act):
    try:
        act()
    except ModelError as error:
        return str(error)
hub.free_bytes, free_bytes = lambda folder: 6, hub.free_bytes
too_full = refused(lambda: locate(settings, weights=True))
hub.free_bytes = free_bytes
whole = locate(settings, weights=True)
check_weights(weight_files(whole), hashes)
hub.free_bytes = lambda folder: 0
again = locate(settings, weights=True) == whole
os.remove(whole / "model.safetensors")
(whole / "model.safetensors").write_bytes(b"spoilt!")
spoilt = refused(lambda: check_weights(weight_files(whole), hashes))
print(json.dumps([small.name, recipe.max_length, before, hashes, inputs, too_full, again, spoilt]))
print(json.dumps(sorted(os.listdir(whole))))
"""
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    environment |= {"PYTHONPATH": str(Path(location.__file__).parents[2]), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found, after = map(json.loads, done.stdout.splitlines())
    name, max_length, before, hashes, inputs, too_full, again, spoilt = found
    assert (name, max_length) == (COMMIT, 4096)
    assert "tokenizer.json" in before
    assert "model.safetensors" not in before
    assert hashes == {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}
    assert inputs == json.loads(json.dumps(model_inputs(settings_of(folder), "float32")))
    assert f"{tmp_path}/hub on node {socket.gethostname()} has too little space for {REPO}: 7 bytes need" in too_full
    assert again, "what is there needs no room"
    assert f"model.safetensors on node {socket.gethostname()} does not match the table's fingerprint" in spoilt
    assert set(after) == {*before, "model.safetensors"}
    assert downloads.count("model.safetensors") == 1
    assert "onnx/model.safetensors" not in downloads


# ------------------------------------------------------------------------------------------------ fingerprint


def digest_of(settings: ModelSettings, recipe: Recipe, **values: Any) -> str:
    parts = {"hashes": {"model.safetensors": "a" * 64}, "vector_dtype": "float32", **values}
    parts["tokenizer"] = parts.get("tokenizer") or Tokenizer.load(recipe)
    return fingerprint.digest(fingerprint_inputs(settings, recipe, **parts))


def other_ids(recipe: Recipe) -> Tokenizer:
    tokenizer = Tokenizer.load(recipe)
    return Tokenizer(tokenizer._backend, recipe, tokenizer.prefix, [])


def test_everything_that_changes_a_vector_changes_the_fingerprint(folder: Path) -> None:
    base = settings_of(folder)
    recipe = read_recipe(folder, base)
    digests = [
        digest_of(base, recipe),
        digest_of(base, recipe, hashes={"model.safetensors": "b" * 64}),
        digest_of(base, recipe, tokenizer=other_ids(recipe)),
        digest_of(base, recipe, vector_dtype="float16"),
        digest_of(base, replace(recipe, pooling="mean")),
        digest_of(base, replace(recipe, dim=128)),
        digest_of(base, replace(recipe, config={**recipe.config, "num_attention_heads": 3})),
    ]
    for values in (
        {"prompts": {"document": "passage: "}},
        {"max_length": 512},
        {"dtype": "bfloat16"},
        {"special_tokens_in_text": "plain"},
    ):
        changed = settings_of(folder, **values)
        digests.append(digest_of(changed, read_recipe(folder, changed)))
    assert len(set(digests)) == len(digests)


def test_nothing_else_changes_the_fingerprint(folder: Path, tmp_path: Path) -> None:
    base = settings_of(folder)
    expected = digest_of(base, read_recipe(folder, base))
    elsewhere = write_sfr_files(tmp_path / "copy")
    for place, values in (
        (elsewhere, {}),
        (folder, {"prompts": {"query": "query: "}}),
        (folder, {"max_length": 4096, "pooling": "last_token", "dtype": "float32"}),
        (folder, {"device": "cuda", "dtype": "float32"}),
        (folder, {"cache_dir": "/elsewhere", "revision": "main"}),
    ):
        changed = settings_of(place, **values)
        assert digest_of(changed, read_recipe(place, changed)) == expected
    raw = {"corpus": {"path": "c"}, "model": {"path": str(folder), "device": "cpu"}, "table": {"path": "t"}}
    config = config_from_dict(raw, ["run.actors.gpus=0", "run.max_batch_tokens=64", "run.rows_per_split=7"])
    assert digest_of(config.model, read_recipe(folder, config.model)) == expected

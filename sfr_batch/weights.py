"""The weight files of a model: which they are, whether they are whole, and their SHA-256, which is who the model is.

A hash is computed once a node and remembered by path, size and times; a lock file beside the weights gives the hashes
of a model that is not here yet. Knows no recipe, no hub and no S3, and imports neither torch nor safetensors.
"""

import contextlib
import fnmatch
import hashlib
import json
import os
import re
import secrets
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sfr_batch.errors import ModelError, StorageError
from sfr_batch.storage import file_lock, read_text_file

SMALL_FILES = [
    "config.json",
    "modules.json",
    "*/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "model.safetensors.index.json",
]
"""Patterns of all that a recipe and a tokenizer are read from."""
WEIGHTS = "model.safetensors"
WEIGHT_FILES = [WEIGHTS, "model-*-of-*.safetensors"]
"""Patterns of the weights."""
INDEX = "model.safetensors.index.json"
LOCK = "sfr-model.lock.json"
"""Beside the weights: {"files": {name: {"sha256": ..., "size": bytes}}}. See `lock_text`."""

_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_PICKLES = (".bin", ".pt", ".pth")
_CHUNK = 8 * 2**20
_MAX_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format."""


# ------------------------------------------------------------------------------------------------ which files


def is_small(name: str) -> bool:
    """Whether a file, named relative to its model folder, is one that recipes and tokenizers are read from."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in SMALL_FILES)


def is_weights(name: str) -> bool:
    """Whether a file, named relative to its model folder, may be one of the weights that are loaded."""
    return name == WEIGHTS or _SHARD.fullmatch(name) is not None


def weight_names(names: Iterable[str], where: str) -> list[str]:
    """The files among ``names`` that transformers loads: one, or the numbered shards.

    Raises ModelError if there is none; ``where`` is the model in that message.
    """
    present = set(names)
    found = [WEIGHTS] if WEIGHTS in present else sorted(filter(is_weights, present))
    if found:
        return found
    if any(name.endswith(_PICKLES) for name in present):
        raise ModelError(
            f"{where} has its weights only as pickle files (.bin, .pt), which can run code when they are loaded. "
            "Convert them to model.safetensors, or use a revision of the model that has it."
        )
    raise ModelError(
        f"{where} holds no weights (model.safetensors, or shards of it). Fetch the whole model, or correct model.path."
    )


def check_shards(names: Sequence[str], index: Mapping[str, Any], where: str) -> None:
    """Raises ModelError unless the weight files ``names`` are all that the ``index`` of a sharded model lists."""
    if names == [WEIGHTS]:
        return
    listed = set(index.get("weight_map", {}).values())
    missing = sorted(listed - set(names))
    if missing or not listed:
        what = ", ".join(missing) or INDEX
        raise ModelError(f"The weights in {where} are incomplete: {what} is missing. Fetch the model again.")


def check_whole(file: Path) -> None:
    """Raises ModelError if a safetensors file is shorter or longer than its own header says, or has no header."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            header = json.loads(stream.read(min(length, size, _MAX_HEADER)))
            ends = [value["data_offsets"][1] for key, value in header.items() if key != "__metadata__"]
        except (ValueError, LookupError, TypeError, AttributeError):
            ends = []
    if not ends:
        raise ModelError(
            f"{file} is damaged or no safetensors file: its header cannot be read. Remove it and fetch the model again."
        )
    if size != (whole := 8 + length + max(ends)):
        raise ModelError(
            f"{file} is damaged: it has {size:,} bytes, but its header describes {whole:,}. Remove it and fetch the "
            "model again."
        )


# ---------------------------------------------------------------------------------------------------- hashes


def hashes(files: Sequence[Path]) -> dict[str, str]:
    """File name -> SHA-256 of each of ``files``.

    Remembered by path, size and times, so that of the processes of a node one hashes and the others wait for it.
    """
    keys = {file: _key(file) for file in files}
    known = _remembered()
    if not known.keys() >= set(keys.values()):
        with _remembering():
            known = _remembered()
            unknown = [file for file in files if keys[file] not in known]
            with ThreadPoolExecutor(4) as pool:  # hashlib lets go of the interpreter while it works
                found = dict(zip((keys[file] for file in unknown), pool.map(_sha256, unknown), strict=True))
            if found:
                _remember(found)
            known |= found
    return {file.name: str(known[keys[file]]) for file in files}


def hash_again(files: Sequence[Path]) -> dict[str, str]:
    """As `hashes`, but from the bytes as they are now; what was remembered of them is replaced."""
    with _remembering(), ThreadPoolExecutor(4) as pool:
        keys = [_key(file) for file in files]
        found = list(pool.map(_sha256, files))
        _remember(dict(zip(keys, found, strict=True)))
    return {file.name: sha256 for file, sha256 in zip(files, found, strict=True)}


def remember(file: Path, sha256: str) -> None:
    """Note the hash of a file that was computed while the file was written."""
    with _remembering():
        _remember({_key(file): sha256})


def check(files: Sequence[Path], expected: Mapping[str, str]) -> None:
    """Raises ModelError unless ``files`` on this node are the weights with these hashes, by name."""
    found = hashes(files)
    for name in sorted({*found, *expected}):
        here, there = found.get(name), expected.get(name)
        if here != there:
            raise ModelError(
                f"{files[0].parent / name} on node {socket.gethostname()} is not what the table's fingerprint asks "
                f"for: SHA-256 {here or 'none, there is no such file'} instead of "
                f"{there or 'none, the fingerprint has no such file'}. If this copy is old or damaged, remove it, and "
                f"copy it again if model.path is a local folder; if the model was replaced on purpose, make {LOCK} "
                "anew where there is one, and choose a new table.path."
            )


def _cache_file() -> Path:
    # Of this node: others, whose home may be the same, have other files under the same names.
    return user_cache() / f"weight-hashes-{socket.gethostname()}.json"


def user_cache() -> Path:
    """The folder of this user and package for what can be had again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sfr-batch"


def _key(file: Path) -> str:
    # The time of change too: copies made by rsync or tar keep the other.
    status = file.stat()
    return f"{file.resolve()}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}"


def _remembered() -> dict[str, str]:
    try:
        cache = json.loads(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return cache if isinstance(cache, dict) else {}


@contextlib.contextmanager
def _remembering() -> Iterator[None]:
    """One process at a time; without a lock where none can be had, for a cache costs time and nothing else."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(StorageError):
            stack.enter_context(file_lock(_cache_file().with_suffix(".lock")))
        yield


def _remember(found: Mapping[str, str]) -> None:
    file = _cache_file()
    paths = {key.split("|")[0] for key in found}
    cache = {key: value for key, value in _remembered().items() if key.split("|")[0] not in paths}
    temporary = file.with_name(f".{file.name}-{secrets.token_hex(8)}")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(json.dumps({**cache, **found}, indent=1), encoding="utf-8")
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    with file.open("rb", buffering=0) as stream:
        while size := stream.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------- lock file


def lock_text(files: Sequence[Path]) -> str:
    """What the lock file beside the weight files ``files`` should hold."""
    found = hashes(files)
    entries = {file.name: {"sha256": found[file.name], "size": file.stat().st_size} for file in files}
    return json.dumps({"files": entries}, indent=1) + "\n"


def write_lock(files: Sequence[Path]) -> Path:
    """Put the lock file beside the weight ``files`` of one folder, whole or not at all. Raises OSError."""
    file = files[0].parent / LOCK
    temporary = file.with_name(f".{LOCK}-{secrets.token_hex(8)}")
    try:
        temporary.write_text(lock_text(files), encoding="utf-8")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return file


def read_lock(text: str, sizes: Mapping[str, int], where: str) -> dict[str, str]:
    """File name -> SHA-256, from the lock file ``where`` that lies beside weight files of these ``sizes`` in bytes.

    The hashes are believed here; `check` is where they are compared with the files. Raises ModelError if the lock
    file is of other files.
    """
    remedy = "Make it anew, or remove it: then the weights are hashed."
    try:
        entries = {
            name: (str(entry["sha256"]), int(entry["size"])) for name, entry in json.loads(text)["files"].items()
        }
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ModelError(f"{where} is no lock file of a model. {remedy}") from None
    for name in sorted({*entries, *sizes}):
        locked, size = entries.get(name, ("", None))[1], sizes.get(name)
        if locked != size:
            told, real = (f"{n:,} bytes" if n is not None else "no such file" for n in (locked, size))
            raise ModelError(f"{where} is out of date: {name} has {real}, the lock file says {told}. {remedy}")
    return {name: sha256 for name, (sha256, _) in entries.items()}


def folder_lock(folder: Path, files: Sequence[Path]) -> dict[str, str] | None:
    """The hashes that the lock file of a folder gives for its weight files; None if it has no lock file."""
    text = read_text_file(folder / LOCK)
    if text is None:
        return None
    return read_lock(text, {file.name: file.stat().st_size for file in files}, str(folder / LOCK))


# -------------------------------------------------------------------------------------------- enough room


def gib(count: int) -> str:
    """Bytes for a person; small numbers exactly."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 // 10 else f"{count:,} bytes"


def check_disk(folder: Path, needed: int, free: int, what: str) -> None:
    """Raises ModelError if ``needed`` bytes of ``what`` do not fit into ``folder``, whose disk has ``free``."""
    if needed > free:
        raise ModelError(
            f"{folder} on node {socket.gethostname()} has too little room for {what}: {gib(needed)} are needed, "
            f"{gib(free)} are free. Free some, or set model.cache_dir to a larger disk."
        )


def check_device(needed: int, free: int, device: str) -> None:
    """Raises ModelError if a model of ``needed`` bytes does not fit into ``free`` bytes of a device."""
    if needed > free:
        raise ModelError(no_room_on(device, needed, free))


def no_room_on(device: str, needed: int, free: int) -> str:
    """What to tell whoever has too small a device."""
    return (
        f"The model does not fit into the memory of {device} on node {socket.gethostname()}: its weights need "
        f"{gib(needed)}, {gib(free)} are free. Use a device with more memory or a smaller model.dtype, let fewer "
        "actors share one (run.actors.gpus=1), or end what else runs on it (nvidia-smi shows it)."
    )

"""Rates that `verify` has measured, kept in the cache folder of this machine, so that a plan can state hours.

A rate is that of a model's weights with the settings that decide how fast they compute. It is a cache: a rate that
cannot be kept, or read, is only missing. Knows no plan and no money; loads no torch.
"""

import contextlib
import dataclasses
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfr_batch.config.settings import Config
from sfr_batch.errors import StorageError
from sfr_batch.format.fingerprint import short_id
from sfr_batch.format.records import utc_now
from sfr_batch.model.sources.room import cache_folder
from sfr_batch.storage.local_files import file_lock, make_folder, read_text, write_atomically


@dataclass(frozen=True)
class MeasuredRate:
    """What one encoder did on one device."""

    tokens_per_second: float
    """Computed ones, padding included."""
    load_seconds: float
    """Seconds of a new process until the model was loaded."""
    device: str
    """The device's name, such as NVIDIA H200."""
    row_tokens: float
    """Length of the row of a token, on average over the tokens."""
    host: str = dataclasses.field(default_factory=socket.gethostname)
    at: str = dataclasses.field(default_factory=utc_now)


def remember_rate(config: Config, weights: Mapping[str, str], rate: MeasuredRate) -> None:
    """Keep a rate. weights: SHA-256 of the weight files, by name."""
    file = _file()
    with contextlib.suppress(OSError, StorageError):
        make_folder(file.parent)
        with file_lock(file.with_suffix(".lock")):
            kept = {**_read(file), _key(config, weights): dataclasses.asdict(rate)}
            write_atomically(file, json.dumps(kept, indent=1))


def recall_rate(config: Config, weights: Mapping[str, str]) -> MeasuredRate | None:
    """The rate that was kept for this model and these settings; None if there is none."""
    found = _read(_file()).get(_key(config, weights))
    try:
        return MeasuredRate(**found) if found else None
    except TypeError:  # of another release
        return None


def _file() -> Path:
    return cache_folder() / "rates.json"


def _read(file: Path) -> dict[str, Any]:
    try:
        kept = json.loads(read_text(file))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _key(config: Config, weights: Mapping[str, str]) -> str:
    model, run = config.model, config.run
    batches = [config.packed, config.fused, config.max_batch_tokens, run.actors.torch_threads]
    return short_id(
        "computed", sorted(weights.items()), model.compute_dtype, model.device, model.deterministic, *batches
    )

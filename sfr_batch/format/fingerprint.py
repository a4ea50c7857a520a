"""Fingerprints: a hash of all that defines a vector, and ids made from what they stand for.

Pure functions over plain dictionaries; knows neither configs nor storage. Vectors of tables with equal fingerprints are
interchangeable; devices, batches and library versions are not inputs, they change vectors by rounding alone.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical_json(value: Any) -> str:
    """JSON with one spelling per value: keys sorted, no spaces, no NaN. Equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``, 64 hexadecimal characters."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def short_id(*parts: Any) -> str:
    """32 hexadecimal digits (128 bits) that identify ``parts``: the id of a split says what is in it."""
    return hashlib.blake2b(canonical_json(list(parts)).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line per key that differs, e.g. ``max_length: 256 in the table, 512 in the config``."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if before != after:
            lines.append(f"{key}: {_brief(before)} in the table, {_brief(after)} in the config")
    return lines


def _brief(value: Any) -> str:
    text = canonical_json(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({digest(value)[:12]})"

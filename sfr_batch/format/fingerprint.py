"""Fingerprints: a hash of all that defines a vector, and ids made from what they stand for.

Pure functions over plain dictionaries; knows neither configs nor storage. Vectors of tables with equal fingerprints are
interchangeable; devices, batches and library versions are not inputs, they change vectors by rounding alone.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
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


LATER_INPUTS = ("config", "tokenizer")
"""Inputs that the first releases did not record: what config.json says, and how the tokenizer acts."""
_IN_FULL = 8
"""Most keys of one file whose values `differences` shows."""
_ABSENT = object()


def later_inputs(recorded: Mapping[str, Any], today: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``today`` that were not ``recorded`` because they came later."""
    return {key: today[key] for key in LATER_INPUTS if key in today and key not in recorded}


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], before: str = "in the table", after: str = "in the config"
) -> list[str]:
    """One line for each key that differs, e.g. ``max_length: 256 in the table, 512 in the config``.

    Of ``config`` and ``tokenizer`` each key counts, and its file is named: ``config.json num_attention_heads: 4 in the
    table, 8 in the config``. Of a file with many such keys, the last line only names them.
    """
    lines: list[str] = []
    shown: dict[str, int] = {}
    more: dict[str, list[str]] = {}
    for place, key, one, other in _unequal(old, new):
        shown[place] = shown.get(place, 0) + 1
        if place and shown[place] > _IN_FULL:
            more.setdefault(place, []).append(key)
        else:
            lines.append(f"{place} {key}: ".lstrip() + f"{_brief(one)} {before}, {_brief(other)} {after}")
    return lines + [f"{place} differs in {', '.join(keys)}, too" for place, keys in more.items()]


def mismatches(
    recorded: Mapping[str, Any], today: Mapping[str, Any], before: str = "in the table", after: str = "in the config"
) -> list[str]:
    """As `differences`, without inputs that came later than what is ``recorded``: nobody knows what they were."""
    later = later_inputs(recorded, today)
    return differences(recorded, {name: value for name, value in today.items() if name not in later}, before, after)


def different_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys that `differences` has a line for."""
    return [f"{place} {key}".lstrip() for place, key, *_ in _unequal(old, new)]


def _unequal(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    """(file, key, one, other) of all that differs; of no file for the inputs that are no part of one."""
    for name in sorted({*old, *new}):
        one, other = old.get(name, _ABSENT), new.get(name, _ABSENT)
        if name not in LATER_INPUTS or not (isinstance(one, Mapping) and isinstance(other, Mapping)):
            if not _same(one, other):
                yield "", name, one, other
            continue
        place = {"config": "config.json"}.get(name, name)
        for path, before, after in _leaves(one, other):
            # "tokenizer" holds a mapping for each file, named after it.
            inside = [place, *path] if "." not in path[0] else [*path]
            yield inside[0], ".".join(inside[1:]) or "as a whole", before, after


def _leaves(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """(path, before, after) of the values that differ in two nested mappings."""
    for key in sorted({*one, *other}):
        before, after = one.get(key, _ABSENT), other.get(key, _ABSENT)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from (((key, *path), b, a) for path, b, a in _leaves(before, after))
        elif not _same(before, after):
            yield (key,), before, after


def _same(one: Any, other: Any) -> bool:
    """Whether both have one spelling in JSON; null is not the same as nothing: a class may have another default."""
    if one is _ABSENT or other is _ABSENT:
        return one is other
    return canonical_json(one) == canonical_json(other)


def _brief(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = canonical_json(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({digest(value)[:12]})"

"""Rotary positions in config.json: which rules there are, and up to which length the rule of a row is its own.

transformers reads ``rope_parameters`` and its older name ``rope_scaling``, either as one object or as one for each type
of layer, with ``rope_type`` before its older name ``type`` (5.24: modeling_rope_utils.py). Two of its rules change with
the longest row of a batch. Knows no files but the one it is told of.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from sfr_batch.errors import ModelError

_OF_ONE_ROW = frozenset({"default", "linear", "llama3", "yarn", "proportional"})
"""Rules whose frequencies are the same for all rows."""
_OF_THE_BATCH = frozenset({"longrope", "dynamic"})
"""Rules that change their frequencies once the longest row of a batch is longer than a limit."""
_PHI = frozenset({"phi3", "phimoe", "phi4_multimodal"})
"""Families that call longrope ``su`` or ``yarn``, and switch at 4096 tokens by default (configuration_phi3.py)."""
_IGNORED = ("use_logn_attn", "use_dynamic_ntk")
"""Keys of repositories' own code that transformers does not obey."""


def rope_limit(file: str, config: Mapping[str, Any]) -> tuple[int, str] | None:
    """Most tokens of a row at which its rotary positions do not depend on the rows beside it, and the rule's name; None
    where they never do. Raises ModelError for rules that are not known.

    file: the name of the file for the error.
    """
    for key in _IGNORED:
        if config.get(key):
            raise ModelError(
                f"{file} has {key} {config[key]!r}, which transformers does not obey, so that vectors would be wrong. "
                "Use another model."
            )
    limits = []
    for place, rule in _rules(file, config):
        kind = rule.get("rope_type", rule.get("type", "default"))
        if "type" in rule and rule["type"] != kind:
            raise ModelError(
                f"{file} has both rope_type {kind!r} and type {rule['type']!r} in {place}. Keep the one that the "
                "model was trained with."
            )
        phi = config.get("model_type") in _PHI
        if phi and kind in ("su", "yarn"):
            kind = "longrope"
        if kind in _OF_THE_BATCH:
            limits.append((_switch(file, config, rule, kind, place, 4096 if phi else None), f"{kind} in {place}"))
        elif kind not in _OF_ONE_ROW:
            every = ", ".join(sorted(_OF_ONE_ROW | _OF_THE_BATCH))
            raise ModelError(f"{file} has rope_type {kind!r} in {place}, which is not known. Known: {every}.")
    return min(limits, default=None)


def _switch(
    file: str, config: Mapping[str, Any], rule: Mapping[str, Any], kind: str, place: str, default: int | None
) -> int:
    """The length at which a rule of the batch switches, the least where several are named."""
    key = "original_max_position_embeddings"
    known = [value for value in (rule.get(key), config.get(key, default)) if value is not None]
    if kind == "dynamic" and config.get("max_position_embeddings") is not None:
        known.append(config["max_position_embeddings"])
    if not known or not all(isinstance(value, int) and value > 0 for value in known):
        raise ModelError(
            f"{file} has {kind} in {place} without a whole number {key}, so the length up to which it holds is "
            "unknown. Fetch the model again."
        )
    return int(min(known))


def _rules(file: str, config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(key, rule) of each rule of rotary positions."""
    for key in ("rope_scaling", "rope_parameters"):
        value = config.get(key)
        if value is None:
            continue
        if not isinstance(value, Mapping):
            raise ModelError(f"{file} has {key} {value!r}, which is not an object. Fetch the model again.")
        layers = {name: rule for name, rule in value.items() if isinstance(rule, Mapping)}
        yield from ((f"{key}.{name}", rule) for name, rule in layers.items())
        if not layers or "rope_type" in value or "type" in value:
            yield key, value

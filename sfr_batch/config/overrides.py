"""Overrides of a config: texts as on the command line, ``section.field=value``, or Python values by name or by section.

Knows the sections of a config and no file. Messages name the field and not the value: it may be a secret.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from sfr_batch.config.settings import Config
from sfr_batch.errors import ConfigError

Overrides = Iterable[str] | Mapping[str, Any]
"""``["corpus.path=a", "select.limit=10"]``, each value in YAML; or values of Python: ``{"corpus.path": "a"}``,
``{"corpus": {"path": "a"}, "select": {"limit": 10}}``. A section changes the settings that it names and no others."""


def apply(raw: dict[str, Any], overrides: Overrides) -> None:
    """Change ``raw``, the values of a config, in the order of the overrides. Raises ConfigError."""
    if isinstance(overrides, Mapping):
        for dotted, value in _settings(overrides):
            _set(raw, dotted, value)
        return
    for override in [overrides] if isinstance(overrides, str) else overrides:
        if not isinstance(override, str):
            raise ConfigError(
                f"An override is a text, section.field=value, and not {type(override).__name__}. Values of Python go "
                "into a dictionary: {'select.limit': 10}."
            )
        dotted, equals, text = override.partition("=")
        if not equals or not _is_path(dotted):
            raise ConfigError(f"The override {dotted!r} is not of the form section.field=value.")
        _set(raw, dotted, _value_of(text, dotted))


def section_at(loc: Iterable[object]) -> type[BaseModel] | None:
    """The section with this path, () for the config itself; None where a setting or nothing is."""
    section: type[BaseModel] | None = Config
    for part in loc:
        field = section.model_fields.get(str(part)) if section else None
        kind = field.annotation if field else None
        section = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
    return section


def _settings(values: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every setting in values by name or by section."""
    for name, value in values.items():
        if not isinstance(name, str) or not _is_path(name):
            inside = f" in {section.removesuffix('.')}" if section else ""
            raise ConfigError(
                f"The override {name!r}{inside} is not the name of a setting. Write section.field, such as "
                "'corpus.path', or a section and in it its fields: {'corpus': {'path': …}}."
            )
        dotted = section + name.strip()
        if isinstance(value, Mapping) and section_at(dotted.split(".")):
            yield from _settings(value, f"{dotted}.")
        else:
            yield dotted, plain(value)


def plain(value: Any) -> Any:
    """A value as YAML would give it: paths as texts, lists and numbers of NumPy and pandas as Python's, sections and
    other mappings as dictionaries. A copy, as far as it can be changed."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _is_path(dotted: str) -> bool:
    return all(dotted.strip().split("."))


def _set(raw: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, name = dotted.strip().split(".")
    node: dict[str, Any] = raw
    for key in sections:
        if node.get(key) is None:  # an empty section of a YAML file is None
            node[key] = {}
        node = node[key]
        if not isinstance(node, dict):
            raise ConfigError(f"The override {dotted} goes through {key!r}, which is a value and not a section.")
    node[name] = value


def _value_of(text: str, dotted: str) -> Any:
    """The value of a text in YAML."""
    if len(text) == 1 and not text.isalnum() and text != "~":  # a delimiter or a quote, which YAML takes for syntax
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise ConfigError(
            f"The value of the override {dotted} is not valid YAML: {problem}. Quote it twice: {dotted}='\"…\"'."
        ) from None

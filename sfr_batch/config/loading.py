"""Reads a YAML config with overrides into a `Config`, and explains what is wrong with it.

Knows the shape of a config file and the errors of pydantic. The settings themselves are in `settings`."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sfr_batch.config.overrides import Overrides, apply, plain, section_at
from sfr_batch.config.setting_types import TAGS
from sfr_batch.config.settings import Config
from sfr_batch.errors import ConfigError, counted


class _Loader(yaml.SafeLoader):
    """YAML's safe subset. A repeated key is an error: plain YAML silently takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # <<: *anchor
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} must be a string", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"{key!r} is set twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_config(path: str | os.PathLike[str], overrides: "Overrides" = (), **settings: Any) -> Config:
    """Read a YAML config and apply overrides.

    overrides: as on the command line, ``["select.limit=10"]`` with YAML values, or values of Python, by name or by
    section: ``{"select.limit": 10}``, ``{"select": {"limit": 10}}``. settings: the same as keywords,
    ``select={"limit": 10}``. A section changes the settings that it names and no others. Raises ConfigError, which
    names the file and every wrong setting.
    """
    file = Path(path)
    try:
        raw = _load_yaml(file.read_text(encoding="utf-8"), str(file))
    except FileNotFoundError:
        raise ConfigError(f"There is no config {file.absolute()}.{_similar_files(file.absolute())}") from None
    except UnicodeDecodeError as error:
        reason = f"{error.reason} at byte {error.start}"
        raise ConfigError(f"The config {file} is not valid UTF-8 ({reason}). Save the file as UTF-8.") from error
    except OSError as error:
        raise ConfigError(f"The config {file} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"The config {file} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"The config {file} must be a mapping with the sections {', '.join(Config.model_fields)}.")
    return config_from_dict(raw, overrides, settings, source=str(file))


def _load_yaml(text: str, source: str) -> Any:
    loader = _Loader(text)
    loader.name = source  # for errors
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def config_from_dict(
    raw: Mapping[str, Any], overrides: Overrides = (), settings: Overrides = (), source: str = "config"
) -> Config:
    """A Config from plain values, which are not modified. overrides: see `load_config`; settings: applied after them.

    source: the name of the values in errors. Raises ConfigError.
    """
    values: dict[str, Any] = plain(raw)
    apply(values, overrides)
    apply(values, settings)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, source)) from None


ConfigOrPath = Config | Mapping[str, Any] | str | os.PathLike[str]
"""A config: its file, an object of `load_config`, or its settings as a dictionary."""


def any_config(config: ConfigOrPath, overrides: Overrides = (), settings: Mapping[str, Any] | None = None) -> Config:
    """The config in whatever form it is given, with overrides. Raises ConfigError."""
    if isinstance(config, Mapping):
        config = config_from_dict({}, config)
    if isinstance(config, Config):
        return config_from_dict(config.model_dump(), overrides, settings or ()) if overrides or settings else config
    if not isinstance(config, str | os.PathLike):
        raise ConfigError(
            f"The config is of the type {type(config).__name__}. Give the path of its file, its settings as a "
            "dictionary, or what load_config returned."
        )
    return load_config(config, overrides, **(settings or {}))


def _explain(error: ValidationError, source: str) -> str:
    lines = [f"{source} has {counted(error.error_count(), 'wrong setting')}:"]
    for item in error.errors(include_url=False):
        empty = item["input"] is None  # messages show nothing else of an input: it may be a secret
        loc = tuple(part for part in item["loc"] if part not in TAGS)
        place = ".".join(map(str, loc)) or "config"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown setting.{_near(loc)}"
        elif item["type"] == "missing":
            message = "missing, and it has no default"
        elif item["type"] in _WHAT:
            message = f"must {_with_range(_WHAT[item['type']], loc)}"
        elif item["type"] == "literal_error":
            message = f"must be {item['ctx']['expected']}"
        elif item["type"] == "string_type" and empty:
            message = "must not be empty"
        elif item["type"] == "string_type":
            message = f"must be a string: quote numbers and dates, on the command line twice: {place}='\"…\"'"
        elif item["type"] == "model_type":
            message = "must be a section that contains settings"
        lines.append(f"  {place}: {message}")
    return "\n".join(lines)


_WHAT = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "be a number"),
    **dict.fromkeys(("greater_than", "greater_than_equal", "less_than", "less_than_equal"), "be"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "be true or false"),
    **dict.fromkeys(("list_type",), "be a list, such as [title, date]"),
    **dict.fromkeys(("dict_type",), "be a mapping, such as {query: 'search: '}"),
    **dict.fromkeys(("string_too_short", "too_short"), "not be empty"),
}
"""The requirement on a value, by pydantic's type of error."""
_LIMITS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def _with_range(requirement: str, loc: tuple[int | str, ...]) -> str:
    """The requirement and all limits of the number at ``loc``, not only the limit that was broken."""
    section = section_at(loc[:-1])
    field = section.model_fields.get(str(loc[-1])) if section else None
    limits = [
        f"{words} {getattr(limit, name):g}"
        for limit in (field.metadata if field else ())
        for name, words in _LIMITS.items()
        if hasattr(limit, name)
    ]
    if not limits:
        return requirement
    comma = "," if requirement != "be" else ""
    return f"{requirement}{comma} {' and '.join(limits)}"


def _near(loc: tuple[int | str, ...]) -> str:
    section = section_at(loc[:-1])
    if section is None:
        return ""
    names = list(section.model_fields)
    close = difflib.get_close_matches(str(loc[-1]), names, n=1)
    return f" Did you mean {close[0]}?" if close else f" Known settings: {', '.join(names)}."


def _similar_files(file: Path) -> str:
    folder = file.parent
    names = sorted(str(p) for p in folder.glob("*.y*ml")) if folder.is_dir() else []
    return f" Configs in {folder}: {', '.join(names)}." if names else ""

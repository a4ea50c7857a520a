"""What callers of readers may get wrong: lists and whole numbers. In a notebook nothing else checks them."""

from collections.abc import Iterable
from numbers import Integral
from typing import Any

from sfr_batch.errors import ConfigError


def listed(name: str, values: Iterable[str]) -> list[str]:
    """Names as a list, each once. Raises ConfigError for one text, which Python takes for a list of its letters."""
    if isinstance(values, str):
        raise ConfigError(f"{name} must be a list: [{values!r}] instead of {values!r}.")
    return list(dict.fromkeys(values))


def whole_number(name: str, value: Any, least: int) -> int:
    """The number. Raises ConfigError if it is none or below ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ConfigError(f"{name} is {value!r}. It must be a whole number, at least {least}.")
    return int(value)

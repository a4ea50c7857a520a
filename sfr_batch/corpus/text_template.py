"""The template that makes a row's text from its columns. Knows names of columns and values, no files and no types."""

import math
import string
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from sfr_batch.errors import ConfigError


class TextTemplate:
    """Makes a row's text: from one column as it is, or by a template such as ``{title} {text}``.

    In a template, missing or null columns are empty and the result is stripped, as for BEIR and MTEB scores:
    ``(title + " " + text).strip()``. A single column is never changed.
    """

    def __init__(self, template: str) -> None:
        try:
            parsed = list(string.Formatter().parse(template))
        except ValueError as error:
            raise ConfigError(
                f"corpus.text {template!r} is not a template: {error}. Write column names in braces, as in "
                "'{title} {text}'."
            ) from None
        self.columns = list(dict.fromkeys(name for _, name, _, _ in parsed if name is not None))
        if any(name == "" or spec or conversion for _, name, spec, conversion in parsed if name is not None):
            raise ConfigError(
                f"corpus.text {template!r}: write plain column names in braces, as in '{{title}} {{text}}'."
            )
        self._parts = parsed if self.columns else []
        self.columns = self.columns or [template]

    def render(self, values: Sequence[Any]) -> str | None:
        """``values`` in the order of ``columns``; None if all of them are null.

        A float that is not finite is null: pandas and `json.dumps` write NaN for a value that is missing.
        """
        given = {name: _text(value) for name, value in zip(self.columns, values, strict=True)}
        if all(text is None for text in given.values()):
            return None
        if not self._parts:
            return next(iter(given.values()))
        pieces = []
        for literal, name, _, _ in self._parts:
            pieces.append(literal)
            if name is not None:
                pieces.append(given[name] or "")
        return "".join(pieces).strip()


def _text(value: Any) -> str | None:
    """A value as it stands in a text: 2005.0 is 2005, for a column with one missing value holds floats."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Decimal):
        value = float(value)
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return None
    return str(int(value)) if value.is_integer() and abs(value) < _EXPONENTS else str(value)


_EXPONENTS = 1e16
"""From here on Python spells floats with an exponent."""

"""Patterns of file names: `*`, `?`, `[abc]`, and `**` for any number of folders. The same on disk and on S3.

Knows names; asks a function whether a name exists, and lists nothing.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from sfr_batch.errors import ConfigError

_MAGIC = "*?["


@dataclass(frozen=True)
class Pattern:
    """A pattern: ``parts`` below the folder ``base``, which is a plain name."""

    base: str
    parts: tuple[str, ...]

    @property
    def stem(self) -> str:
        """What all names below ``base`` begin with."""
        first = self.parts[0]
        return first[: min(first.index(char) for char in _MAGIC if char in first)]

    def matches(self, name: str) -> bool:
        """Whether the pattern names this file."""
        return self._whole(name) is not None

    def may_lead(self, folder: str) -> bool:
        """Whether files that the pattern names may lie in this folder below ``base``, at whatever depth."""
        depth = folder.count("/") - self.base.rstrip("/").count("/")
        if "**" in self.parts[:depth]:
            return True
        return depth < len(self.parts) and self._beginnings[depth](folder) is not None

    @cached_property
    def _whole(self) -> Callable[[str], re.Match[str] | None]:
        return self._compiled(self.parts)

    @cached_property
    def _beginnings(self) -> list[Callable[[str], re.Match[str] | None]]:
        return [self._compiled(self.parts[:depth]) for depth in range(len(self.parts))]

    def _compiled(self, parts: tuple[str, ...]) -> Callable[[str], re.Match[str] | None]:
        from fsspec.utils import glob_translate  # takes long to load; few corpora are given by patterns

        return re.compile(re.escape(f"{self.base.rstrip('/')}/") + glob_translate("/".join(parts))).match


def parse_pattern(name: str, exists: Callable[[str], bool]) -> Pattern | None:
    """The pattern that a name is; None if it is plain. What exists is plain, as is a folder that exists on the way.

    `**.jsonl` means `**/*.jsonl`. Raises ConfigError for other parts that have `**` beside something else.
    """
    parts = name.split("/")
    at = next((at for at, part in enumerate(parts) if _is_magic(part)), None)
    while at is not None and exists("/".join(parts[: at + 1])):
        at = next((later for later in range(at + 1, len(parts)) if _is_magic(parts[later])), None)
    if at is None:
        return None
    rest: list[str] = []
    for part in parts[at:]:
        if "**" not in part or part == "**":
            rest.append(part)
        elif part.startswith("**") and "**" not in part[2:] and not part.startswith("***"):
            rest += ["**", f"*{part[2:]}"]
        else:
            before, _, after = part.partition("**")
            end = re.sub(r"\*+", "*", f"*{after}") if after.strip("*") else ""
            instead = "/".join(filter(None, (f"{before}*", "**", end)))
            raise ConfigError(
                f"The pattern {name}: ** stands for any number of folders, so it must be a part of the path by itself. "
                f"Write {instead} in place of {part}."
            )
    return Pattern("/".join(parts[:at]) or "/", tuple(rest))


def _is_magic(part: str) -> bool:
    return any(char in part for char in _MAGIC)

"""How split ids are built and taken apart: the id of a stream's split also tells its number and whether it is the last.

Pure functions over strings."""

from collections.abc import Iterable

STREAM_PREFIX = 24
LAST_FLAG = 1 << 31


def stream_of(split_id: str) -> tuple[str, int, bool]:
    """(prefix, number, whether it is the last) of the name of a stream's split."""
    number = int(split_id[STREAM_PREFIX:], 16)
    return split_id[:STREAM_PREFIX], number & (LAST_FLAG - 1), bool(number & LAST_FLAG)


def without_last_flag(split_id: str) -> str:
    """The same name for a split of a stream that is the last one and one that is not: a plan cannot tell."""
    return f"{split_id[:STREAM_PREFIX]}{int(split_id[STREAM_PREFIX:], 16) & (LAST_FLAG - 1):08x}"


def missing_in_stream(found: Iterable[tuple[int, bool]]) -> int:
    """How many splits a stream lacks at least, given (number, whether it is the last) of those that there are."""
    numbers = dict(found)
    if not any(numbers.values()):
        return max(numbers, default=-1) + 1 - len(numbers) + 1
    return max(numbers) + 1 - len(numbers)

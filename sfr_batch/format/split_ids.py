"""Ids of the splits of a stream, which contain the split's number and whether it is the last. Pure functions."""

from collections.abc import Iterable

STREAM_PREFIX = 24
LAST_FLAG = 1 << 31


def stream_of(split_id: str) -> tuple[str, int, bool]:
    """(prefix, number, whether it is the last) from the id of a split of a stream."""
    number = int(split_id[STREAM_PREFIX:], 16)
    return split_id[:STREAM_PREFIX], number & (LAST_FLAG - 1), bool(number & LAST_FLAG)


def without_last_flag(split_id: str) -> str:
    """The id without the flag of the last split: a plan does not know which split will be the last."""
    return f"{split_id[:STREAM_PREFIX]}{int(split_id[STREAM_PREFIX:], 16) & (LAST_FLAG - 1):08x}"


def missing_in_stream(found: Iterable[tuple[int, bool]]) -> int:
    """The least number of splits that a stream lacks, given (number, whether it is the last) of those that exist."""
    numbers = dict(found)
    if not any(numbers.values()):
        return max(numbers, default=-1) + 1 - len(numbers) + 1
    return max(numbers) + 1 - len(numbers)

"""The progress of a run as one line, for a log or for a terminal of any width. Knows numbers and words, no run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfr_batch.errors import counted
from sfr_batch.format.durations import format_duration
from sfr_batch.format.on_screen import shown

if TYPE_CHECKING:
    from sfr_batch.format.run_progress import RunProgress


@dataclass(frozen=True)
class Part:
    """A part of the line. The higher its rank, the sooner it is left out, or replaced by what is shorter."""

    rank: int
    text: str
    shorter: "Part | None" = None


def parts_of(progress: "RunProgress") -> list[Part]:
    """The parts in reading order."""
    parts = [
        Part(0, f"[{format_duration(progress.elapsed_s)}] {shown(progress.stage)}".rstrip()),
        *counts_of(progress),
        *rates_of(progress),
        Part(6 if progress.rejected else 9, counted(progress.rejected, "reject")),
        Part(2, "" if progress.silence_s is None else f"nothing for {format_duration(progress.silence_s)}"),
        Part(3, f"{'…' if progress.left_s is None else format_duration(progress.left_s)} left"),
    ]
    return [part for part in parts if part.text]


def counts_of(progress: "RunProgress") -> list[Part]:
    """Rows and splits, what has failed and what was lost."""
    about = "~" if progress.estimated and progress.rest else ""
    ended = progress.estimated and not progress.rest and not progress.splits_failed
    percent = Part(1, f"{about}{1.0 if ended else progress.share:.0%}")
    rows = progress.embedded + progress.rejected if ended else progress.rows  # what was estimated is known now
    return [
        Part(7, f"{progress.embedded:,} of {about}{rows:,} rows", percent),
        Part(8, f"{progress.splits_done:,} of {about}{progress.splits:,} splits"),
        Part(0, f"{progress.splits_failed:,} FAILED" if progress.splits_failed else ""),
        Part(6, f"lost {shown(progress.lost)}" if progress.lost else ""),
    ]


def rates_of(progress: "RunProgress") -> list[Part]:
    """Tokens and their rates."""
    now = progress.tokens_per_second_now
    rate = f"{progress.tokens_per_second:,.0f} tokens/s"
    return [
        Part(10, f"{progress.tokens:,} tokens"),
        Part(4, rate) if now is None else Part(5, f"{rate}, {now:,.0f} in the last minute", Part(4, rate)),
        Part(11, f"{progress.padding:.1%} padding"),
    ]


def fit(parts: Sequence[Part], width: int | None) -> str:
    """The parts as a line of at most ``width`` characters; None: all of them. The first one follows no comma."""
    left = [part for part in parts if part.text]
    while width is not None and len(_joined(left)) > width and (rank := max(part.rank for part in left)) > 0:
        number = next(number for number, part in enumerate(left) if part.rank == rank)
        left[number : number + 1] = [shorter] if (shorter := left[number].shorter) else []
    return cut(_joined(left), width)


def cut(line: str, width: int | None) -> str:
    """The line, without its end if it is longer than ``width``."""
    return line if width is None or len(line) <= width else line[: max(0, width - 1)] + "…"


def _joined(parts: Sequence[Part]) -> str:
    line = ", ".join(part.text for part in parts)
    return line.replace("], ", "] ", 1) if line.partition(", ")[0].endswith("]") else line

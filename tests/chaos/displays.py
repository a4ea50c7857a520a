"""Displays that break while a run goes on: its log, its pipe or its terminal. Everything is real: descriptors, a full
device, pipes, pseudo terminals.
"""

import contextlib
import os
import pty
import random
import termios
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOW = ("full disk", "closed pipe", "stuck pipe", "terminal that is gone", "stopped terminal")
STREAMS = ((1,), (2,), (1, 2))


def fill_pipe(writer: int) -> None:
    """Whoever writes to it waits from now on."""
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)


@dataclass(frozen=True)
class Breakage:
    """Streams that break before an operation on the store, counted from 0; 0 is before the run begins."""

    how: str
    streams: tuple[int, ...]
    at: int

    @classmethod
    def draw(cls, rng: random.Random, operations: int) -> "Breakage":
        """One at any moment of a run of so many operations."""
        return cls(rng.choice(HOW), rng.choice(STREAMS), rng.randint(0, operations))

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "Breakage":
        return cls(raw["how"], tuple(raw["streams"]), raw["at"])


class Display:
    """The streams of this process, which break when so many operations have been counted."""

    def __init__(self, breakage: Breakage, note: Path) -> None:
        self._breakage, self._operations = breakage, 0
        self._ends: list[int] = []
        """What must stay open."""
        self._note = note
        if "terminal" in breakage.how:
            self._master, self._slave = pty.openpty()
            self._connect(self._slave)
        if breakage.at == 0:
            self._break()

    def count(self) -> None:
        """Before each operation."""
        self._operations += 1
        if self._operations == self._breakage.at:
            self._break()

    def _connect(self, number: int) -> None:
        for stream in self._breakage.streams:
            os.dup2(number, stream)

    def _break(self) -> None:
        self._note.touch()
        match self._breakage.how:
            case "full disk":
                self._connect(os.open("/dev/full", os.O_WRONLY))
            case "closed pipe":
                reader, writer = os.pipe()
                os.close(reader)
                self._connect(writer)
            case "stuck pipe":
                reader, writer = os.pipe()
                self._ends.append(reader)
                fill_pipe(writer)
                self._connect(writer)
            case "terminal that is gone":
                os.close(self._master)
            case "stopped terminal":
                termios.tcflow(self._slave, termios.TCOOFF)

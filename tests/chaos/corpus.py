"""A small corpus of every shape that changes between runs, and what a table of it must hold."""

import gzip
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.model.tokenization.tokenizer import Tokenizer
from tests.chaos.writer import vectors_of_tokens
from tests.tables import jsonl, parquet

ROWS_PER_SPLIT = 8
_KINDS = ("parquet", "jsonl", "jsonl.gz")


@dataclass(frozen=True)
class State:
    """The corpus at one time: versions of the shards by URI, and texts by id of the rows that a table must hold."""

    versions: dict[str, str]
    texts: dict[str, str]
    rows: int
    """All of them, also those that cannot be embedded."""


@dataclass
class Corpus:
    """Shards in a local folder: row groups, lines and a stream; some rows without text, some ids twice."""

    folder: Path
    rng: random.Random
    shards: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    written: int = 0

    def begin(self, small: int = 0) -> None:
        """small: how many shards of one row there are beside; 100 and more are packed."""
        for number, kind in enumerate(_KINDS):
            self._write(f"shard-{number}.{kind}")
        for number in range(small):
            self._write(f"small-{number}.jsonl", rows=1)

    def change(self) -> str:
        """Replace, add or remove a shard; says what."""
        kind = self.rng.choice(_KINDS)
        choice = self.rng.choice(["replaced", "replaced", "added", "removed"])
        if choice == "added" or len(self.shards) < 2:
            name = f"shard-{len(self.shards)}{self.written}.{kind}"
            self._write(name)
            return f"{name} added"
        name = self.rng.choice(sorted(self.shards))
        if choice == "removed":
            (self.folder / name).unlink()
            del self.shards[name]
        else:
            self._write(name)
        return f"{name} {choice}"

    def _write(self, name: str, rows: int | None = None) -> None:
        """rows: default some."""
        number = self.rng.randint(1, 3) * ROWS_PER_SPLIT - self.rng.randint(0, 3) if rows is None else rows
        written = []
        for _ in range(number):
            self.written += 1
            row = {"id": f"id-{self.written}", "text": f"document {self.written} of chaos"}
            if self.rng.random() < 0.1:
                row["text"] = None  # type: ignore[assignment]
            elif self.rng.random() < 0.05 and self.written > 1:
                row["id"] = f"id-{self.rng.randrange(1, self.written)}"  # perhaps still there: a duplicate
            written.append(row)
        table = pa.Table.from_pylist(written, schema=pa.schema([("id", pa.string()), ("text", pa.string())]))
        groups = [min(ROWS_PER_SPLIT, len(written) - at) for at in range(0, len(written), ROWS_PER_SPLIT)]
        data = parquet(table, groups) if name.endswith("parquet") else jsonl(written)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
        self.shards[name] = written

    def state(self) -> State:
        versions, texts, count = {}, {}, 0
        for name in sorted(self.shards):
            status = (self.folder / name).stat()
            versions[str(self.folder / name)] = f"{status.st_size}-{status.st_mtime_ns}"
            count += len(self.shards[name])
            for row in self.shards[name]:
                if row["text"] is not None:
                    texts.setdefault(row["id"], row["text"])
        return State(versions, texts, count)


def reference_vectors(texts: dict[str, str], tokenizer: Tokenizer, dim: int) -> dict[str, NDArray[np.float32]]:
    """What the arithmetic encoder makes of the texts, by id."""
    tokenized = tokenizer.encode(list(texts.values()), "")
    return dict(zip(texts, vectors_of_tokens(tokenized.lengths, tokenized.flat_ids, dim), strict=True))

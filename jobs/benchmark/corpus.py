"""The benchmark corpus: distinct docstrings as Parquet, a file for each split. Knows nothing of models or tables."""

import random
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.docstrings import docstrings, write_docstring_corpus
from sfr_batch.errors import ConfigError, CorpusError


def write_distinct_docstrings(
    folder: Path, documents: int, splits: int, characters: int | None = None
) -> dict[str, str]:
    """Write ``documents`` docstrings with distinct texts into ``splits`` files of one row group each; id to text.

    Distinct, because what a repeated text costs is no matter of speed: only sfr-batch embeds it once. Shuffled the same
    way each time, so that every file is a sample of the whole. characters: of each text, which is cut there. Raises
    ConfigError, or CorpusError if too few are installed.
    """
    if not 2 <= splits <= documents:
        raise ConfigError(f"{documents:,} documents cannot be {splits} splits: at least 2, and one document in each.")
    chosen = distinct_docstrings(documents, characters)
    folder.mkdir(parents=True)
    for split in range(splits):
        part = chosen[documents * split // splits : documents * (split + 1) // splits]
        table = pa.table({"id": [name for name, _ in part], "text": [text for _, text in part]})
        pq.write_table(table, folder / f"docs-{split:05}.parquet", compression="zstd")
    return dict(chosen)


def distinct_docstrings(documents: int, characters: int | None = None) -> list[tuple[str, str]]:
    """``documents`` docstrings with distinct texts, as (id, text). characters: of each text, which is cut there. Raises
    CorpusError if too few are installed."""
    asked = documents + documents // 3 + 20  # about one in five is a copy of another one's text
    if characters is None:
        with tempfile.TemporaryDirectory() as folder:
            write_docstring_corpus(f"{folder}/corpus", asked, shards=1)
            rows = pq.read_table(f"{folder}/corpus").select(["id", "text"]).to_pylist()
    else:  # beginnings are often the same: out of all
        rows = [{"id": name, "text": text[:characters]} for name, (_, text) in sorted(docstrings().items())]
    distinct = {row["text"]: row["id"] for row in reversed(rows)}
    if len(distinct) < documents:
        found = f"{len(distinct):,} of {len(rows):,} docstrings here"
        raise CorpusError(f"Only {found} are distinct; ask for fewer documents.")
    chosen = sorted((name, text) for text, name in distinct.items())
    random.Random(0).shuffle(chosen)
    return chosen[:documents]


def all_docstrings() -> list[str]:
    """The texts of all docstrings here, repeated ones too, in a mixed but fixed order."""
    rows = [text for _, (_, text) in sorted(docstrings().items())]
    random.Random(0).shuffle(rows)
    return rows

"""Small corpora and configs for tests that run whole jobs, on local disk and on S3."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from sfr_batch.config import Config, config_from_dict

ROOT = Path(__file__).parents[1]


def put(uri: str, data: bytes) -> None:
    """Write an object, over what is there: tests change corpora."""
    with fsspec.open(uri, "wb", auto_mkdir=True) as file:
        file.write(data)


def remove(uri: str) -> None:
    fs, path = fsspec.url_to_fs(uri)
    fs.rm_file(path)


def put_parquet(uri: str, rows: Sequence[dict[str, Any]], row_group_size: int = 1000) -> None:
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("lang", pa.string())])
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), sink, row_group_size=row_group_size)
    put(uri, sink.getvalue())


def put_jsonl(uri: str, rows: Sequence[dict[str, Any]]) -> None:
    put(uri, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def documents(texts: Sequence[str], prefix: str = "doc") -> list[dict[str, Any]]:
    return [{"id": f"{prefix}-{number:05}", "text": text, "lang": "en"} for number, text in enumerate(texts)]


def settings(model: Path | str, root: str, **run: Any) -> dict[str, Any]:
    """A config as plain values: CPU, small splits, corpus and table under ``root``."""
    return {
        "corpus": {"path": f"{root}/corpus", "carry": ["lang"]},
        "model": {"path": str(model), "device": "cpu"},
        "table": {"path": f"{root}/table"},
        "run": {"rows_per_split": 64, "min_splits": 1, "max_batch_tokens": 2048, "actors": {"gpus": 0}, **run},
    }


def config(model: Path | str, root: str, *overrides: str, **run: Any) -> Config:
    return config_from_dict(settings(model, root, **run), overrides)

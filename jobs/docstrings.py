"""A real corpus that every machine already has: the docstrings of the packages that this project installs.

Source files are parsed, never imported, so writing the corpus starts nothing and takes seconds. The result is Parquet
files with the columns `id` (the qualified name), `package` and `text`. Knows nothing of tables, models or Ray.
"""

import ast
import contextlib
import gc
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import platform
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sfr_batch.errors import CorpusError

STANDARD_LIBRARY = "python"
PACKAGES = (
    STANDARD_LIBRARY,
    *("torch", "transformers", "ray", "numpy", "pandas", "pyarrow", "sympy", "networkx", "pydantic"),
    *("huggingface_hub", "tokenizers", "safetensors", "fsspec", "s3fs", "aiobotocore", "botocore", "aiohttp"),
    *("jinja2", "click", "rich", "requests", "urllib3", "jsonschema", "packaging", "filelock", "tqdm", "smart_open"),
    *("google.protobuf", "grpc", "prometheus_client", "opentelemetry.sdk", "virtualenv", "multidict", "yarl"),
)
"""Where the docstrings come from, all of them dependencies of the project. What is not installed is passed over."""

MIN_CHARACTERS = 40
"""Shorter docstrings say little more than the name they stand under."""

_SKIPPED_FOLDERS = {
    "test",
    "tests",
    "testing",
    "_vendor",
    "thirdparty_files",
    "site-packages",
    "__pycache__",
    "idlelib",
}
_RECIPE = 1  # raise it when the same parameters give other files
_MARKER = "_corpus.json"
_FILES_PER_PROCESS = 400


@dataclass(frozen=True, slots=True)
class DemoCorpus:
    """What was written: number of ``documents``, UTF-8 ``bytes`` of their text, and the ``folder`` of the files."""

    documents: int
    bytes: int
    folder: str


@dataclass(frozen=True, slots=True)
class _Source:
    file: str
    module: str
    package: str


def write_docstring_corpus(folder: str, documents: int, shards: int = 8) -> DemoCorpus:
    """Write ``documents`` docstrings into ``shards`` Parquet files and return what is there.

    The sample is fixed: the first documents in the order of the SHA-256 of their ids. A folder that holds the corpus
    for the same arguments is left as it is. Raises CorpusError if fewer docstrings are installed.
    """
    if documents < 1 or shards < 1:
        raise CorpusError(f"A corpus needs at least one document and one shard, not {documents} and {shards}.")
    target = Path(folder)
    wanted = {"recipe": _RECIPE, "documents": documents, "shards": shards}
    names = [f"docs-{shard:05}.parquet" for shard in range(shards)]
    known = _read_marker(target)
    if known.items() >= wanted.items() and all((target / name).is_file() for name in names):
        return DemoCorpus(documents, known["bytes"], folder)

    found = docstrings()
    if len(found) < documents:
        raise CorpusError(f"Only {len(found):,} docstrings are installed here: ask for at most that many documents.")
    sample = sorted(found, key=lambda name: hashlib.sha256(name.encode()).digest())[:documents]
    rows = [(name, *found[name]) for name in sorted(sample)]

    target.mkdir(parents=True, exist_ok=True)
    (target / _MARKER).unlink(missing_ok=True)  # first: without it nobody takes a half-replaced corpus for a whole one
    for old in target.glob("docs-*.parquet"):
        if old.name not in names:
            old.unlink()
    for shard, name in enumerate(names):
        _write_shard(target / name, rows[documents * shard // shards : documents * (shard + 1) // shards])
    size = sum(len(text.encode()) for _, _, text in rows)
    _replace(target / _MARKER, json.dumps(wanted | {"bytes": size, "made_from": _versions()}, indent=2).encode())
    return DemoCorpus(documents, size, folder)


def _read_marker(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        if isinstance(marker, dict):
            return marker
    return {}


def _write_shard(path: Path, rows: list[tuple[str, str, str]]) -> None:
    names = ("id", "package", "text")
    table = pa.table({name: pa.array([row[n] for row in rows], pa.string()) for n, name in enumerate(names)})
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    _replace(path, buffer.getvalue())


def _replace(path: Path, data: Any) -> None:
    """A reader sees the old file or the new one, never a part; the name with _ is one that readers skip."""
    temporary = path.with_name(f"_{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def _versions() -> dict[str, str]:
    versions = {STANDARD_LIBRARY: platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def docstrings() -> dict[str, tuple[str, str]]:
    """Package and text of every id; where an id occurs twice the first one stands, in the order of the files."""
    sources = [source for package in PACKAGES for source in _sources(package)]
    chunks = [sources[start : start + _FILES_PER_PROCESS] for start in range(0, len(sources), _FILES_PER_PROCESS)]
    found: dict[str, tuple[str, str]] = {}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for documents in pool.map(_parse_elsewhere, chunks):
            for name, package, text in documents:
                found.setdefault(name, (package, text))
    return found


def _sources(package: str) -> Iterator[_Source]:
    if package == STANDARD_LIBRARY:
        root, prefix = sysconfig.get_paths()["stdlib"], ""
    else:
        try:
            spec = importlib.util.find_spec(package)  # imports no more than the parents of a dotted name
        except ModuleNotFoundError:
            return
        if spec is None or not spec.submodule_search_locations:
            return
        root, prefix = next(iter(spec.submodule_search_locations)), package
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if name not in _SKIPPED_FOLDERS and name.isidentifier())
        parts = [part for part in (prefix, *os.path.relpath(folder, root).split(os.sep)) if part not in ("", ".")]
        for name in sorted(names):
            stem, extension = os.path.splitext(name)
            if extension == ".py" and stem.isidentifier():
                module = ".".join(parts if stem == "__init__" else [*parts, stem])
                yield _Source(os.path.join(folder, name), module, package)


def _parse_elsewhere(sources: list[_Source]) -> list[tuple[str, str, str]]:
    # A plain child process: multiprocessing would fork the caller's threads, or run its main script again.
    above = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (above, os.environ.get("PYTHONPATH"))))}
    request = json.dumps([(source.file, source.module, source.package) for source in sources])
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from jobs.docstrings import _parse_stdin; _parse_stdin()"],
        input=request.encode(),
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        start_new_session=True,  # Ctrl-C is for the caller alone, which speaks for both
    )
    return [(name, package, text) for name, package, text in json.loads(done.stdout)]


def _parse_stdin() -> None:
    gc.disable()  # a fifth of the time; syntax trees hold no cycles
    try:
        sources = [_Source(*fields) for fields in json.load(sys.stdin)]
        json.dump([document for source in sources for document in _parse(source)], sys.stdout)
        sys.stdout.flush()
    except (BrokenPipeError, json.JSONDecodeError):  # the caller has been stopped
        os._exit(1)


def _parse(source: _Source) -> Iterator[tuple[str, str, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's invalid escapes
        try:
            tree = ast.parse(Path(source.file).read_bytes())
        except (OSError, SyntaxError, ValueError, RecursionError):
            return  # templates and files for other Python versions
    for name, node in _documented(tree, source.module):
        raw = ast.get_docstring(node, clean=False)
        text = inspect.cleandoc(raw) if raw else ""
        if len(text) < MIN_CHARACTERS:
            continue
        with contextlib.suppress(UnicodeEncodeError):  # a lone surrogate is a legal Python string, but no text
            text.encode()
            yield name, source.package, text


def _documented(
    tree: ast.Module | ast.ClassDef, name: str
) -> Iterator[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    """The module or class itself and what is defined in it, also under `if` and `try`, but not inside functions."""
    if name:
        yield name, tree
    nodes = tree.body[::-1]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.ClassDef):
            yield from _documented(node, f"{name}.{node.name}" if name else node.name)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield f"{name}.{node.name}" if name else node.name, node
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            handlers = [statement for h in getattr(node, "handlers", ()) for statement in h.body]
            inner = [*node.body, *handlers, *getattr(node, "orelse", ()), *getattr(node, "finalbody", ())]
            nodes += inner[::-1]

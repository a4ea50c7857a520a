"""Policies as ratchets: which module may import which, what planning must not load, and that all is documented."""

import ast
import importlib
import inspect
import json
import os
import pydoc
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pyarrow as pa
import pytest

import sfr_batch
from sfr_batch.cli.main import main
from sfr_batch.config.loading import load_config
from sfr_batch.corpus.splits import ROWS
from sfr_batch.format import names
from sfr_batch.format.records import Manifest
from sfr_batch.planning.make import make_plan
from sfr_batch.storage import local_files
from sfr_batch.table import choices
from sfr_batch.table.engine_types import ENGINES
from tests.conftest import LONG, piece_of
from tests.tables import do_plan, parquet, put

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sfr_batch"
ORDER = "errors config storage format model|table|corpus encoder planning checks|pipeline evaluation api __init__ cli"
"""Packages from the ground up. A package imports only from earlier ones; those that a bar separates do not import each
other. The README shows this line, too."""
FLOOR = {name: number for number, floor in enumerate(ORDER.split()) for name in floor.split("|")}
TO_COME: set[str] = set()
ONLY = {
    "ray": {"pipeline", "table.engines"},
    "duckdb": {"table.engines"},
    "pandas": {"table.engines"},
    "backports": {"corpus.decompression"},
    "torch": {"encoder"},
    "transformers": {"encoder"},
    "fsspec": {"storage"},
    "s3fs": {"storage.s3_client"},
    "aiohttp": {"storage.s3_client"},
    "botocore": {"storage.s3_client"},
    "huggingface_hub": {"model.sources.hub"},
    "tokenizers": {"model.tokenization"},
    "google": {"model.tokenization.sentencepiece"},
    "sentencepiece": set(),
    "deltalake": {"corpus.delta_tables"},
    "pyiceberg": {"corpus.iceberg_tables", "corpus.iceberg_io"},
    "click": {"cli"},
    "matplotlib": {"evaluation.report.picture"},
    "IPython": {"pipeline.notebook_display"},
    "mteb": {"evaluation.mteb_adapter"},
    "sentence_transformers": {"encoder.reference"},
}
"""Which packages or modules may import this library at all."""
LAZY = {
    ("corpus.decompression", "backports"),
    ("model.sources.hub", "huggingface_hub"),
    ("encoder.reference", "sentence_transformers"),
    ("evaluation.report.picture", "matplotlib"),
    ("pipeline.notebook_display", "IPython"),
    ("corpus.delta_tables", "deltalake"),
    ("corpus.iceberg_tables", "pyiceberg"),
    ("evaluation.mteb_adapter", "mteb"),
    *(("table.engines", library) for library in ("duckdb", "pandas", "ray")),
}
"""Imports that may only stand in a function."""
SLOW = {"fsspec", "asyncio", "google", "tokenizers", "huggingface_hub", "yaml", "scipy", "sympy"}
"""Libraries that take long to load and that help and readers of a local table do without."""
HEAVY = ("torch", "transformers", "ray", "sentence_transformers", "pandas", "duckdb")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def home(name: str) -> str:
    """The package of a dotted name, as ORDER has it."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def allowed(module: str, places: set[str]) -> bool:
    """Whether a module is one of ``places`` or inside one; both are named below `sfr_batch`."""
    inside = module.removeprefix("sfr_batch").removeprefix(".") or "__init__"
    return any(inside == place or inside.startswith(f"{place}.") for place in places)


MODULES = {dotted(path) for path in modules()}


def imports(tree: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """(dotted name, whether in a function) of every import, but for those that type checkers alone see."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole if whole in MODULES else node.module, inside)
        yield from imports(node, inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


JOBS = sorted((ROOT / "jobs").glob("*.py"))
BENCHMARK = sorted((ROOT / "jobs" / "benchmark").glob("*.py"))
TEXTS = {path: path.read_text(encoding="utf-8") for path in [*modules(), *JOBS, *BENCHMARK]}
# While this module is loaded, and once: ast.parse raises SystemError in CPython 3.11 if another thread, such as one
# that Ray leaves behind in this process, parses at the same time (cpython issue 106905).
TREES = {path: ast.parse(text) for path, text in TEXTS.items()}
IMPORTS = {path: list(imports(tree)) for path, tree in TREES.items()}


def test_every_package_has_its_place() -> None:
    assert {home(dotted(path)) for path in modules()} == FLOOR.keys() - TO_COME


def test_packages_import_only_from_earlier_ones() -> None:
    """And never from a sibling: a table knows no model and no corpus, a corpus knows no table."""
    wrong = [
        f"{dotted(path)} imports {name}"
        for path in modules()
        for name, _ in IMPORTS[path]
        if name.split(".")[0] == "sfr_batch" and home(name) != home(dotted(path))
        if FLOOR[home(name)] >= FLOOR[home(dotted(path))]
    ]
    assert not wrong


def test_modules_do_not_import_in_circles() -> None:
    graph = {
        dotted(path): {name for name, _ in IMPORTS[path] if name.startswith("sfr_batch.") and name != dotted(path)}
        for path in modules()
    }
    TopologicalSorter(graph).prepare()


def test_packages_hold_signs_not_names() -> None:
    """A package's `__init__` is a docstring: importing one module of a package loads no other."""
    for path in PACKAGE.rglob("*/__init__.py"):
        assert len(TREES[path].body) == 1, dotted(path)


def test_libraries_are_imported_where_they_belong() -> None:
    wrong = []
    for path in modules():
        for name, in_function in IMPORTS[path]:
            library = name.split(".")[0]
            if library in ONLY and not allowed(dotted(path), ONLY[library]):
                wrong.append(f"{dotted(path)} imports {library}")
            lazy = any(library == other and allowed(dotted(path), {place}) for place, other in LAZY)
            if lazy and not in_function:
                wrong.append(f"{dotted(path)} imports {library} when it is loaded")
    assert not wrong


USES_RAY = (
    "actors",
    "execution",
    "joining",
    "losses",
    "metrics.exporting",
    "ray_failures",
    "submission.jobs_api",
    "tasks",
)


def test_few_modules_alone_import_ray() -> None:
    """One machine with one encode actor runs without it, so nothing on that way may need it when it is loaded."""
    using = {dotted(path) for path in modules() for name, _ in IMPORTS[path] if name.split(".")[0] == "ray"}
    assert using == {
        "sfr_batch.table.engines",
        *(f"sfr_batch.pipeline.{name}" for name in USES_RAY),
    }


def test_the_tree_stays_readable() -> None:
    """At most 14 entries beside `__init__` and `py.typed`, modules of at most 450 lines, functions of at most 60."""
    entries = {path.name for path in PACKAGE.iterdir()} - {"__init__.py", "py.typed", "__pycache__"}
    assert len(entries) <= 14, entries
    long = []
    for path in modules():
        text = TEXTS[path]
        if text.count("\n") > 450:
            long.append(f"{dotted(path)}: {text.count(chr(10))} lines")
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > 60:
                    long.append(f"{dotted(path)}.{node.name}: {lines} lines")
    assert not long


def test_jobs_are_on_top_of_the_library() -> None:
    for path in JOBS:
        assert not {name.split(".")[0] for name, _ in IMPORTS[path]} & {"ray", "torch", "transformers"}, path


def test_benchmarks_load_heavy_libraries_only_when_they_run() -> None:
    """`python -m jobs.benchmark --help` is quick, and works where a library to compare with is missing."""
    wrong = [
        f"{dotted(path)} imports {name}"
        for path in BENCHMARK
        for name, in_function in IMPORTS[path]
        if name.split(".")[0] in {*HEAVY, "matplotlib"} and not in_function
    ]
    assert not wrong


# --- what planning loads


def loaded(code: str, *arguments: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after ``code``."""
    report = "\nimport sys; print('\\n'.join(['---', *sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code + report, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("---\n")[1].splitlines())


STEPS = """
import contextlib, io, json, sys
def step():
    report[name] = list(sys.modules)
report, name = {}, "import"
import sfr_batch
step()
from sfr_batch.cli.main import main
for name, arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(arguments, standalone_mode=False)
    step()
name = "benchmark, beside audit"
import jobs.benchmark.__main__
step()
json.dump(report, open(sys.argv[2], "w"))
"""


def test_commands_load_what_they_need(tmp_path: Path) -> None:
    """One process runs one command after the other, each of which may load what it needs beside those before it."""
    table = pa.table({"id": ["a", "b"], "text": ["x", "y"], "package": ["p", "q"]})
    put(str(tmp_path), "corpus/a.parquet", parquet(table))
    demo, paths = str(ROOT / "configs" / "demo.yaml"), [f"corpus.path={tmp_path}/corpus", f"table.path={tmp_path}/t"]
    do_plan(make_plan(load_config(demo, paths)))
    commands = {
        "help": ["--help"],
        **{f"help of {name}": [name, "--help"] for name in main.commands},
        "snapshots": ["snapshots", f"{tmp_path}/t"],
        "status": ["status", f"{tmp_path}/t"],
        "view": ["view", f"{tmp_path}/t"],
        "changes": ["changes", f"{tmp_path}/t", "0", "1"],
        "plan": ["plan", demo, *paths],
        "embed": ["embed", demo, *paths],
        "audit": ["audit", f"{tmp_path}/t"],
        "audit against": ["audit", f"{tmp_path}/t", "--against", demo, paths[0]],
    }
    loaded(STEPS, json.dumps(list(commands.items())), str(tmp_path / "report"))
    report = {name: set(modules) for name, modules in json.loads((tmp_path / "report").read_text()).items()}

    assert {name for name in report["import"] if name.startswith("sfr_batch")} == {"sfr_batch"}
    for name, modules in report.items():
        # Where there is a pandas, pyarrow itself loads it when arrays go to NumPy or come from lists; nobody needs it.
        assert not modules & set(HEAVY) - ({"pandas"} if "audit" in name else set()), name
        packages = {home(module) for module in modules if module.startswith("sfr_batch.")}
        if name.startswith("help"):
            assert not modules & (SLOW | {"pyarrow", "numpy", "pydantic"}), name
        elif name in ("snapshots", "status", "view", "changes"):
            assert not modules & (SLOW - {"yaml"}), name
            assert not packages & {"planning", "corpus", "model", "encoder", "checks"}, name
        elif name in ("plan", "embed"):
            assert not modules & {"fsspec", "scipy", "sympy"}, name
            assert "sfr_batch.encoder.encoder" not in modules, name


def test_help_offers_what_there_is() -> None:
    """Its choices and defaults are spelled where nothing is loaded for them."""
    assert (*ENGINES, choices.ARROW) == choices.CHOICES
    assert choices.ROWS_PER_FILE == ROWS


def reads_of_parquet(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Each call that opens a Parquet file or reads from one, and the keyword that keeps Arrow's threads out of it."""
    opening = ("pq.ParquetFile(", "open_parquet(")
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        files = {
            node.arg for node in ast.walk(function) if isinstance(node, ast.arg) and "'ParquetFile'" in ast.dump(node)
        }
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith(opening):
                files.add(ast.unparse(node.targets[0]))
        for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
            of, _, method = ast.unparse(call.func).rpartition(".")
            if (of, method) == ("pq", "ParquetFile"):
                yield call, "pre_buffer"
            elif method.startswith(("read", "iter_batches")) and (of in files or of.startswith(opening)):
                yield call, "use_threads"


def test_no_python_file_is_read_by_threads_of_arrow() -> None:
    """They may hold a Python object as the process ends, and then it ends with SIGABRT; see `parquet.open_parquet`."""
    for path in modules():
        text = TEXTS[path]
        assert "pq.read_table(" not in text, dotted(path)
        found = list(reads_of_parquet(TREES[path]))
        for call, keyword in found:
            given = {name.arg: ast.unparse(name.value) for name in call.keywords}
            assert given.get(keyword) == "False", f"{dotted(path)} line {call.lineno}: {keyword}"
        assert len(found) == text.count("pre_buffer=") + text.count("use_threads="), f"{dotted(path)}: one is not found"


# --- files


OPENING = {
    *("fdopen", "mkdir", "makedirs", "mkstemp", "mkdtemp", "read_bytes", "read_text", "write_bytes", "write_text"),
    *("touch", "unlink", "rmdir", "rmtree", "removedirs", "rename", "renames", "link", "symlink", "hardlink_to"),
    *("symlink_to", "copyfile", "copytree", "TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile"),
    *("TemporaryDirectory", "FileIO", "FileHandler", "fromfile", "tofile", "memmap", "open_memmap", "OSFile"),
    *("memory_map", "ParquetFile", "ParquetDataset", "ParquetWriter", "read_table", "read_metadata", "write_table"),
    *("write_dataset", "open_csv", "read_csv", "from_file", "from_pretrained", "save_pretrained", "safe_open"),
    *("snapshot_download", "hf_hub_download", "load_file", "connect"),
}
"""Names of calls, whoever they are called on, that open, make or remove files where they are given a path."""
OPEN_ON = {"store", "_store", "Table"}
"""What may be asked to `open`: a store, which opens an object; and a table, which reads one."""
PARQUET = {"format", "corpus", "checks.audit", "table"}
"""Where Parquet is read, from bytes and from files that a store or `open_input` has opened, see OPENED."""
OPENED = {"file", "data", "stream", "in_memory", "Fetched"}
"""What these readers are given: by its name, or by the name of the function that makes it."""
FILES = {
    ("config.loading", "file.read_text"): "the config itself: config stands below storage, which takes its settings",
    ("encoder.loading", "model_class.from_pretrained"): "the library maps the weights into memory",
    ("encoder.loading", "transformers.AutoConfig.from_pretrained"): "the library takes a path",
    ("evaluation.task_files", "file.read_text"): "a file of this package itself, through importlib",
    ("format.parquet", "pa.OSFile"): "a file that storage has opened, for Arrow to read itself",
    ("format.parquet", "pq.write_table"): "into memory",
    ("format.parquet", "pq.ParquetWriter"): "into a file that storage has opened",
    ("format.parquet", "writer.write_table"): "into the same",
    ("model.sources.hub", "huggingface_hub.snapshot_download"): "the library fills its own cache",
    ("pipeline.packing", "writer.write_table"): "an Arrow stream in memory",
    ("table.engines", "duckdb.connect"): "a database in memory; it reads files through the store's file system",
    ("table.nearest", "writer.write_table"): "an Arrow stream in memory",
    ("table.scan", "writer.write_table"): "an Arrow stream in memory",
}
"""Calls outside of storage that look as if they opened a file, and why they may stand there."""


def opens(call: ast.Call) -> bool:
    """Whether a call opens, makes or removes a file, by its name."""
    if isinstance(call.func, ast.Name):
        return call.func.id == "open" or (call.func.id in OPENING and not hasattr(local_files, call.func.id))
    if not isinstance(call.func, ast.Attribute):
        return False
    owner, name = ast.unparse(call.func.value), call.func.attr
    if name == "open":
        return owner.split(".")[-1] not in OPEN_ON
    if name == "replace":  # of strings, with two arguments; of dataclasses and times, with named ones
        return owner == "os" or (len(call.args) == 1 and not call.keywords)
    return name in OPENING or (name == "remove" and owner == "os")


def reads_opened_parquet(call: ast.Call) -> bool:
    """Whether a call reads Parquet from what is open already: a name, or a function, of OPENED."""
    if ast.unparse(call.func) not in ("pq.ParquetFile", "pq.read_metadata"):
        return False
    given = call.args[0].body if isinstance(call.args[0], ast.IfExp) else call.args[0]
    return ast.unparse(given.func if isinstance(given, ast.Call) else given) in OPENED


def test_storage_alone_opens_files() -> None:
    found = {}
    for path in modules():
        module = dotted(path).removeprefix("sfr_batch.")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if home(dotted(path)) == "storage" or not isinstance(node, ast.Call) or not opens(node):
                continue
            if not (allowed(dotted(path), PARQUET) and reads_opened_parquet(node)):
                found[module, ast.unparse(node.func)] = f"{module} line {node.lineno}: {ast.unparse(node)}"
    assert [line for key, line in found.items() if key not in FILES] == []
    assert {key for key, why in FILES.items() if why} <= found.keys(), "an exception that nothing needs any more"
    assert {module for module, _ in FILES} <= {module for module, _ in found}, (
        "an exception that nothing needs any more"
    )


@pytest.mark.parametrize(
    "code",
    [
        *(
            "open(path)",
            "io.open(path)",
            "os.open(path, 0)",
            "path.open('rb')",
            "gzip.open(path)",
            "Path(p).read_text()",
        ),
        *("os.replace(a, b)", "a.replace(b)", "os.remove(a)", "path.unlink()", "tempfile.TemporaryDirectory()"),
        *("pq.ParquetFile(path)", "ParquetFile(path)", "np.memmap(path)", "shutil.rmtree(path)", "self._fs.open(path)"),
    ],
)
def test_a_stray_open_is_found(code: str) -> None:
    assert opens(ast.parse(code, mode="eval").body)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "code",
    [
        "store.open(key)",
        "Table.open(x)",
        "a.replace('b', 'c')",
        "dataclasses.replace(a, b=1)",
        "names.remove(a)",
        "read_text(path)",
    ],
)
def test_what_opens_no_file_is_not_found(code: str) -> None:
    assert not opens(ast.parse(code, mode="eval").body)  # type: ignore[arg-type]


# --- names on storage


COLUMNS = {field.name for schema in (names.REJECTS_SCHEMA, names.INDEX_SCHEMA) for field in schema} | {
    *names.RESERVED_COLUMNS,
    names.SPLIT_ID,
}
ORDINARY = {"id", "shard", "row", "vectors", "chunk", "truncated"}
"""Columns whose names are ordinary words: these may stand elsewhere, but not where a column is asked for."""
OF_COLUMNS = {"column", "field", "sort_by", "append_column", "select", "drop_columns"}
UNMISTAKABLE = (
    (COLUMNS - ORDINARY) | {*names.REASONS} | {names.RUN_PLAN, names.RUN_REPORT, names.RUN_PAGE, names.RECEIPT_KEY}
)
UNMISTAKABLE |= {names.FINGERPRINT_KEY}
FOLDERS = ("_sfr", f"{names.REJECTS}/")
SPELLED = {
    ("storage.store", "_sfr/tmp"): "storage stands below format",
    ("pipeline.write_stage", "vectors"): "a column of the batches between stages",
}
"""Names on storage that are spelled outside of format, and why."""


def spelled(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of every string that is a name on storage; docstrings and other sentences are none."""
    asked = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in OF_COLUMNS
        for argument in (part for whole in node.args for part in ast.walk(whole))
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text, known = node.value, COLUMNS if id(node) in asked else set()
            if text in UNMISTAKABLE | known or (text.startswith(FOLDERS) and " " not in text):
                yield node.lineno, text


def test_names_on_storage_are_spelled_in_format_alone() -> None:
    found = {}
    for path in modules():
        module = dotted(path).removeprefix("sfr_batch.")
        if home(dotted(path)) != "format":
            for line, text in spelled(ast.parse(path.read_text(encoding="utf-8"))):
                found[module, text] = f"{module} line {line}: {text!r}"
    assert [line for key, line in found.items() if key not in SPELLED] == []
    assert SPELLED.keys() <= found.keys(), "an exception that nothing needs any more"


@pytest.mark.parametrize(
    "code", ['row["split_id"]', 'table.column("row")', 'key = "_sfr/runs"', "f\"{row['reason']}\"", '"report.json"']
)
def test_a_name_that_is_spelled_anew_is_found(code: str) -> None:
    assert list(spelled(ast.parse(code)))


def test_names_of_side_files_are_fields_of_the_manifest() -> None:
    kinds = {names.FILES, names.SHARDS, names.INDEXES, names.DELETES, names.DEAD_ROWS, names.CONDEMNED}
    assert kinds <= Manifest.model_fields.keys()


# --- documentation and names


Definition = ast.ClassDef | ast.FunctionDef


def public(body: list[ast.stmt]) -> Iterator[Definition]:
    """Classes and functions, or methods, whose names have no leading underscore."""
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node


CLASSES = {node.name: node for path in modules() for node in TREES[path].body if isinstance(node, ast.ClassDef)}
METHODS = {name: {method.name for method in public(node.body)} for name, node in CLASSES.items()}
BASES = {name: [ast.unparse(base) for base in node.bases] for name, node in CLASSES.items()}
PROTOCOLS = [name for name in CLASSES if "Protocol" in BASES[name]]


def is_documented(node: Definition, of: str | None = None) -> bool:
    """Whether a definition has a docstring; a method of the class ``of`` also where a base class has it, or a protocol
    whose methods the class has. A few statements may say no more than their name and types do."""
    if ast.get_docstring(node) or sum(isinstance(part, ast.stmt) for part in ast.walk(node)) <= 4:
        return True
    protocols = [name for name in PROTOCOLS if of and METHODS[name] <= METHODS[of]]
    above = [CLASSES[name] for name in [*BASES.get(of or "", []), *protocols] if name in CLASSES]
    methods = [method for other in above for method in public(other.body) if method.name == node.name]
    return any(ast.get_docstring(method) for method in methods)


def test_everything_public_is_documented() -> None:
    missing = []
    for path in [*modules(), *BENCHMARK]:
        docstring = ast.get_docstring(TREES[path]) or ""
        if not (docstring[:1].isupper() or docstring.startswith(("`", "sfr-batch"))):
            missing.append(dotted(path))
        for node in public(TREES[path].body):
            methods = list(public(node.body)) if isinstance(node, ast.ClassDef) else []
            missing += [f"{dotted(path)}.{node.name}"] * (not is_documented(node))
            missing += [f"{dotted(path)}.{node.name}.{m.name}" for m in methods if not is_documented(m, node.name)]
    assert not missing


PUBLIC = {
    "checks.audit.report": ["AuditReport"],
    "table.changes": ["Changes"],
    "table.commit.compaction": ["Compaction"],
    "config.settings": ["Config", "ModelSettings", "StorageSettings"],
    "pipeline.repair": ["Repair"],
    "planning.plan": ["EmbedPlan"],
    "evaluation.mteb_adapter": ["MtebModel"],
    "api": [
        "EmbeddingTable",
        "audit",
        "embed",
        "evaluate",
        "mteb_model",
        "open_table",
        "plan",
        "price",
        "promote",
        "promote_back",
        "repair",
        "verify",
    ],
    "encoder.encoder": ["Encoder"],
    "evaluation.report.report": ["Evaluation"],
    "table.commit.expiry": ["Expiry"],
    "table.export": ["Exported"],
    "table.sampling": ["Sample"],
    "table.search": ["Hit", "Hits"],
    "table.commit.sweep": ["Orphans"],
    "table.pointer": ["PointerTarget"],
    "errors": ["SfrBatchError", "errors"],
    "evaluation.questions.comparison": ["TableComparison"],
    "evaluation.questions.scores": ["TableScores"],
    "table.table": ["Snapshot"],
    "table.commit.attempts": ["Runs"],
    "format.run_accounts": ["RunAccount"],
    "format.run_progress": ["RunProgress"],
    "table.report.value": ["RunReport"],
    "pipeline.on_ray": ["on_ray"],
    "pipeline.price.price": ["Price"],
    "pipeline.summary": ["Summary"],
    "pipeline.submission.submit": ["job", "submit"],
    "pipeline.submission.submitted_job": ["SubmittedJob"],
    "checks.verify.report": ["VerifyReport"],
    "config.loading": ["load_config"],
}
"""What `sfr_batch` exports, by the module where it is defined. A name that goes from here breaks somebody's code."""


def test_public_names_are_these() -> None:
    """No more, no fewer; each is what its module has, is documented, and stands in the table of the package."""
    assert dir(sfr_batch) == sorted(["__version__", *(name for names in PUBLIC.values() for name in names)])
    for module, public_names in PUBLIC.items():
        for name in public_names:
            value = getattr(sfr_batch, name)
            home = importlib.import_module(f"sfr_batch.{module}")
            assert value is (home if name == module else getattr(home, name))
            assert inspect.getdoc(value), name
            assert re.search(rf"^    (\w+,? +)?{name}\b|`{name}`", sfr_batch.__doc__ or "", re.MULTILINE), name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sfr_batch.nonsense


def test_help_of_the_package_is_short() -> None:
    """The table of what there is, then the functions; not 3,000 lines with each method of each type."""
    functions = [name for name in dir(sfr_batch) if inspect.isfunction(getattr(sfr_batch, name))]
    assert sorted(sfr_batch.__all__) == sorted(["errors", *functions])
    shown = pydoc.render_doc(sfr_batch, renderer=pydoc.plaintext)
    assert "CLASSES" not in shown
    assert "__" not in shown.replace("__init__.py", "")
    assert shown.count("\n") < 200


def test_every_call_that_takes_overrides_takes_them_as_keywords() -> None:
    for name in sfr_batch.__all__:
        value = getattr(sfr_batch, name)
        if inspect.isfunction(value) and "overrides" in (parameters := inspect.signature(value).parameters):
            assert any(p.kind is p.VAR_KEYWORD for p in parameters.values()), f"{name} lacks **settings, see api.plan"
            assert parameters["overrides"].annotation == "Overrides", name


def test_type_checkers_see_the_public_names() -> None:
    """As explicit exports, `X as X`, of the modules that they come from when the program runs."""
    seen = {}
    for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sfr_batch"):
            for alias in node.names:
                assert alias.asname == alias.name
                seen[alias.name] = (node.module or "").removeprefix("sfr_batch").lstrip(".") or alias.name
    assert seen == {name: module for module, names in PUBLIC.items() for name in names}


def test_version_is_the_projects() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert sfr_batch.__version__ == project["version"]


def test_every_exception_is_ours_and_in_the_tree() -> None:
    """The drawing at the top of `errors` is that of the classes, in the order of their definitions."""
    from sfr_batch import errors

    def drawing(of: type, indent: str = "") -> list[str]:
        below = [value for value in vars(errors).values() if inspect.isclass(value) and value.__base__ is of]
        lines = []
        for value in below:
            branch, more = ("└── ", "    ") if value is below[-1] else ("├── ", "│   ")
            lines += [f"{indent}{branch}{value.__name__}", *drawing(value, indent + more)]
        return lines

    drawn = (errors.__doc__ or "").split("\n\n")[1].splitlines()
    assert drawn[0].split()[0] == "SfrBatchError"
    assert [re.sub(r"(\w+) .*", r"\1", line[4:]) for line in drawn[1:]] == drawing(errors.SfrBatchError)
    assert all(issubclass(v, errors.SfrBatchError) for v in vars(errors).values() if inspect.isclass(v))


def test_modules_can_be_imported_alone() -> None:
    """No module rests on another one having been imported before it."""
    names = [dotted(path) for path in modules()]
    slim = [name for name in names if home(name) not in ("encoder", "checks", "pipeline")]
    code = "import importlib, sys\nfor n in sys.argv[1:]:\n    importlib.import_module(n)\n    "
    code += "[sys.modules.pop(m) for m in list(sys.modules) if m.startswith('sfr_batch')]"
    loaded(code, *slim)
    for name in names:
        importlib.import_module(name)


def test_no_environment_is_read_at_import() -> None:
    """Defaults that are read when a module is loaded cannot be seen, nor changed by a test or a notebook."""
    for path in [*modules(), *BENCHMARK]:
        for node in TREES[path].body:
            if not isinstance(node, Definition):
                read = {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)} & {"environ", "getenv"}
                assert not read, f"{dotted(path)} line {node.lineno}"
    assert os.environ["HF_HUB_OFFLINE"] == "1", "no test may ask a hub"


# --- tests


def test_tests_that_use_ray_are_marked() -> None:
    """`pytest -n 4` gives them all to one process."""
    ways = re.compile(r'\b_?ray_(session|nodes|machine)\b|\bray_cluster\(|\bray\.init\(|"start", "--head"')
    modules = [str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    using = {module for module in modules if ways.search((ROOT / module).read_text(encoding="utf-8"))}
    assert len(using) > 3
    assert using == {module for module in modules if piece_of(module) == "ray"}


def test_the_longest_tests_exist() -> None:
    """Those that `pytest -n 4` begins with."""
    assert [module for module in LONG if not (ROOT / module).is_file()] == []

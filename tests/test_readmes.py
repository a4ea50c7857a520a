"""The READMEs are true where a machine can tell: commands parse, names exist, links lead somewhere, the first is short.

Nothing of what they show is run here. Each check takes a text and gives a sentence for each problem, so that it can be
shown to find planted defects.
"""

import ast
import functools
import importlib
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import yaml
from pydantic import BaseModel

import sfr_batch
from sfr_batch.api import EmbeddingTable
from sfr_batch.config.loading import config_from_dict, load_config
from sfr_batch.config.settings import Config
from sfr_batch.errors import ConfigError
from sfr_batch.evaluation.task_files import parse_tasks

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("configs", "jobs", "sfr_batch", "tests")
READMES = [ROOT / "README.md", *sorted(path for name in FOLDERS for path in (ROOT / name).rglob("README.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SMALLEST: dict[str, Any] = {
    "corpus": {"path": "corpus"},
    "model": {"path": "model", "device": "cpu"},
    "table": {"path": "table"},
    "run": {"actors": {"gpus": 0}},
}
RAY_OPTIONS = {"--working-dir", "--address", "--entrypoint-num-cpus", "--entrypoint-num-gpus"}
OTHERS = {".", "apt-get", "export", "find", "prometheus"}
"""Commands of which nothing is checked."""
OPERATORS = {"&&", "||", "|", ";", "<", ">"}
MARKDOWN = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"[\w.-]+(/[\w.-]+)*/?")
SETTING = re.compile(r"((?:corpus|model|table|select|run)(?:\.[a-z_]+)+)(?:[:=].*)?", re.DOTALL)


@dataclass(frozen=True)
class Page:
    """A README, or a text that pretends to be one."""

    path: Path
    text: str

    @property
    def prose(self) -> str:
        return FENCE.sub("", self.text)

    @property
    def code(self) -> list[str]:
        """What stands between backticks in the prose."""
        return re.findall(r"`([^`\n]+)`", self.prose)

    def blocks(self, *languages: str) -> list[str]:
        return [content for language, content in FENCE.findall(self.text) if language in languages]

    def commands(self) -> Iterator[list[str]]:
        """The words of every command: of scripts, behind a prompt, and in the prose if it has arguments."""
        lines = [line for block in self.blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
        for block in self.blocks("text"):
            lines += [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
        lines += [code for code in self.code if re.match(r"(sfr-batch|python3?|pytest|pip) \S", code)]
        for line in lines:
            words = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
            words.whitespace_split = True
            command: list[str] = []
            for word in [*words, ";"]:
                if word in OPERATORS:
                    if command:
                        yield command
                    command = []
                else:
                    command.append(word)


def page(path: Path) -> Page:
    return Page(path, path.read_text(encoding="utf-8"))


# --- commands


@functools.cache
def command_line() -> click.Group:
    assert PROJECT["scripts"]["sfr-batch"] == "sfr_batch.cli.start:main"
    found = importlib.import_module("sfr_batch.cli.main").main
    assert isinstance(found, click.Group)
    return found


@functools.cache
def script(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"readme_{file.stem}", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parser_of(module: ModuleType) -> click.Command:
    """Its `main`, else the command that it names."""
    main = getattr(module, "main", None)
    return main if isinstance(main, click.Command) else command_line().commands[module.COMMAND]


def command_problems(readme: Page) -> Iterator[str]:
    for command in readme.commands():
        try:
            _check(command)
        except (click.UsageError, ConfigError, ImportError, OSError) as error:
            message = error.format_message() if isinstance(error, click.UsageError) else str(error)
            yield f"{' '.join(command)}: {message}"


def _check(command: list[str]) -> None:
    """Raises UsageError, ConfigError, ImportError or OSError."""
    match command:
        case ["sfr-batch", *args]:
            _parse(command_line(), args)
        case ["python" | "python3", "-m", ("jobs.benchmark" | "tests.chaos") as name, *args]:
            _parse(parser_of(importlib.import_module(f"{name}.__main__")), args)
        case ["python" | "python3", "-m", name, *_]:
            if importlib.util.find_spec(name) is None:
                raise ImportError(f"there is no module {name}")
        case ["python" | "python3", file, *args]:
            _parse(parser_of(script(ROOT / file)), args)
        case ["ray", "job", "submit", *rest]:
            own = rest[: rest.index("--")]
            for word in own:
                if word.startswith("-") and word not in RAY_OPTIONS:
                    raise click.UsageError(f"{word} is not among the options that these READMEs use")
            _check(rest[len(own) + 1 :])
        case ["ray", "job", "stop", *_]:
            pass
        case ["pytest", *args]:
            for path in args:
                if "/" in path:
                    (ROOT / path).stat()
        case ["pip", "install", *args]:
            for extra in re.findall(r"\w+", "".join(re.findall(r"\[(.*)\]", " ".join(args)))):
                if extra not in PROJECT["optional-dependencies"]:
                    raise click.UsageError(f"there is no extra {extra}")
        case [name, *_] if name not in OTHERS:
            raise click.UsageError("no check knows this command")


def _parse(command: click.Command, args: list[str]) -> None:
    if isinstance(command, click.Group) and args and not args[0].startswith("-"):
        if args[0] not in command.commands:
            raise click.UsageError(f"there is no command {args[0]}")
        if len(args) > 1 or command is not command_line():  # else it is only mentioned
            _parse(command.commands[args[0]], args[1:])
        return
    try:
        context = command.make_context(command.name, args)
    except click.exceptions.Exit:  # --help
        return
    overrides = context.params.get("overrides", ())
    against = context.params.get("against") if "overrides" in context.params else None  # that of `score` is a table
    config = context.params.get("config") or against
    if config and "/" in config:
        load_config(ROOT / config, overrides)
    else:
        config_from_dict(SMALLEST, overrides)


# --- settings


def settings(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """All of them with their sections, dotted."""
    for name, field in section.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings(field.annotation, f"{prefix}{name}.")


SETTINGS = frozenset(settings())


def setting_problems(readme: Page) -> Iterator[str]:
    for code in readme.code:
        found = SETTING.fullmatch(code)
        if found is None or code == "table.json" or code.endswith(")"):
            continue
        if found[1] not in SETTINGS and not found[1].startswith("model.prompts."):
            yield f"there is no setting {found[1]}"
    for block in readme.blocks("yaml"):
        try:
            given = yaml.safe_load(block)
            if "tasks" in given:
                parse_tasks(block, "a task file")
                continue
            config_from_dict({name: SMALLEST.get(name, {}) | given.get(name, {}) for name in SMALLEST | given})
        except ConfigError as error:
            yield str(error)


# --- Python


def python_problems(readme: Page) -> Iterator[str]:
    public = set(dir(sfr_batch))
    for block in readme.blocks("python"):
        try:
            tree = ast.parse(block)
        except SyntaxError as error:
            yield f"line {error.lineno} of a block is not Python: {error.msg}"
            continue
        aliases = {"sfr_batch"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                aliases |= {name.asname for name in node.names if name.name == "sfr_batch" and name.asname}
            elif isinstance(node, ast.ImportFrom) and node.module == "sfr_batch":
                yield from (f"sfr_batch has no {name.name}" for name in node.names if name.name not in public)
            elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("sfr_batch."):
                yield from (p for name in node.names for p in dotted_problems(f"{node.module}.{name.name}"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id in aliases and node.attr not in public:
                    yield f"sfr_batch has no {node.attr}"
                if node.value.id == "table" and not hasattr(EmbeddingTable, node.attr):
                    yield f"a table has no {node.attr}"
    for code in readme.code:
        if found := re.match(r"sfr\.(\w+)\(|sfr_batch\.(\w+)\b(?!\.)", code):
            yield from dotted_problems(f"sfr_batch.{found[1] or found[2]}")
        elif (found := re.match(r"table\.(\w+)\(", code)) and not hasattr(EmbeddingTable, found[1]):
            yield f"a table has no {found[1]}"


def dotted_problems(name: str) -> Iterator[str]:
    module, _, last = name.rpartition(".")
    try:
        there = last in dir(importlib.import_module(module)) or importlib.util.find_spec(name) is not None
    except ImportError:
        there = False
    if not there:
        yield f"{module} has no {last}"


# --- links and files


def anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def link_problems(readme: Page) -> Iterator[str]:
    for link in MARKDOWN.findall(readme.prose):
        if link.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (readme.path.parent / name).resolve() if name else readme.path
        if not target.exists():
            yield f"there is no {link}"
        elif anchor and anchor not in anchors(readme.text if not name else target.read_text(encoding="utf-8")):
            yield f"there is no heading for {link}"
    for code in readme.code:
        ours = code.split("/")[0] in FOLDERS if "/" in code else code.endswith((".py", ".md"))
        below = () if readme.path.parent == ROOT else readme.path.parent.rglob(code)
        if FILE.fullmatch(code) and ours and not (ROOT / code).exists() and not any(below):
            yield f"there is no file {code}"


CHECKS: list[Callable[[Page], Iterator[str]]] = [command_problems, setting_problems, python_problems, link_problems]


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_what_a_readme_says_is_there(path: Path, check: Callable[[Page], Iterator[str]]) -> None:
    assert list(check(page(path))) == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 12_288


def test_the_readme_has_every_command() -> None:
    mentioned = {command[1] for command in page(ROOT / "README.md").commands() if command[0] == "sfr-batch"}
    assert mentioned >= set(command_line().commands)


def test_the_readme_has_the_order_of_packages() -> None:
    from tests.test_policies import ORDER  # which parses all modules

    floors = [floor.split("|") for floor in ORDER.split() if floor != "__init__"]
    drawn = " < ".join(f"{{ {', '.join(floor)} }}" if len(floor) > 1 else floor[0] for floor in floors)
    assert f"`{drawn}`" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_readme_is_linked_from_the_first() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in MARKDOWN.findall(text)}
    assert set(READMES[1:]) <= linked


def test_every_setting_has_its_task() -> None:
    """A setting of a store is one of three sections'."""
    text = (ROOT / "configs" / "README.md").read_text(encoding="utf-8")
    leaves = {name for name in SETTINGS if not any(other.startswith(f"{name}.") for other in SETTINGS)}
    there = {name for name in leaves if f"`{name}`" in text}
    there |= {name for name in leaves if ".storage." in name and f"`corpus.storage.{name.rpartition('.')[2]}`" in text}
    assert leaves - there == set()


# --- planted


PLANTED = [
    ("a wrong option", "```bash\nsfr-batch plan configs/demo.yaml --compair\n```", "--compair"),
    ("a wrong option behind a prompt", "```text\n$ sfr-batch expire demo/table --keep-latest 2\n```", "--keep-latest"),
    ("a wrong option in prose", "Use `sfr-batch sweep TABLE --remove`.", "--remove"),
    ("a wrong value of an option", "```bash\nsfr-batch search demo/table x -k none\n```", "none"),
    ("a missing argument", "```bash\nsfr-batch export demo/table --columns id\n```", "Missing argument 'TARGET'"),
    ("a wrong command", "```bash\nsfr-batch embbed configs/demo.yaml\n```", "no command embbed"),
    ("a wrong command in prose", "Use `sfr-batch expires`.", "no command expires"),
    ("a wrong second command", "```bash\n. x && sfr-batch veriffy configs/demo.yaml\n```", "no command veriffy"),
    ("an unknown setting", "```bash\nsfr-batch embed configs/demo.yaml run.rows=5  # why\n```", "run.rows: unknown"),
    ("an impossible value", "```bash\nsfr-batch embed c.yaml table.delete=all\n```", "table.delete"),
    ("no such config", "```bash\nsfr-batch plan configs/demos.yaml\n```", "configs/demos.yaml"),
    ("an unknown setting in prose", "Set `run.lease_seconds: 60`.", "no setting run.lease_seconds"),
    ("an unknown setting in YAML", "```yaml\ncorpus:\n  paths: x\n```", "corpus.paths"),
    ("no such script", "```bash\npython jobs/embedd.py configs/demo.yaml\n```", "embedd.py"),
    ("a wrong option of a script", "```bash\npython jobs/demo.py --docs 3\n```", "--docs"),
    ("a wrong option of a job", "```bash\nray job submit -- python jobs/backfill.py c.yaml --dry\n```", "--dry"),
    ("a wrong option of Ray", "```bash\nray job submit --dir . -- python jobs/embed.py c.yaml\n```", "--dir"),
    ("a wrong module", "```bash\npython -m jobs.benchmarks encoder\n```", "jobs.benchmarks"),
    ("a wrong benchmark", "```bash\npython -m tests.chaos writer --kills 3\n```", "no command writer"),
    ("no such extra", "```bash\npip install -e '.[demo,tests]'\n```", "no extra tests"),
    ("a command nobody knows", "```bash\nsfrbatch plan configs/demo.yaml\n```", "no check knows"),
    ("no such test", "See `pytest tests/test_nothing.py`.", "test_nothing.py"),
    ("not Python", "```python\ntable = = 3\n```", "not Python"),
    ("a missing name", "```python\nimport sfr_batch as sfr\n\nsfr.open_tabel('x')\n```", "no open_tabel"),
    ("a missing import", "```python\nfrom sfr_batch import Embedder\n```", "no Embedder"),
    ("a missing inner import", "```python\nfrom sfr_batch.errors import Oops\n```", "sfr_batch.errors has no Oops"),
    ("a missing module", "```python\nfrom sfr_batch.nothing import x\n```", "sfr_batch.nothing has no x"),
    ("a missing method", "```python\ntable.to_polars()\n```", "a table has no to_polars"),
    ("a missing name in prose", "Use `sfr.promote_forth(pointer)`.", "no promote_forth"),
    ("a dead link", "[here](configs/nothing.md)", "no configs/nothing.md"),
    ("a dead anchor", "# One\n\n[here](#two)", "no heading for #two"),
    ("a dead anchor elsewhere", "[here](configs/README.md#no-such-task)", "no heading for configs/README.md"),
    ("a missing file", "See `tests/test_nothing.py`.", "no file tests/test_nothing.py"),
    ("a missing folder", "See `sfr_batch/nothing`.", "no file sfr_batch/nothing"),
]


@pytest.mark.parametrize(("text", "expected"), [p[1:] for p in PLANTED], ids=[p[0] for p in PLANTED])
def test_planted_defects_are_found(text: str, expected: str) -> None:
    planted = Page(ROOT / "README.md", text)
    found = [problem for check in CHECKS for problem in check(planted)]
    assert len(found) == 1
    assert expected in found[0]


def test_what_is_right_is_no_defect() -> None:
    right = """
        ```bash
        sfr-batch audit demo/table --against configs/demo.yaml corpus.id=null && find demo  # and more
        python -m tests.chaos jobs --kills 3
        ```

        ```yaml
        select:
          shards: ["2026/*.parquet"]
        ```

        `sfr-batch embed`, `table.audit()`, `table.json`, `run.lease_s`, `config.json`, `sfr_batch.open_table`,
        `pytest`, `model.overflow: chunk`, `data/*.parquet`, `demo/table`, [there](pyproject.toml), [out](https://www.ray.io)
        """
    right = "\n".join(line.removeprefix("        ") for line in right.splitlines())
    assert [problem for check in CHECKS for problem in check(Page(ROOT / "README.md", right))] == []

"""The command `evaluate`: the scores of a model, beside published ones."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

import sfr_batch as api  # its names are loaded when they are used: help is quick
from sfr_batch.cli.options import report_errors
from sfr_batch.errors import ConfigError
from sfr_batch.format.on_screen import shown_message
from sfr_batch.pipeline import interrupt

if TYPE_CHECKING:
    from sfr_batch.evaluation.report.report import Evaluation
    from sfr_batch.evaluation.results import TaskResult

_FILE = click.Path(dir_okay=False)


@click.command()
@click.argument("config", type=_FILE)
@click.argument("overrides", nargs=-1, metavar="[SECTION.FIELD=VALUE]...")
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="Only this task; repeatable.")
@click.option("--json", "json_file", type=_FILE, help="Write the report as JSON to this file.")
@click.option("--markdown", type=_FILE, help="Write the report as Markdown to this file.")
@click.option("--picture", type=_FILE, help="Write a picture of the scores, a PNG, to this file.")
@click.option("--check", is_flag=True, help="Exit with 1 if a score differs from the published one.")
def evaluate(
    config: str,
    overrides: tuple[str, ...],
    tasks: tuple[str, ...],
    json_file: str | None,
    markdown: str | None,
    picture: str | None,
    check: bool,
) -> None:
    """Score the model of CONFIG in tasks such as those of MTEB, beside published scores.

    evaluation.tasks says where the data of each task lie; the 56 tasks of the model card are known by name:

        sfr-batch evaluate configs/demo.yaml evaluation.tasks.SciFact=data/scifact

    All data are checked first. Then the main job embeds texts, as `embed` would, into tables below evaluation.path. Run
    it again at any time: what is embedded stays, tasks that are done are not scored again.

    A score differs from the published one if it lies more than 0.1 point away, of clustering
    (its mean over ten seeds) 2 points.

    Exit codes: 0 done, 1 failed or, with --check, a score differs, 2 the command or config is wrong, 130 stopped by
    Ctrl-C, 143 by SIGTERM.
    """
    files = {"--json": json_file, "--markdown": markdown, "--picture": picture}
    from sfr_batch.evaluation.report.picture import need_matplotlib

    with report_errors(changes=True, stopped=interrupt.state):
        for option, file in files.items():
            if file and not Path(file).absolute().parent.is_dir():
                raise ConfigError(f"{option} {file}: there is no folder {Path(file).absolute().parent}.")
        if picture:
            need_matplotlib()  # an hour later, all but the picture would be there
        found = api.evaluate(config, overrides, tasks=tasks, each=_say)
        click.echo(found.describe())
        for option, file in files.items():
            if file:
                _write(option, file, found)
        sys.exit(1 if check and found.differing else 0)


def _say(result: "TaskResult") -> None:
    click.echo(shown_message(f"{result.task.name}: {result.task.main_score} {100 * result.main_score:.3f}"), err=True)


_CONTENTS: "dict[str, Callable[[Evaluation], bytes]]" = {
    "--json": lambda found: found.to_json().encode(),
    "--markdown": lambda found: found.to_markdown().encode(),
    "--picture": lambda found: found.picture(),
}


def _write(option: str, file: str, found: "Evaluation") -> None:
    from sfr_batch.storage.local_files import write_bytes

    try:
        write_bytes(Path(file), _CONTENTS[option](found))
    except OSError as error:
        raise ConfigError(f"{option} {file} cannot be written: {error.strerror}") from None

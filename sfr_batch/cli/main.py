"""The command line: from arguments to a library call, and from exceptions to a message and an exit code.

The exit codes stand in jobs/README.md, "Failures and restarts". Every command stops within two seconds of a signal at
any moment, see `start`.
"""

import json
import sys
from pathlib import Path

import click

import sfr_batch as api  # its names are loaded when they are used: help is quick
from sfr_batch.cli.encode import encode
from sfr_batch.cli.evaluate import evaluate
from sfr_batch.cli.init import init
from sfr_batch.cli.maintenance import KEEPING
from sfr_batch.cli.options import DOES_THE_REST, ENDPOINT, NOTHING, on_ray, report_errors, show_objects
from sfr_batch.cli.reading import READING
from sfr_batch.cli.report import report
from sfr_batch.cli.score import score
from sfr_batch.cli.search import search
from sfr_batch.cli.status import status
from sfr_batch.cli.submit import submit
from sfr_batch.errors import ConfigError, SfrBatchError, counted
from sfr_batch.format.on_screen import shown_message
from sfr_batch.pipeline import interrupt

_CONFIG = click.argument("config", type=click.Path(dir_okay=False))
_OVERRIDES = click.argument("overrides", nargs=-1, metavar="[SECTION.FIELD=VALUE]...")
_FILE = click.Path(dir_okay=False)


_IN_ORDER_OF_USE = {
    "init": "Look at a corpus and write a first config.",
    "verify": "Check the model before a long run.",
    "plan": "Show what `embed` would do. Writes nothing.",
    "embed": "Embed what is missing and publish one new snapshot.",
    "submit": "Have a Ray cluster embed, as a job.",
    "status": "Show the last snapshots, and the runs that go on.",
    "search": "Find the rows that are nearest to a query, or to many.",
    "encode": "Print the vectors of texts, by the model of a table.",
    "score": "Score a table with questions of your own, or compare two.",
    "evaluate": "Score a model beside published scores.",
    "snapshots": "List the snapshots, oldest first.",
    "runs": "List the attempts of runs, with time and cost.",
    "report": "Show what a run did and took; as a page, too.",
    "audit": "Check every promise of a table.",
    "repair": "Have the rows of lost or damaged files again.",
    "export": "Write the live rows as Parquet files for others.",
    "changes": "Show what turns one snapshot into another.",
    "view": "Print SQL with which another engine reads a table.",
    "promote": "Make a pointer point to a table.",
    "compact": "Rewrite small data files, and files of dead rows.",
    "expire": "Remove old snapshots, and the files that only they need.",
    "sweep": "Remove objects that no snapshot needs.",
}
"""Each command and its line in `--help`, which has 60 characters on a terminal of 80 columns."""


class _Commands(click.Group):
    """The commands, which `--help` lists in the order in which they are used."""

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        cmd.short_help = _IN_ORDER_OF_USE[name or str(cmd.name)]
        super().add_command(cmd, name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in _IN_ORDER_OF_USE if name in self.commands]


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(api.__version__, prog_name="sfr-batch")
def main() -> None:
    """Turn a sharded corpus into a table of embeddings, on your own GPUs.

    First run, resume after a crash and nightly refresh are the same command:

        sfr-batch embed configs/demo.yaml

    It is safe to repeat and safe to kill. Readers see finished snapshots only.

    Exit codes: 0 done, 1 failed, 2 the command or config is wrong. All are in jobs/README.md, "Failures and restarts".
    """


@main.command()
@_CONFIG
@_OVERRIDES
@click.option("--compare", is_flag=True, help="Read the changed shards, to find rows that already have a vector.")
@click.option("--no-sample", is_flag=True, help="Only counts from metadata: no tokens, hours and price.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan and its price as one JSON object.")
def plan(config: str, overrides: tuple[str, ...], compare: bool, no_sample: bool, as_json: bool) -> None:
    """Show what `embed` would do and what it would cost. Writes nothing, needs no GPU.

    It tokenizes a sample of the corpus, for 6 seconds: tokens, padding, rejects, size of the output, and, with a rate,
    hours; with run.price_per_hour also the price. `verify` measures a rate, and so does each run.

    If the corpus has changed, the numbers are an upper bound. --compare reads the changed shards, in this process, and
    shows how many rows are new, changed or deleted.

    Exit codes: 0 done, 1 failed, 2 the command or config is wrong.
    """
    from sfr_batch.planning.plan_json import plan_as_json

    with report_errors():
        made = api.plan(config, overrides, compare=compare)
        price = None if no_sample or made.lost else api.price(made)
        if as_json:
            found = {"plan": plan_as_json(made), "price": price.to_json() if price else None}
            click.echo(json.dumps(found, ensure_ascii=False, allow_nan=False))
            return
        click.echo(made.describe(price.lines() if price else ()))


@main.command()
@_CONFIG
@_OVERRIDES
def embed(config: str, overrides: tuple[str, ...]) -> None:
    """Embed what is missing and publish one new snapshot.

    Run it again at any time: after a crash it continues, on a finished table it does nothing. Overrides replace
    settings of CONFIG, e.g. `table.path=s3://bucket/other`.

    It runs in this process, on a Ray of its own, or on the Ray cluster whose node this machine is: run.ray_address,
    RAY_ADDRESS. To run it on a cluster from elsewhere: `sfr-batch submit CONFIG`.
    Relative paths in CONFIG begin in the working directory, which for such a job is the folder that was uploaded.

    SIGTERM and Ctrl-C stop it within 2 seconds, at any moment. The last line says what is committed; the same command
    continues from there.

    Exit codes: 0 done, 1 failed, 2 the command or config is wrong, 130 stopped by Ctrl-C, 143 by SIGTERM.
    """
    with report_errors(changes=True, stopped=interrupt.state):
        click.echo(api.embed(config, overrides).describe())


@main.command()
@_CONFIG
@_OVERRIDES
@click.option("--golden", type=_FILE, help="Compare the model with the ids and vectors in this file.")
@click.option("--record", type=_FILE, help="Write ids and vectors to this new file if no check failed.")
@click.option(
    "--seconds",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Time to measure throughput; 0: skip.",
)
def verify(config: str, overrides: tuple[str, ...], golden: str | None, record: str | None, seconds: float) -> None:
    """Check the model before a long run: weights, tokenizer, prompts, vectors, speed.

    Prints one line per check: PASS, FAIL or SKIP. Loads the model on model.device of this machine. Needs no corpus, no
    table and no Ray. If no check failed, a local model folder without a lock file gets one.

    Exit codes: 0 no check failed, 1 a check failed, 2 the command or config is wrong.
    """
    with report_errors(changes=record is not None, stopped="the checks are not complete"):
        found = api.verify(
            config, overrides, golden=golden, record=record, seconds=seconds, each=lambda check: click.echo(str(check))
        )
        click.echo(found.summary())
        sys.exit(0 if found.ok else 1)


@main.command()
@click.argument("table")
@click.option("--against", type=_FILE, metavar="CONFIG", help="Compare with the corpus of this config, too.")
@_OVERRIDES
@click.option("--snapshot", type=click.IntRange(1), help="Number of the snapshot to audit; default: the newest.")
@click.option("--json", "json_file", type=_FILE, help="Write all findings to this file.")
@on_ray
@ENDPOINT
def audit(
    table: str,
    against: str | None,
    overrides: tuple[str, ...],
    snapshot: int | None,
    json_file: str | None,
    ray_address: str | None,
    shared_path: bool,
    endpoint_url: str | None,
) -> None:
    """Check every promise of TABLE: read every byte of a snapshot, change nothing.

    Prints one line per promise: PASS, FAIL or SKIP. Below a FAIL are examples, with file, row and id, and what to do.
    It may run beside `embed`: files that are not published yet are reported as orphans, which is no failure.

    --against also reads every row of the corpus: each must be in the table, with a vector of today's text, or in the
    rejects, and the table must contain nothing else. Overrides apply to that config; its table.path is ignored. If the
    corpus has changed since the last `embed`, the audit fails and says so.

    Exit codes: 0 every promise is kept, 1 a promise is broken or the table cannot be read, 2 the command or config is
    wrong.
    """
    from sfr_batch.storage.local_files import write_text

    storage = api.StorageSettings(endpoint_url=endpoint_url) if endpoint_url else None
    with report_errors(changes=json_file is not None):
        if overrides and not against:
            raise ConfigError(f"{overrides[0]}: overrides need --against CONFIG.")
        if json_file and not Path(json_file).absolute().parent.is_dir():
            raise ConfigError(f"--json {json_file}: there is no folder {Path(json_file).absolute().parent}.")
        with api.on_ray(ray_address, shared_path=shared_path, rows=_rows_of(table, storage)) as executor:
            found = api.audit(
                table,
                against,
                overrides,
                snapshot=snapshot,
                storage=storage,
                each=lambda finding: click.echo(shown_message(str(finding))),
                executor=executor,
            )
        click.echo(found.brief())
        if json_file:
            try:
                write_text(Path(json_file), found.to_json())
            except OSError as error:
                raise ConfigError(f"--json {json_file} cannot be written: {error.strerror}") from None
        sys.exit(0 if found.ok else 1)


def _rows_of(table: str, storage: "api.StorageSettings | None") -> int:
    """Number of live rows; 0 if that cannot be read, which the audit tells."""
    try:
        newest = api.open_table(table, storage).latest()
    except SfrBatchError:
        return 0
    return newest.manifest.counts.vectors if newest else 0


@main.command()
@click.argument("table")
@click.option("--older-than", default="7d", show_default=True, help="Least age of what is removed: 7d, 36h or 90m.")
@click.option("--delete/--dry-run", default=False, help="Remove the leftovers, or only list them (default).")
@ENDPOINT
def sweep(table: str, older_than: str, delete: bool, endpoint_url: str | None) -> None:
    """Remove objects of TABLE that no snapshot needs: leftovers of runs that died or lost a race.

    Without --delete it only lists them. Nothing that a snapshot needs is ever removed.

    Files of an unfinished run count as leftovers when they are older than --older-than, and so does its log. If you
    want its work, finish that run first, with the same `sfr-batch embed`. Logs of runs that have published stay.

    Before it deletes what a run might still use, it publishes a snapshot that bars these names. A run that planned to
    use them then plans again.

    Exit codes: 0 done, 1 failed, 2 the command is wrong.
    """
    from sfr_batch.table.commit.expiry import parse_duration

    with report_errors(changes=delete, stopped=DOES_THE_REST if delete else NOTHING):
        parse_duration(older_than, "--older-than")  # before anything is opened
        opened = api.open_table(table, api.StorageSettings(endpoint_url=endpoint_url), follow=False)
        if opened.latest() is None:
            click.echo("Nothing is published yet. Nothing was removed.")
            return
        orphans = opened.maintenance.sweep(older_than=older_than, dry_run=not delete)
        show_objects(orphans.objects)
        what = f"{counted(len(orphans.objects), 'object')}, {counted(orphans.bytes, 'byte')}, older than {older_than}"
        if not orphans.objects:
            click.echo(f"No leftovers older than {older_than}.")
        elif delete:
            barred = f" Barred {counted(len(orphans.condemn), 'split name')} from reuse." if orphans.condemn else ""
            click.echo(f"Removed {what}.{barred}")
        else:
            click.echo(f"Would remove {what}. Nothing was removed; --delete does it.")


for _command in (init, submit, search, encode, score, evaluate, status, report, *READING, *KEEPING):
    main.add_command(_command)

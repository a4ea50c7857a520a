"""A backfill as a Ray job: embed a part of the corpus, or embed again under a label.

    ray job submit --working-dir . -- python jobs/backfill.py configs/x.yaml select.partitions='{date: 2026-11-01..}'
    python jobs/backfill.py configs/x.yaml table.generation=2026-11 select.where="lang = 'de'" --dry-run

The same as `sfr-batch embed` with these settings, but it refuses a command without a selection, a label or a limit:
that would be the nightly run.
"""

import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sfr_batch.cli.start import run

if __name__ == "__main__":  # before the imports below, which take a moment in which Ctrl-C must be a sentence, too
    run(lambda: import_module("jobs.backfill").main)

import click

from sfr_batch import api
from sfr_batch.cli import main as cli
from sfr_batch.cli.options import report_errors
from sfr_batch.config.loading import load_config
from sfr_batch.errors import ConfigError


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("config", type=click.Path(dir_okay=False))
@click.argument("overrides", nargs=-1, metavar="[SECTION.FIELD=VALUE]...")
@click.option("--dry-run", is_flag=True, help="Only show what would be done; reads the selected shards.")
def main(config: str, overrides: tuple[str, ...], dry_run: bool) -> None:
    """Check that there is something to backfill, then embed."""
    with report_errors():
        settings = load_config(config, overrides)
        if settings.select.everything and not settings.table.generation and settings.select.limit is None:
            raise ConfigError(
                "Nothing to backfill: set select.shards, select.partitions, select.ids, select.where, select.rejects "
                "or select.limit, or set table.generation to embed again. To embed everything that changed, run "
                "jobs/embed.py."
            )
    if dry_run:
        with report_errors():
            click.echo(api.plan(config, overrides, compare=True).describe())
        return
    cli.main(["embed", config, *overrides])

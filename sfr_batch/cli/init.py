"""The command `init`: a first config of one's own."""

import os
from pathlib import Path

import click

from sfr_batch.cli.options import report_errors
from sfr_batch.errors import ConfigError
from sfr_batch.format.on_screen import shown_message
from sfr_batch.storage.local_files import write_atomically


@click.command()
@click.argument("corpus", required=False)
@click.option(
    "-o",
    "--output",
    default="config.yaml",
    show_default=True,
    type=click.Path(),
    help="Config to write, a new file.",
)
@click.option("--text", metavar="COLUMN", help="The column to embed; default: the one that looks most like it.")
@click.option("--table", metavar="PATH", help="Where the table shall be; default: a free place beside the corpus.")
@click.option("--model", metavar="PATH", help="Path or hub name of the model; default: one that this machine can run.")
@click.option("--endpoint-url", help="S3 endpoint of corpus and table; default: the AWS environment variables.")
def init(
    corpus: str | None,
    output: str,
    text: str | None,
    table: str | None,
    model: str | None,
    endpoint_url: str | None,
) -> None:
    """Look at CORPUS and write a first config: which column is the id, which the text, where the table goes.

    CORPUS is a file, a folder, a pattern or an s3:// path, also of a Delta or Iceberg table; default: the folder corpus
    or data here. It lists at most 2,000 names and reads the beginning of six files. It says what it saw and how sure it
    is. `sfr-batch plan` takes the config as it is; read it before you embed. A file that exists is never overwritten.

    Exit codes: 0 done, 1 failed or no column looks like a text, 2 the command is wrong.
    """
    from sfr_batch.planning.first_config import first_config  # loads what help can do without

    with report_errors(changes=True, stopped="nothing was written"):
        if os.path.lexists(output):
            raise ConfigError(f"{output} exists already, and is not overwritten. Name another file: -o FILE.")
        config = first_config(corpus, text=text, table=table, model=model, endpoint_url=endpoint_url)
        try:
            write_atomically(Path(output), config.text, replace=False)
        except FileExistsError:
            raise ConfigError(f"{output} was written by somebody else meanwhile. Name another file: -o FILE.") from None
        except OSError as error:
            raise ConfigError(f"{output} cannot be written: {error.strerror}. Name another file: -o FILE.") from None
        click.echo(shown_message(config.describe()))
        click.echo(f"Wrote {output}. Read it, then: sfr-batch plan {output}")

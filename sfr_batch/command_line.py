"""What the commands share: options, and how errors are told."""

import contextlib
import sys
from collections.abc import Iterator

import click

from sfr_batch.errors import ConfigError, SfrBatchError

ENDPOINT = click.option("--endpoint-url", help="S3 endpoint of the table; default: the AWS environment variables.")


@contextlib.contextmanager
def telling_errors() -> Iterator[None]:
    """Our own errors become a sentence on stderr and an exit code."""
    try:
        yield
    except SfrBatchError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        click.echo("interrupted: what is committed stays; the same command continues with the rest", err=True)
        sys.exit(130)

"""What the commands share: options, lists of objects, and how errors are told."""

import contextlib
import sys
from collections.abc import Iterator, Sequence

import click

from sfr_batch.errors import ConfigError, SfrBatchError
from sfr_batch.storage.store import ObjectInfo

ENDPOINT = click.option("--endpoint-url", help="S3 endpoint of the table; default: the AWS environment variables.")
_SHOWN = 20


def show_objects(objects: Sequence[ObjectInfo]) -> None:
    """The first few of them with their sizes, and how many more there are."""
    for info in objects[:_SHOWN]:
        click.echo(f"  {info.key}  {info.size:,} bytes")
    if len(objects) > _SHOWN:
        click.echo(f"  and {len(objects) - _SHOWN:,} more")


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Our own errors become a sentence on stderr and an exit code."""
    try:
        yield
    except SfrBatchError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        click.echo("interrupted: what is committed stays; the same command continues with the rest", err=True)
        sys.exit(130)

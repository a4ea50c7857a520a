"""What the commands share: an option, lists of objects, and how an error becomes a message and an exit code."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

import click

from sfr_batch.cli import signals, streams
from sfr_batch.errors import ConfigError, SfrBatchError, counted
from sfr_batch.format.on_screen import shown_message
from sfr_batch.storage.store import ObjectInfo

ENDPOINT = click.option("--endpoint-url", help="S3 endpoint of the table; default: the AWS environment variables.")
_RAY_ADDRESS = click.option(
    "--ray-address",
    metavar="ADDRESS",
    help="Cluster to work on: auto, local, none or HOST:PORT. Default: none; for a large table RAY_ADDRESS.",
)
_SHARED_PATH = click.option("--shared-path", is_flag=True, help="All nodes of the cluster share local paths.")
_SHOWN = 20
NOTHING = "nothing was changed"
DOES_THE_REST = "it may be done in part; the same command does the rest"
"""What a signal finds of a command that may be killed at any moment."""


def on_ray(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a command that can work on a Ray cluster: the arguments of `sfr_batch.on_ray`."""
    return _RAY_ADDRESS(_SHARED_PATH(command))


def show_objects(objects: Sequence[ObjectInfo]) -> None:
    """Print the first few objects with their sizes, and the number of the others."""
    for info in objects[:_SHOWN]:
        click.echo(f"  {info.key}  {counted(info.size, 'byte')}")
    if len(objects) > _SHOWN:
        click.echo(f"  and {len(objects) - _SHOWN:,} more")


@contextlib.contextmanager
def report_errors(*, changes: bool = False, stopped: str | Callable[[], str] = NOTHING) -> Iterator[None]:
    """Turn our errors into a message on stderr and an exit code.

    changes: whether the command changes something, so that its exit code is about that, and not about stdout. stopped:
    what a signal finds, at any moment of the command, for its last words.
    """
    signals.when_stopped(stopped)
    if changes:
        streams.stdout_is_a_display()
    try:
        yield
    except SfrBatchError as error:
        message = shown_message(str(error))
        if trace := getattr(error, "trace", ""):  # of an error on a worker that nobody foresaw
            from sfr_batch.cli import stack_traces

            message += f"\n{stack_traces.kept(trace)}"
        click.echo(f"error: {message}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt:
        click.echo(signals.last_words("SIGINT"), err=True)
        sys.exit(130)

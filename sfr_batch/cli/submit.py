"""The command `submit`: have a cluster do what `embed` does."""

import json
from typing import TYPE_CHECKING

import click

import sfr_batch as api  # its names are loaded when they are used: help is quick
from sfr_batch.cli.options import report_errors
from sfr_batch.errors import ConfigError

if TYPE_CHECKING:
    from sfr_batch.pipeline.submission.submitted_job import SubmittedJob


@click.command()
@click.argument("config", type=click.Path(dir_okay=False))
@click.argument("overrides", nargs=-1, metavar="[SECTION.FIELD=VALUE]...")
@click.option("--address", metavar="URL", help="Dashboard of the cluster, e.g. http://head:8265; default: RAY_ADDRESS.")
@click.option("--installed", is_flag=True, help="Send the config alone: the nodes have this version of sfr-batch.")
@click.option("--wait", is_flag=True, help="Wait for the end of the job, and show what it took.")
@click.option("--follow", is_flag=True, help="Show the log of the job until its end.")
@click.option("--watch", is_flag=True, help="Show where its run is, from now until its end.")
@click.option("--json", "as_json", is_flag=True, help="Print the job, and with --wait its account, as one JSON object.")
def submit(
    config: str,
    overrides: tuple[str, ...],
    address: str | None,
    installed: bool,
    wait: bool,
    follow: bool,
    watch: bool,
    as_json: bool,
) -> None:
    """Have a Ray cluster do what `embed` does with CONFIG, as a job. Returns at once; the job goes on by itself.

    What travels is the config, with ${NAME} as references, and this package; nothing of the working directory. So paths
    in CONFIG are s3:// or absolute. Variables, weights and other packages are those of the nodes. The token of the
    cluster is sent if RAY_AUTH_MODE=token: RAY_AUTH_TOKEN or ~/.ray/auth_token.

    The same command while its job is pending or running names that job and sends nothing. After it has ended, a new
    job continues.

    Exit codes: 0 done, 1 the cluster or, with --wait, --follow or --watch, the job failed, 2 the command or config is
    wrong, 130 stopped by Ctrl-C, which ends the waiting only.
    """
    from sfr_batch.format.on_screen import printable

    going = ["nothing was submitted, or the job goes on; the same command finds it"]
    with report_errors(changes=not as_json, stopped=lambda: going[0]):
        shows = [name for name, given in (("--follow", follow), ("--watch", watch), ("--json", as_json)) if given]
        if len(shows) > 1:
            raise ConfigError(f"Give one of {', '.join(shows)}.")
        job = api.submit(config, overrides, address=address, installed=installed)
        going[0] = f"the job goes on; to stop it: {_ray('stop', job)}"
        if not as_json:
            click.echo(_describe(job))
        if follow:
            for piece in job.follow():
                click.echo(printable(piece), nl=False)
        if watch:
            job.watch()
        account = job.result() if wait or follow or watch else None
        if as_json:
            found = {"id": job.id, "address": job.address, "table": job.table, "new": job.new, "status": job.status()}
            found |= {"account": account.as_json()} if account else {}
            click.echo(json.dumps(found, ensure_ascii=False, allow_nan=False))
        elif account and wait:
            click.echo(account)


def _describe(job: "SubmittedJob") -> str:
    done = "submitted" if job.new else f"{job.status()} already; nothing was submitted"
    lines = {
        "job": f"{job.id}, {done}",
        "table": job.table,
        "watch": f"sfr-batch status {job.table} --watch",
        "log": _ray("logs --follow", job),
        "stop": _ray("stop", job),
    }
    return "\n".join(f"{name:<6} {text}" for name, text in lines.items())


def _ray(command: str, job: "SubmittedJob") -> str:
    return f"ray job {command} --address {job.address} {job.id}"

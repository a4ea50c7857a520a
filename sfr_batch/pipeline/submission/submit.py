"""`submit`: from a config to a job on a cluster; `job`: from an id to its handle. The table of contents of submitting.

All that can be known to be wrong is said before anything is sent.
"""

import json
import re
import socket
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sfr_batch.config.loading import ConfigOrPath, any_config
from sfr_batch.config.overrides import Overrides
from sfr_batch.config.settings import Config
from sfr_batch.errors import ConfigError
from sfr_batch.format.library_versions import installed as versions
from sfr_batch.format.records import user
from sfr_batch.pipeline.notebook_display import ask_for_no_widgets, in_notebook
from sfr_batch.pipeline.submission import job_server, package, travelling
from sfr_batch.pipeline.submission.cluster_job import ClusterJob
from sfr_batch.pipeline.submission.job_outcome import BY, STORAGE, TABLE
from sfr_batch.pipeline.submission.submitted_job import SubmittedJob

if TYPE_CHECKING:
    from sfr_batch.pipeline.submission.jobs_api import JobsApi

_SLUG = 30
_DIGITS = 12
"""Of a digest, in an id."""
_IDS_SHOWN = 5


def submit(
    config: "ConfigOrPath",
    overrides: "Overrides" = (),
    *,
    address: str | None = None,
    installed: bool = False,
    **settings: Any,
) -> SubmittedJob:
    """Have a Ray cluster run `embed` with this config, as a job; returns a handle on it at once.

        job = sfr.submit("job.yaml", {"select.shards": ["2026-11-*"]}, address="http://head:8265")
        job.wait(), job.result()

    The same submission while its job is pending or running returns that job; after it has ended a new one continues.
    What travels: the config, with `${NAME}` as references, and this package. installed: the nodes have it already, in
    this version, so only the config travels. address: of the cluster's dashboard; default: RAY_API_SERVER_ADDRESS,
    RAY_ADDRESS, http://127.0.0.1:8265. The token is sent if RAY_AUTH_MODE=token. overrides, settings: see
    `load_config`.

    Raises ConfigError before anything is sent, for settings, for paths that mean something else on the cluster, for the
    address and for the token; ClusterError if the cluster refuses.
    """
    ready = travelling.check(any_config(config, overrides, settings))
    server = job_server.find(address)
    packed = package.pack(ready, code=not installed)
    api = _connect(server)
    if not installed:
        _check_version(api)
    name = _name_of(ready, packed)
    last, number = _newest(api.jobs(), name)
    if last and not last.is_over:
        return SubmittedJob(api, last)
    submission_id = f"{name}-{number + 1}"
    api.upload(packed)
    new = api.submit(submission_id, packed, _metadata(ready))  # else somebody was first, with the same
    return SubmittedJob(api, _existing(api, submission_id), new=new)


def job(submission_id: str, *, address: str | None = None) -> SubmittedJob:
    """The handle on a job that was submitted earlier, from any machine. address: as for `submit`.

    Raises ConfigError if the cluster has no such job, and if it cannot be reached.
    """
    if not isinstance(submission_id, str):
        raise ConfigError(f"The id of a job is a text, and not {type(submission_id).__name__}.")
    api = _connect(job_server.find(address))
    return SubmittedJob(api, _existing(api, submission_id.strip()))


def _connect(server: job_server.JobServer) -> "JobsApi":
    if in_notebook():
        ask_for_no_widgets()
    from sfr_batch.pipeline.submission.jobs_api import JobsApi  # imports ray, which takes a second

    return JobsApi(server)


def _existing(api: "JobsApi", submission_id: str) -> ClusterJob:
    if found := api.job(submission_id) if submission_id and "/" not in submission_id else None:
        return found
    newest = sorted(api.jobs(), key=lambda other: other.started)[-_IDS_SHOWN:]
    known = f"Its last ones are {', '.join(other.id for other in reversed(newest))}." if newest else "It has none."
    raise ConfigError(f"The Ray cluster at {api.server} has no job {submission_id!r}. {known}")


def _name_of(config: Config, packed: package.Package) -> str:
    """The beginning of the ids of this submission: the same config and package, the same name."""
    last = travelling.table_uri(config).rpartition("/")[2].lower()
    slug = re.sub(r"[^a-z0-9]+", "-", last)[:_SLUG].strip("-")
    return "-".join(filter(None, ("sfr", slug, packed.digest[:_DIGITS])))


def _newest(jobs: Iterable[ClusterJob], name: str) -> tuple[ClusterJob | None, int]:
    """The last job of a submission, and its number; 0 if there is none."""
    numbered = {
        int(found[1]): job for job in jobs if (found := re.fullmatch(rf"{re.escape(name)}-(\d{{1,9}})", job.id))
    }
    number = max(numbered, default=0)
    return numbered.get(number), number


def _metadata(config: Config) -> Mapping[str, str]:
    """What everybody may read: no secret, only references."""
    found = {TABLE: travelling.table_uri(config), BY: f"{user()}@{socket.gethostname()}"}
    if storage := config.table.storage.model_dump(mode="json", exclude_defaults=True):
        found[STORAGE] = json.dumps(storage)
    return found


def _check_version(api: "JobsApi") -> None:
    """Raises ConfigError if the cluster has a Ray for which this package is not made."""
    own = versions(["ray"]).get("ray", "")
    if own and api.ray_version.split(".")[:2] != own.split(".")[:2]:
        raise ConfigError(
            f"The Ray cluster at {api.server} has Ray {api.ray_version}, and this sfr-batch works with Ray "
            f"{'.'.join(own.split('.')[:2])}. Install that on the cluster, or, if its image has an sfr-batch of its "
            "own, send the config alone: --installed (installed=True)."
        )

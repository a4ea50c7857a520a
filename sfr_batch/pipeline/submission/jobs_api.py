"""Ray's Jobs API, over HTTP: what jobs there are, a new one, its logs, its end. Every failure is one sentence.

Ray's client does the requests. Differences: an address that is given counts, whatever RAY_ADDRESS says; the token is
that of the environment of now; no request waits for ever. Knows jobs; knows no run.
"""

import asyncio
import contextlib
import logging
import queue
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import ray
import requests
from ray.dashboard.modules.dashboard_sdk import SubmissionClient
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from sfr_batch.errors import ClusterError, ConfigError
from sfr_batch.format.on_screen import shown
from sfr_batch.pipeline import clusters
from sfr_batch.pipeline.submission import job_server
from sfr_batch.pipeline.submission.cluster_job import ClusterJob
from sfr_batch.pipeline.submission.job_server import JobServer
from sfr_batch.pipeline.submission.package import Package

_CONNECT_S = 5.0
_HELLO_S, _ANSWER_S = 10.0, 60.0
"""Seconds without a byte of the first answer, and of later ones: a head may be busy."""
_TAKEN = "already exists"
"""In Ray's refusal of an id that another job has."""
_BEGINS = "No available agent"
"""In Ray's refusal while no node of the cluster takes jobs yet, as in the first seconds of a head."""
_BEGIN_S, _PAUSE_S = 60.0, 1.0
"""Seconds for which a cluster may begin, and between two attempts."""
_NEVER = object()


class _Refused(Exception):
    """An answer that is no success."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code, self.text = code, text


class _Client(JobSubmissionClient):  # type: ignore[misc]  # Ray has no types
    """Ray's client of one server, with our sentences."""

    def __init__(self, server: JobServer) -> None:
        self.server = server
        self.known = False
        """Whether Ray has answered there."""
        logging.getLogger(JobSubmissionClient.__module__).setLevel(logging.WARNING)  # it tells when a log ends
        self._client_ray_version = ray.__version__
        # Past the constructor of JobSubmissionClient, which would take RAY_ADDRESS in place of the address.
        verify = job_server.trusted(server) or True
        SubmissionClient.__init__(self, address=server.url, headers=job_server.headers(server), verify=verify)
        if getattr(self, "_ssl_context", None) is None:
            self._ssl_context = True  # the same, as aiohttp wants it by now

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        answer_s = _ANSWER_S if self.known else _HELLO_S
        try:
            return super()._do_request(method, endpoint, timeout=(_CONNECT_S, answer_s), **options)
        except AuthenticationError:
            raise ConfigError(clusters.token_refused(str(self.server))) from None
        except requests.exceptions.SSLError as error:
            raise self._failed(self.server.unanswered(_tls_problem(_cause(error)))) from None
        except requests.exceptions.Timeout:
            why = self.server.why_unreachable()
            if not (why or self.known) and self.server.is_joined_there():
                raise self.server.something_else() from None
            raise self._failed(self.server.unanswered(why or f"no answer within {answer_s:g} seconds")) from None
        except requests.exceptions.RequestException as error:
            if why := self.server.why_unreachable():
                raise self._failed(self.server.unanswered(why)) from None
            if self.known:
                raise ClusterError(self.server.unanswered(shown(_cause(error), 200))) from None
            raise self.server.something_else() from None

    def _failed(self, sentence: str) -> Exception:
        return ClusterError(sentence) if self.known else ConfigError(sentence)

    def _raise_error(self, r: Any) -> None:
        raise _Refused(r.status_code, r.text)


def _cause(error: BaseException) -> BaseException:
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error


def _tls_problem(cause: BaseException) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        said = shown(cause.verify_message, 200)
        return f"its certificate is not trusted ({said}); REQUESTS_CA_BUNDLE names a file of those to trust"
    return "it speaks no TLS; write http:// if that is meant"


class JobsApi:
    """The jobs of one cluster."""

    def __init__(self, server: JobServer) -> None:
        """Raises ConfigError if nothing answers there, or another service does, or the token is refused."""
        self.server = server
        self._client = _Client(server)
        self.ray_version = self._hello()

    def _hello(self) -> str:
        answer = self._client._do_request("GET", "/api/version")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if answer.status_code == 200 and (version := str(answer.json()["ray_version"])):
                self._client.known = True
                return version
        if answer.status_code >= 500:  # of a proxy whose head is gone, or of a head that begins
            raise ConfigError(self.server.unanswered(f"HTTP status {answer.status_code}"))
        raise self.server.something_else()

    def jobs(self) -> list[ClusterJob]:
        """All submitted jobs that the cluster remembers. Raises ClusterError, as all calls do."""
        with self._explained():
            return [job for job in map(ClusterJob.of, self._client.list_jobs()) if job.id]

    def job(self, submission_id: str) -> ClusterJob | None:
        """The job with this id; None if there is none."""
        with self._explained():
            try:
                return ClusterJob.of(self._client.get_job_info(submission_id))
            except _Refused as refused:
                if refused.code == 404:
                    return None
                raise

    def upload(self, package: Package) -> bool:
        """Have the cluster keep a package. Returns whether it had to be sent."""
        protocol, _, name = package.uri.partition("://")
        with self._explained():
            if self._client._package_exists(package.uri):
                return False
            answer = self._client._do_request("PUT", f"/api/packages/{protocol}/{name}", data=package.data)
            if answer.status_code != 200:
                self._client._raise_error(answer)
        return True

    def submit(self, submission_id: str, package: Package, metadata: Mapping[str, str]) -> bool:
        """Start a job with a package that the cluster keeps. False if another job has this id. Waits for a cluster that
        has just been started."""
        end = time.monotonic() + _BEGIN_S
        with self._explained():
            while True:
                try:
                    self._client.submit_job(
                        entrypoint=package.entrypoint,
                        submission_id=submission_id,
                        runtime_env={"working_dir": package.uri},
                        metadata=dict(metadata),
                    )
                    return True
                except _Refused as refused:
                    if _TAKEN in refused.text:
                        return False
                    if _BEGINS not in refused.text or time.monotonic() > end:
                        raise
                time.sleep(_PAUSE_S)

    def stop(self, submission_id: str) -> None:
        """Ask a job to end: SIGTERM, and SIGKILL after a while."""
        with self._explained():
            self._client.stop_job(submission_id)

    def logs(self, submission_id: str) -> str:
        """All that a job has printed."""
        with self._explained():
            return str(self._client.get_job_logs(submission_id))

    def follow(self, submission_id: str) -> Iterator[str]:
        """What a job has printed and prints, until it is over, in pieces of one or more lines.

        Raises ClusterError if the connection breaks; the job goes on.
        """
        pieces: queue.Queue[object] = queue.Queue()

        async def tail() -> None:
            async for piece in self._client.tail_job_logs(submission_id):
                pieces.put(piece)

        def run() -> None:
            end: object = _NEVER
            try:
                asyncio.run(tail())
            except Exception as error:  # passed on
                end = error
            finally:
                pieces.put(end)

        # In a thread of its own: notebooks have an event loop that runs already.
        threading.Thread(target=run, name="sfr-job-log", daemon=True).start()
        while not isinstance(piece := pieces.get(), BaseException):
            if piece is _NEVER:
                return
            yield str(piece)
        why = shown(piece, 200) or type(piece).__name__
        raise ClusterError(f"The log of {submission_id} broke off: {why}. The job goes on; ask for its log again.")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except _Refused as refused:
            lines = [line for line in refused.text.splitlines() if line.strip()]
            why = shown(lines[-1], 500) if lines else f"HTTP status {refused.code}"
            raise ClusterError(
                f"The Ray cluster at {self.server} has refused: {why}. Try again; if it stays so, look at its head: "
                "/tmp/ray/session_latest/logs/dashboard*.log."
            ) from None
        except (ValueError, TypeError, KeyError):  # of another Ray
            raise ClusterError(
                f"The Ray cluster at {self.server}, which has Ray {self.ray_version}, answers what the client of Ray "
                f"{ray.__version__} here does not understand. Install the version of one on the other."
            ) from None

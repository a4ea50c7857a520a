"""The address of a cluster's job server, which is the dashboard of its head: its form, what to send to it, and what is
said if it does not answer. Imports no Ray. Knows no job.
"""

import contextlib
import json
import os
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from sfr_batch.errors import ConfigError
from sfr_batch.pipeline import clusters

DEFAULT = "http://127.0.0.1:8265"
_CONNECT_S = 3.0
_WHERE = (
    "Jobs are submitted to the dashboard of the cluster's head, port 8265 unless `ray start --dashboard-port` says "
    "otherwise"
)


@dataclass(frozen=True)
class JobServer:
    """Where jobs are submitted to, and who says so."""

    url: str
    """Without a slash at its end."""
    source: str
    """`address`, a variable of the environment, or what stands for none."""

    def __str__(self) -> str:
        return f"{self.url} ({self.source})"

    def unanswered(self, why: str) -> str:
        """The sentence where nothing answers, and ``why``."""
        return (
            f"No Ray cluster answers at {self}: {why}. {_WHERE}. Start it, forward its port to this machine, or "
            "correct the address."
        )

    def something_else(self) -> ConfigError:
        """The error where something else listens, which may be the head's other port."""
        other = "the port of a Ray cluster that its nodes join" if self.is_joined_there() else "another service"
        return ConfigError(f"At {self} listens {other}, which takes no Ray jobs. {_WHERE}. Correct the address.")

    def is_joined_there(self) -> bool:
        """Whether the port of a cluster answers that its nodes join."""
        with (
            contextlib.suppress(OSError),
            socket.create_connection(self._host_and_port(), timeout=_CONNECT_S) as connection,
        ):
            return clusters.speaks_grpc(connection)
        return False

    def why_unreachable(self) -> str:
        """Why no connection comes about; empty if one does."""
        try:
            socket.create_connection(self._host_and_port(), timeout=_CONNECT_S).close()
        except OSError as error:
            return clusters.reason(error)
        return ""

    def _host_and_port(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def find(address: str | None) -> JobServer:
    """Where to submit: ``address``, else RAY_API_SERVER_ADDRESS, RAY_ADDRESS, the dashboard of this machine.

    Raises ConfigError if that has another form.
    """
    if address is not None:
        if not isinstance(address, str):
            raise ConfigError(f"The address is of the type {type(address).__name__}. Give a text: {DEFAULT}.")
        return JobServer(_url(address.strip(), "address"), "address")
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        if (said := os.environ.get(name, "").strip()) and said not in ("auto", "local"):
            if name == "RAY_ADDRESS" and "://" not in said:
                raise ConfigError(
                    f"RAY_ADDRESS is {said}, the port that the nodes of a Ray cluster join. {_WHERE}. Give it as the "
                    f"address: http://{said.rpartition(':')[0] or said}:8265."
                )
            return JobServer(_url(said, name), name)
    return JobServer(DEFAULT, "this machine, because no address is given")


def _url(text: str, source: str) -> str:
    """The address in its plain form: that of a page of the dashboard will do, and one without http://."""
    whole = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(whole)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    if parts.username or parts.password:
        raise ConfigError(
            f"The {source} of the Ray cluster contains credentials before its host. They would end up in logs. Remove "
            'them, and send them as headers: RAY_JOB_HEADERS=\'{"Authorization": "…"}\'.'
        )
    if host and parts.scheme == "ray":
        raise ConfigError(f"The {source} is {text}, which is for Ray Client. {_WHERE}: http://{host}:8265.")
    if not host or parts.scheme not in ("http", "https"):
        raise ConfigError(
            f"The {source} is {text or 'empty'}, which is no http:// address. {_WHERE}: http://HEAD:8265."
        )
    netloc = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    return urlunsplit((parts.scheme, netloc, parts.path.rstrip("/"), "", ""))


def headers(server: JobServer) -> dict[str, str]:
    """What is sent with each request: RAY_JOB_HEADERS, as `ray job` sends them, and the token if RAY_AUTH_MODE=token.

    Read now: Ray itself reads the environment once, and a notebook may set it later. Raises ConfigError if a token is
    to be sent and there is none.
    """
    found = _extra_headers()
    if clusters.sends_token() and "authorization" not in {name.lower() for name in found}:
        clusters.check_token(str(server))
        found["authorization"] = f"Bearer {clusters.token()}"
        if not _can_be_sent(found["authorization"]):
            raise ConfigError(
                f"The token of {clusters.token_source()} has a line break or another character that no token has. Copy "
                "it again; `ray get-auth-token` on the cluster's head prints it."
            )
    return found


def _can_be_sent(text: str) -> bool:
    return text.isascii() and text.isprintable()


def trusted(server: JobServer) -> str | None:
    """The file or folder of certificates to trust, if REQUESTS_CA_BUNDLE names one: requests know it, the log of a job,
    which comes in another way, does not. Raises ConfigError if nothing is there."""
    named = os.environ.get("REQUESTS_CA_BUNDLE") if server.url.startswith("https:") else None
    if named and not os.path.exists(named):
        raise ConfigError(f"REQUESTS_CA_BUNDLE is {named}, where nothing is. Correct it, or unset it.")
    return named or None


def _extra_headers() -> dict[str, str]:
    text = os.environ.get("RAY_JOB_HEADERS")
    if not text:
        return {}
    given: Any = None
    with contextlib.suppress(ValueError):
        given = json.loads(text)
    if isinstance(given, dict) and all(
        isinstance(value, str) and _can_be_sent(name + value) for name, value in given.items()
    ):
        return given
    raise ConfigError('RAY_JOB_HEADERS is not a JSON object of plain texts. Write it as {"Name": "value"}.')

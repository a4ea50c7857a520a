"""Whether a Ray cluster can be joined at an address, as far as it shows without Ray: the form of the address, what
listens there, whether there is a token to send. `joining` then asks the cluster.

Each refusal is one sentence, within seconds. Ray itself would try for minutes, and ends the process where a token is
missing. Knows no run.
"""

import contextlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from sfr_batch.errors import ConfigError
from sfr_batch.storage.local_files import read_text_file

SUBMIT = "sfr-batch submit CONFIG --address {at}"
"""The command that runs a config on a cluster from anywhere."""
_PORT_OF_JOBS = 8265
_CONNECT_S, _ANSWER_S = 3.0, 3.0
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How a client of gRPC begins: the preface of HTTP/2 and an empty SETTINGS frame."""
_SETTINGS = 4
"""The type of the frame that a server of HTTP/2 answers with, in its fourth byte."""


@dataclass(frozen=True)
class Address:
    """An address of a Ray cluster, and who says so: `run.ray_address`, RAY_ADDRESS or a Ray of this machine."""

    text: str
    source: str
    setting: str = "run.ray_address"
    does: str = "embed"
    """What is to be done there, and could be done in this process."""

    def __str__(self) -> str:
        return f"{self.text} ({self.source})"

    @property
    def parts(self) -> tuple[str, int]:
        """Host and port. Raises ConfigError if the text has another form."""
        host, _, port = self.text.rpartition(":")
        with contextlib.suppress(ValueError):
            if host and "/" not in host and 0 < int(port) < 2**16:
                return host.strip("[]"), int(port)
        raise ConfigError(f"{self.source} is {self.text}, which is no HOST:PORT. {self._how_to_join()}")

    @property
    def or_here(self) -> str:
        """How to do without a cluster, as the end of a sentence."""
        return f"or {self.does} in this process: {self.setting}=none."

    def _how_to_join(self) -> str:
        return (
            "On a machine of the cluster write HOST:PORT as `ray start` prints it, or auto for the Ray that runs "
            f"there: {self.setting}=auto. O{self.or_here[1:]}"
        )

    def check_form(self) -> None:
        """Raises ConfigError unless the text is HOST:PORT."""
        scheme, slashes, rest = self.text.partition("://")
        if not slashes:
            self.parts  # noqa: B018
            return
        host = rest.partition("/")[0].rpartition(":")[0] or rest.partition("/")[0]
        if scheme in ("http", "https"):
            what, at = "the address that jobs are submitted to, and no run can join it there", self.text
        elif scheme == "ray":
            what, at = "for Ray Client, through which no run works", f"http://{host}:{_PORT_OF_JOBS}"
        else:
            raise ConfigError(
                f"{self.source} is {self.text}: sfr-batch knows no addresses that begin with {scheme}://. "
                f"{self._how_to_join()}"
            )
        raise ConfigError(
            f"{self.source} is {self.text}: that is {what}. Submit the run: {SUBMIT.format(at=at)}. "
            f"{self._how_to_join()}"
        )


def check(address: Address) -> None:
    """Raises ConfigError, within seconds, if no cluster can be joined at the address: its form, its port, the token."""
    address.check_form()
    _check_port(address)
    check_token(str(address))


def answers(text: str) -> bool:
    """Whether anything listens at ``text``, host:port."""
    try:
        socket.create_connection(Address(text, "").parts, timeout=_CONNECT_S).close()
    except (OSError, ConfigError):
        return False
    return True


def _check_port(address: Address) -> None:
    try:
        with socket.create_connection(address.parts, timeout=_CONNECT_S) as connection:
            connection.settimeout(_ANSWER_S)
            answer = b"" if _encrypted() else _greet(connection)
    except OSError as error:
        raise ConfigError(
            f"No Ray cluster answers at {address}: {reason(error)}. Start it, correct the address, {address.or_here}"
        ) from None
    if not _encrypted() and answer[3:4] != bytes((_SETTINGS,)):
        http = answer.startswith((b"HTTP", b"<"))
        what = "an HTTP server" if http else "another service" if answer else "something that does not answer"
        raise something_else(address, what)


def _encrypted() -> bool:
    """Whether Ray speaks TLS, which begins in another way."""
    return os.environ.get("RAY_USE_TLS", "").lower() in ("1", "true")


def speaks_grpc(connection: socket.socket) -> bool:
    """Whether the port of a cluster's head answers, which its nodes join; as far as one can tell if it is encrypted."""
    connection.settimeout(_ANSWER_S)
    return not _encrypted() and _greet(connection)[3:4] == bytes((_SETTINGS,))


def _greet(connection: socket.socket) -> bytes:
    with contextlib.suppress(OSError):  # silence is an answer, too
        connection.sendall(_GREETING)
        return connection.recv(9)
    return b""


def something_else(address: Address, what: str) -> ConfigError:
    """The error where something else listens."""
    return ConfigError(
        f"At {address} listens {what}, and not the head of a Ray cluster, whose port is 6379 or that of `ray start "
        f"--port`. Correct the address, {address.or_here}"
    )


def reason(error: OSError) -> str:
    """Why a connection did not come about, in a few words."""
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(error, socket.gaierror):
        return "this machine does not know that host"
    if isinstance(error, TimeoutError):
        return f"no answer within {_CONNECT_S:g} seconds, as from behind a firewall"
    return (error.strerror or str(error)).lower()


def sends_token() -> bool:
    """Whether Ray sends a token for this process."""
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


def token_source() -> str | None:
    """Where Ray finds the token of this process; None if there is none. Raises ConfigError if RAY_AUTH_TOKEN_PATH names
    none: Ray would end the process."""
    return _find_token()[0]


def token() -> str:
    """The token of this process, which must go nowhere but into a request; empty if there is none. Raises ConfigError,
    see `token_source`."""
    return _find_token()[1]


def _find_token() -> tuple[str | None, str]:
    """Where it is, and the token."""
    if value := os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN", value.strip()
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named or Path.home() / ".ray" / "auth_token")
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if value := (read_text_file(file) or "").strip():
            return str(file), value
    if named:
        raise ConfigError(
            f"RAY_AUTH_TOKEN_PATH is {named}, where no token can be read. Put the cluster's token there or into "
            "RAY_AUTH_TOKEN; `ray get-auth-token` on its head prints it."
        )
    return None, ""


def check_token(where: str) -> None:
    """Raises ConfigError if a token is to be sent to the cluster at ``where``, and there is none."""
    if sends_token() and token_source() is None:
        raise ConfigError(
            f"RAY_AUTH_MODE is token, and this process has no token for the Ray cluster at {where}. Put the "
            "cluster's token into RAY_AUTH_TOKEN or ~/.ray/auth_token; `ray get-auth-token` on its head prints it."
        )


def token_refused(where: str) -> str:
    """The sentence of a cluster at ``where`` that wants a token, or another one."""
    if not sends_token():
        return (
            f"The Ray cluster at {where} wants a token, and RAY_AUTH_MODE is "
            f"{os.environ.get('RAY_AUTH_MODE') or 'not set'}. Set RAY_AUTH_MODE=token, with the cluster's token in "
            "RAY_AUTH_TOKEN or ~/.ray/auth_token; `ray get-auth-token` on its head prints it."
        )
    return (
        f"The Ray cluster at {where} refuses the token of {token_source()}. Put the cluster's token there; "
        "`ray get-auth-token` on its head prints it."
    )

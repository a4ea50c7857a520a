"""A TCP relay before an S3 server: it counts the requests that pass, and can hold the answers back.

Requests are read off the client's bytes; the server sees them unchanged, so that their signatures hold.
"""

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

_REQUEST = re.compile(rb"(GET|HEAD|PUT|POST) (\S+) HTTP/1\.1\r\n(.*?)\r\n\r\n", re.DOTALL)


class Relay:
    """Listens on loopback; ``endpoint`` is its URL."""

    def __init__(self, server: str) -> None:
        address = urlsplit(server)
        self._server = (address.hostname, address.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[tuple[str, str, str]] = []
        """(method, path, range) of each request."""
        self.let_through: int | None = None
        """Bytes of answers that still pass before all are held back; None lets everything pass."""
        self._changed = threading.Condition()
        threading.Thread(target=self._accept, daemon=True).start()

    def release(self) -> None:
        with self._changed:
            self.let_through = None
            self._changed.notify_all()

    def close(self) -> None:
        self.release()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                for ends in ((client, server, self._note), (server, client, self._hold)):
                    threading.Thread(target=_pump, args=ends, daemon=True).start()

    def _note(self, data: bytes) -> None:
        # Requests of readers have no body and come whole in one piece: they are shorter than the smallest buffer.
        for method, path, headers in _REQUEST.findall(data):
            found = re.search(rb"(?im)^range: *(\S+)\s*$", headers)
            self.requests.append((method.decode(), path.decode(), found[1].decode() if found else ""))

    def _hold(self, data: bytes) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.let_through is None or self.let_through > 0)
            if self.let_through is not None:
                self.let_through -= len(data)


def _pump(source: socket.socket, target: socket.socket, before: object) -> None:
    assert callable(before)
    with contextlib.suppress(OSError), source, target:
        while data := source.recv(65536):
            before(data)
            target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def relay(server: str) -> Iterator[Relay]:
    made = Relay(server)
    try:
        yield made
    finally:
        made.close()

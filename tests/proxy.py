"""An HTTP relay before an S3 server: it counts the requests that pass, holds answers back, and puts faults in between.

The server sees each request as it was signed, byte by byte: heads are read but not rewritten. One request at a time on
a connection, which is kept alive; bodies by Content-Length, chunked or to the end; ``Expect: 100-continue`` is passed
on, so that a client sends its body when the server asks for it.
"""

import contextlib
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlsplit

_BUSY = (503, "SlowDown", "Please reduce your request rate.")
FAULTS = ("slow_down", "reset", "lost_reply", "truncate", "cut", "slow")
"""What can happen to a request: 503 SlowDown in the place of the server's answer; a connection reset before the server
has seen the request; or after it took effect, in the place of the answer; half a body, the connection then closed; half
of a body whose Content-Length and Content-Range agree with each other; a body in small pieces with pauses."""
_PIECE = 65536
_SLOW_PIECES, _SLOW_SECONDS = 8, 0.01


class Relay:
    """Listens on loopback; ``endpoint`` is its URL.

    rates: probability of each of FAULTS, together at most 1; changed at any time. Whether a request has a fault follows
    from the seed, its method and path and how often these were seen, not from which thread is faster.
    """

    def __init__(self, server: str, rates: Mapping[str, float] | None = None, seed: int = 0) -> None:
        address = urlsplit(server)
        self._server = (address.hostname, address.port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[tuple[str, str, str]] = []
        """(method, path, range) of each request."""
        self.let_through: int | None = None
        """Bytes of answers that still pass before all are held back; None lets everything pass."""
        self.rates: dict[str, float] = dict(rates or {})
        self.only: Callable[[str, str], bool] = lambda method, path: True
        """Which requests (method, path) may have a fault."""
        self.refuse: Callable[[str, str, Mapping[str, str]], tuple[int, str, str] | None] = lambda *request: None
        """The relay's own answer (status, code of S3, message) to a request (method, path, fields), in the place of the
        server's."""
        self.change: Callable[[bytes, bytes], tuple[bytes, bytes]] | None = None
        """Makes of an answer to HEAD (head, no body) or of a short listing (head, body) what is sent instead."""
        self.done: Counter[str] = Counter()
        """Faults that were put in, by kind."""
        self._seed, self._seen = seed, Counter[str]()
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
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """One connection of a client and the one to the server that belongs to it."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.suppress(OSError, EOFError))
            near = _Wire(stack.enter_context(client))
            far: _Wire | None = None
            while head := near.head():
                if far is None:
                    far = _Wire(stack.enter_context(socket.create_connection(self._server)))
                if not self._exchange(near, far, head):
                    return

    def _exchange(self, near: "_Wire", far: "_Wire", head: "_Head") -> bool:
        """One request and its answer; False ends the connection."""
        method, path = head.first.split(" ")[:2]
        fault = self._choose(method, path, head.fields.get("range", ""))
        if fault == "reset":
            self._note(fault)
            near.reset()
            return False
        if fault == "slow_down":
            self._note(fault)
        refusal = _BUSY if fault == "slow_down" else self.refuse(method, path, head.fields)
        if refusal:
            _refuse(near, head, *refusal)
            return False
        far.send(head.raw)
        answer = far.head() if "100-continue" in head.fields.get("expect", "") else None
        if answer is None or answer.status == 100:
            if answer is not None:
                near.send(answer.raw)
            with contextlib.suppress(ConnectionError):  # a server may answer before it has read everything
                for piece in near.body(head):
                    far.send(piece)
            answer = far.head()
            while answer and answer.status < 200:
                near.send(answer.raw)
                answer = far.head()
        if answer is None:
            return False
        pieces = far.body(answer, of=method)
        if self.change and (method == "HEAD" or "list-type=" in path) and answer.status == 200:
            raw, body = self.change(answer.raw, b"".join(pieces))
            if method != "HEAD":
                raw = re.sub(rb"(?i)(content-length: *)\d+", rb"\g<1>%d" % len(body), raw)
            answer, pieces = _Head(raw), iter([body])
        if fault == "lost_reply":
            for _ in pieces:
                pass
            self._note(fault)
            near.reset()
            return False
        if fault in ("truncate", "cut", "slow"):
            return self._spoil(near, answer, b"".join(pieces), fault)
        self._hold(near, answer.raw)
        for piece in pieces:
            self._hold(near, piece)
        return not answer.closes

    def _spoil(self, near: "_Wire", answer: "_Head", body: bytes, fault: str) -> bool:
        """Answers without a plain body pass as they are."""
        length = int(answer.fields.get("content-length", 0))
        if length < 2 or length != len(body):
            self._hold(near, answer.raw + body)
            return not answer.closes
        if fault == "cut":
            got = re.search(rb"(?i)(content-range: *bytes )(\d+)-(\d+)/", answer.raw)
            if not got:  # a whole object: nothing could tell but its checksum, and that it would
                self._hold(near, answer.raw + body)
                return not answer.closes
            half = length // 2
            raw = re.sub(rb"(?i)(content-length: *)\d+", rb"\g<1>%d" % half, answer.raw)
            raw = raw.replace(got[0], b"%s%s-%d/" % (got[1], got[2], int(got[2]) + half - 1))
            self._note(fault)
            near.send(raw + body[:half])
            return False
        self._note(fault)
        near.send(answer.raw)
        if fault == "truncate":
            near.send(body[: length // 2])
            return False
        step = max(1, -(-length // _SLOW_PIECES))
        for start in range(0, length, step):
            near.send(body[start : start + step])
            time.sleep(_SLOW_SECONDS)
        return not answer.closes

    def _choose(self, method: str, path: str, range_: str) -> str | None:
        with self._changed:
            self.requests.append((method, path, range_))
            name = f"{self._seed} {method} {path} {range_}"
            self._seen[name] += 1
            draw = random.Random(f"{name} {self._seen[name]}").random()
        if self.only(method, path):
            for fault, rate in self.rates.items():
                draw -= rate
                if draw < 0:
                    return fault
        return None

    def _note(self, fault: str) -> None:
        with self._changed:
            self.done[fault] += 1

    def _hold(self, near: "_Wire", data: bytes) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.let_through is None or self.let_through > 0)
            if self.let_through is not None:
                self.let_through -= len(data)
        near.send(data)


class _Head:
    """The first line of a request or an answer, and its fields, their names in lower case."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.first, *lines = raw.decode("latin-1").split("\r\n")
        self.fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    @property
    def status(self) -> int:
        return int(self.first.split(" ")[1])

    @property
    def closes(self) -> bool:
        return self.fields.get("connection", "").lower() == "close"


def _refuse(near: "_Wire", head: _Head, status: int, code: str, message: str) -> None:
    """Answer in the server's place. The connection ends."""
    if "100-continue" not in head.fields.get("expect", ""):
        for _ in near.body(head):
            pass
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    first = f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    first += f"Content-Length: {len(body)}\r\n\r\n"
    near.send(first.encode() + (b"" if head.first.startswith("HEAD ") else body))


class _Wire:
    """One end of a connection, read by heads and bodies."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock, self._read = sock, sock.makefile("rb", buffering=_PIECE)

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def head(self) -> _Head | None:
        """None at the end of the connection."""
        lines = []
        while (line := self._read.readline()) not in (b"\r\n", b""):
            lines.append(line)
        return _Head(b"".join(lines) + b"\r\n") if line and lines else None

    def body(self, head: _Head, of: str = "") -> Iterator[bytes]:
        """What follows ``head``, unchanged. Without a length an answer, ``of`` a method, goes on to the end."""
        if of == "HEAD" or (of and head.status in (204, 304)):
            return
        if "chunked" in head.fields.get("transfer-encoding", ""):
            while True:
                line = self._read.readline()
                size = int(line.split(b";")[0], 16)
                yield line
                if size == 0:
                    while (line := self._read.readline()) != b"\r\n":  # trailers
                        if not line:
                            raise EOFError
                        yield line
                    yield line
                    return
                yield from self._exactly(size + 2)
        elif "content-length" in head.fields:
            yield from self._exactly(int(head.fields["content-length"]))
        elif of:
            while piece := self._read.read1(_PIECE):
                yield piece

    def _exactly(self, count: int) -> Iterator[bytes]:
        while count:
            piece = self._read.read1(min(_PIECE, count))
            if not piece:
                raise EOFError
            count -= len(piece)
            yield piece

    def reset(self) -> None:
        """RST, not FIN."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._read.close()
        self._sock.close()


@contextlib.contextmanager
def relay(server: str, rates: Mapping[str, float] | None = None, seed: int = 0) -> Iterator[Relay]:
    made = Relay(server, rates, seed)
    try:
        yield made
    finally:
        made.close()

"""A proxy between an S3 client and a real server that misbehaves by a script.

It forwards what it gets unchanged, the signed Host header included, notes every request, and lets
the first rule that applies to a request spoil the answer.
"""

import http.client
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

BLOCK = 1 << 16
HOP_BY_HOP = {"connection", "keep-alive", "expect", "transfer-encoding"}


@dataclass(frozen=True)
class Refuse:
    """An S3 error instead of an answer."""

    status: int
    code: str


@dataclass(frozen=True)
class Reset:
    """The connection is reset: before the answer, or after half of the body."""

    midway: bool = False


@dataclass(frozen=True)
class Stall:
    """Half of the body, and then nothing until the client has gone."""


@dataclass(frozen=True)
class Late:
    """The answer comes after some seconds."""

    seconds: float


@dataclass(frozen=True)
class Truncate:
    """Half of the body; the length header says the whole, or (``looks_whole``) what is sent."""

    looks_whole: bool = False


@dataclass(frozen=True)
class FlipBit:
    """One bit in the middle of the body is another."""


@dataclass(frozen=True)
class Replace:
    """Another ETag, and another body of the same length unless it is None."""

    body: bytes | None = None
    etag: str = '"0123456789abcdef0123456789abcdef"'


@dataclass(frozen=True)
class Vanish:
    """The listener closes, and every connection with it."""


Fault = Refuse | Reset | Stall | Late | Truncate | FlipBit | Replace | Vanish


@dataclass
class Rule:
    """Which requests meet a fault.

    ``pattern`` is searched in the key, of GETs only. The first ``after`` requests that match pass;
    from the next one on the rule holds, for ``seconds`` if given, and at most ``times`` for a key.
    """

    pattern: str
    fault: Fault
    times: int | None = None
    after: int = 0
    seconds: float | None = None
    began: float | None = None
    hits: Counter[str] = field(default_factory=Counter)

    def applies(self, key: str) -> bool:
        """Whether the request meets the fault; to be asked once for each."""
        if not re.search(self.pattern, key):
            return False
        if self.after:
            self.after -= 1
            return False
        now = time.monotonic()
        self.began = now if self.began is None else self.began
        late = self.seconds is not None and now - self.began > self.seconds
        if late or (self.times is not None and self.hits[key] >= self.times):
            return False
        self.hits[key] += 1
        return True


@dataclass(frozen=True)
class Request:
    """What a client asked for, and when."""

    method: str
    key: str
    began: float
    fault: Fault | None


class FaultProxy(ThreadingHTTPServer):
    """The proxy; start it by :func:`fault_proxy`."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: str) -> None:
        """Stand before the server at the URL ``upstream``."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.rules: list[Rule] = []
        self.requests: list[Request] = []
        self.hides_checksums = False
        """Whether the server's own checksums are left out, as by servers that keep none."""
        self.mistakes: list[BaseException | None] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._clients: set[socket.socket] = set()

    @property
    def endpoint(self) -> str:
        """The URL for clients."""
        return f"http://127.0.0.1:{self.server_port}"

    def spoil(self, pattern: str, fault: Fault, **when: float | None) -> Rule:
        """Add a rule, see :class:`Rule`."""
        self.rules.append(Rule(pattern, fault, **when))  # type: ignore[arg-type]
        return self.rules[-1]

    def gets(self, pattern: str = "") -> Counter[str]:
        """How often each key was asked for."""
        asked = [r.key for r in self.requests if r.method == "GET"]
        return Counter(key for key in asked if re.search(pattern, key))

    def note(self, method: str, key: str) -> Fault | None:
        """Record a request; returns the fault that it meets."""
        with self._lock:
            found = (rule.fault for rule in self.rules if method == "GET" and rule.applies(key))
            fault = next(found, None)
            self.requests.append(Request(method, key, time.monotonic(), fault))
            return fault

    def vanish(self) -> None:
        """Be gone for good: no listener, no connection."""
        self.closing.set()
        self.shutdown()
        self.server_close()
        with self._lock:
            for client in self._clients:
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

    def process_request(self, request, client_address):  # type: ignore[no-untyped-def]
        with self._lock:
            self._clients.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):  # type: ignore[no-untyped-def]
        with self._lock:
            self._clients.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):  # type: ignore[no-untyped-def]
        """Clients that break off are daily bread; anything else is a mistake in this file."""
        error = sys.exception()
        if not isinstance(error, OSError):
            self.mistakes.append(error)


class _Handler(BaseHTTPRequestHandler):
    server: FaultProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)

    def finish(self) -> None:
        self.upstream.close()
        with suppress(OSError):
            super().finish()

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]
        match self.server.note(self.command, key):
            case Refuse(status, code):
                xml = f"<Error><Code>{code}</Code><Message>by the script</Message></Error>"
                self._answer(status, {"Content-Type": "application/xml"}, xml.encode())
            case Reset(midway=False):
                self._reset()
            case Vanish():
                self.server.vanish()
                self.close_connection = True
            case Late(seconds):
                self.server.closing.wait(seconds)
                self._forward(body, None)
            case fault:
                self._forward(body, fault)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    def _forward(self, body: bytes, fault: Fault | None) -> None:
        """Ask the server and relay its answer, block by block."""
        self.upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP_BY_HOP:
                self.upstream.putheader(name, value)
        self.upstream.endheaders(body or None)
        response = self.upstream.getresponse()
        hidden = ("x-amz-checksum-",) if self.server.hides_checksums else ()
        headers = {
            name: value
            for name, value in response.getheaders()
            if name.lower() not in HOP_BY_HOP and not name.lower().startswith(hidden)
        }
        if "Content-Length" not in headers:
            self._answer(response.status, headers, response.read())
        elif self.command == "HEAD" or response.status != 200:
            self._answer(response.status, headers, response.read(), headers["Content-Length"])
        else:
            self._relay(response, headers, fault)

    def _relay(
        self, response: http.client.HTTPResponse, headers: dict[str, str], fault: Fault | None
    ) -> None:
        length = int(headers["Content-Length"])
        half = length // 2
        if isinstance(fault, Replace):
            headers["ETag"] = fault.etag
        if fault == Truncate(looks_whole=True):
            headers["Content-Length"] = str(half)
        self._answer(response.status, headers)
        match fault:
            case Truncate() | Reset() | Stall():
                self.wfile.write(response.read(half))
                response.read()
                self._break_off(fault)
            case FlipBit():
                data = bytearray(response.read())
                data[half] ^= 0x10
                self.wfile.write(data)
            case Replace(body) if body is not None:
                assert len(body) == len(response.read()) == length
                self.wfile.write(body)
            case _:
                while block := response.read(BLOCK):
                    self.wfile.write(block)

    def _break_off(self, fault: Fault) -> None:
        if fault == Truncate(looks_whole=True):
            return
        if isinstance(fault, Reset):
            time.sleep(0.02)  # a reset takes back what the client has not read yet
            self._reset()
            return
        if isinstance(fault, Stall):
            self.connection.settimeout(0.05)
            while not self.server.closing.is_set():
                with suppress(TimeoutError):
                    self.connection.recv(1)  # nothing, or an error: the client has gone
                    break
        self.close_connection = True

    def _answer(
        self, status: int, headers: dict[str, str], body: bytes = b"", length: str | None = None
    ) -> None:
        """Status and headers as they are, and a body that is at hand."""
        self.send_response_only(status)
        if "Content-Length" not in headers:
            headers = {**headers, "Content-Length": length or str(len(body))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _reset(self) -> None:
        """Have the kernel send a reset instead of a goodbye."""
        self.close_connection = True
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """A proxy before the server at the URL ``upstream``, until the block ends."""
    with FaultProxy(upstream) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.02,), name="fault-proxy")
        thread.start()
        try:
            yield proxy
        finally:
            proxy.vanish()
            thread.join()
        assert not proxy.mistakes

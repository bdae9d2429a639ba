"""A server between a client of S3 and moto's S3 server, which lets things go wrong when told to."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from moto.server import ThreadedMotoServer

BUCKET = "library"

FAULTS = (
    "500",  # the server fails
    "503",  # it throttles
    "slow",  # it takes its time
    "torn",  # the answer breaks off in its middle
    "refused",  # the connection is closed before anything is done
    "lost",  # what was asked is done, and the answer lost
)


@dataclass
class Between:
    """What happens to requests. `fault` is given method and path, and names one of `FAULTS`.

    Others: `403`, `blind` (the condition of a write is left out), `flipped` (a bit of the answer).
    """

    fault: Callable[[str, str], str | None] = lambda method, path: None
    seen: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""


@contextmanager
def s3_server() -> Iterator[Between]:
    """moto's server with a bucket, behind one whose faults can be set."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    address = moto.get_host_and_port()
    between = Between()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(between, address))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    between.url = f"http://127.0.0.1:{server.server_port}"
    make_bucket(*address)
    try:
        yield between
    finally:
        server.shutdown()
        server.server_close()
        moto.stop()


def make_bucket(host: str, port: int) -> None:
    """The bucket that tests use."""
    made = http.client.HTTPConnection(host, port, timeout=30)
    made.request("PUT", f"/{BUCKET}", headers={"Authorization": "AWS4-HMAC-SHA256 a/b/c/s3/d"})
    assert made.getresponse().status == 200
    made.close()


def serve_before(port: int, behind: int) -> None:
    """Pass requests on without faults, for ever: what can be killed while the store stays."""
    handle = handler(Between(), ("127.0.0.1", behind))
    ThreadingHTTPServer(("127.0.0.1", port), handle).serve_forever()


def handler(between: Between, address: tuple[str, int]) -> type[BaseHTTPRequestHandler]:
    """What answers a request: passed on to `address`, with the fault that `between` names."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words) -> None:
            pass

        def pass_on(self) -> None:
            body = self._body()
            path = self.path.split("?")[0]
            between.seen.append((self.command, path))
            fault = between.fault(self.command, path)
            if fault == "refused":
                self.close_connection = True
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                return
            if fault in ("403", "500", "503"):
                code = {"403": "AccessDenied", "500": "InternalError", "503": "SlowDown"}[fault]
                self._answer(int(fault), {}, f"<Error><Code>{code}</Code></Error>".encode())
                return
            if fault == "slow":
                time.sleep(0.05)
            headers = {k: v for k, v in self.headers.items() if k.lower() != "transfer-encoding"}
            if fault == "blind":
                headers = {k: v for k, v in headers.items() if k.lower() != "if-none-match"}
            headers["Content-Length"] = str(len(body))
            there = http.client.HTTPConnection(*address, timeout=30)
            there.request(self.command, self.path, body, headers)
            answer = there.getresponse()
            data = answer.read()
            there.close()
            if fault == "lost":
                self.close_connection = True
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                return
            if fault == "flipped" and data:
                data = bytes([data[0] ^ 1]) + data[1:]
            self._answer(answer.status, dict(answer.getheaders()), data, fault == "torn")

        def _answer(self, status, headers, data: bytes, torn: bool = False) -> None:
            skip = ("content-length", "transfer-encoding", "connection", "server", "date")
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in skip:
                    self.send_header(name, value)
            length = headers.get("Content-Length", str(len(data)))
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(data)))
            self.end_headers()
            if self.command == "HEAD":
                return
            with suppress(OSError):
                if torn:
                    self.close_connection = True
                    self.wfile.write(data[: len(data) // 2])
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
                else:
                    self.wfile.write(data)

        def _body(self) -> bytes:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on  # noqa: N815

    return Handler

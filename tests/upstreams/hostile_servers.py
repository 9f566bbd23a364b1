"""Small servers of their own threads and blocking sockets, kind and unkind."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import ThreadingUnixStreamServer
from typing import Any

from loadtest.free_ports import free_ports


class Handler(BaseHTTPRequestHandler):
    """The standard library's server: echoes bodies, streams, counts."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self) -> None:
        if self.path == "/stream":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for at in range(200):
                part = bytes([at]) * 5000
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")
            return
        self._answer(self.path.encode())

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def do_PUT(self) -> None:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        self._answer(b"%d %d" % (len(body), sum(body)))

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "12345")
        self.end_headers()

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Host", self.headers["Host"])
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Silence."""


class OldHandler(Handler):
    """As `python -m http.server` answers: HTTP/1.0, a body without length up to the end of the connection."""

    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x" * 100_000)


class TcpServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: Any) -> None:
        """A client that goes away is no news."""


class UnixServer(ThreadingUnixStreamServer):
    daemon_threads = True

    def handle_error(self, *args: Any) -> None:
        """A client that goes away is no news."""

    def get_request(self) -> tuple[Any, Any]:
        accepted, _ = super().get_request()
        return accepted, ("unix", 0)


def http_server(handler: type[Handler] = Handler) -> tuple[str, Callable[[], None]]:
    server = TcpServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}", server.shutdown


def unix_server(path: str) -> str:
    server = UnixServer(path, Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"unix:{path}"


def raw_server(serve: Callable[[socket.socket, int], None]) -> str:
    """`serve(connection, number)` runs in a thread of its own for every connection that is accepted."""
    listener = socket.create_server(("127.0.0.1", 0))
    keep: list[socket.socket] = []

    def one(connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            serve(connection, number)

    def accept() -> None:
        number = 0
        while True:
            connection, _ = listener.accept()
            keep.append(connection)
            threading.Thread(target=one, args=(connection, number), daemon=True).start()
            number += 1

    threading.Thread(target=accept, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def read_head(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(4096)
        if not part:
            return data
        data += part
    return data


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def black_hole() -> tuple[str, list[socket.socket]]:
    """An address that answers no SYN: a listener whose queue is full."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    filling = []
    for _ in range(4):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(listener.getsockname())
        filling.append(client)
    return f"http://127.0.0.1:{listener.getsockname()[1]}", [listener, *filling]


def refused() -> str:
    return f"http://127.0.0.1:{free_ports(1)[0]}"

"""A business service of the tests on Python's own HTTP server, in threads: it counts what it executes."""

from __future__ import annotations

import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The gateway gives up calls and closes connections: no news."""


class Upstream:
    """Answers every request with what it saw; `/hold` and `/query.hold` answer only after `release` is set."""

    def __init__(self) -> None:
        self.executed: list[tuple[str, str]] = []
        """(path, x-call-id) in order of arrival."""
        self.arrived = threading.Semaphore(0)
        self.release = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # the body goes behind the head, not behind its acknowledgement

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                outer.executed.append((self.path, self.headers.get("x-call-id", "")))
                outer.arrived.release()
                if self.path.startswith(("/hold", "/query.hold")):
                    outer.release.wait(30)
                self.answer(200, b'{"you sent": %d, "path": "%s", "device": "%s"}' % (
                    len(body), self.path.encode(), self.headers.get("x-device-id", "").encode()))  # fmt: skip

            do_GET = do_POST

            def answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                with suppress(ConnectionError):
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = _Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def start(self) -> None:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()

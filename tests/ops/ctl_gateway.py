"""A control API behind a real HTTP server, for accessgwctl to talk to."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.ops.control_fakes import Api, FakeExchange


class Gateway:
    """A ControlApi behind a real HTTP server on loopback."""

    def __init__(self, api: Api | None = None) -> None:
        self.api = api or Api()
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                fields = [(name.lower(), value) for name, value in self.headers.items()]
                gateway.requests.append((self.command, self.path, dict(fields), body))
                exchange = FakeExchange(self.command, self.path, fields)
                upload = gateway.api.handler(exchange)
                upload.data(body)
                upload.finished()
                if not exchange.finished:
                    gateway.happen()
                    upload.aborted()
                self.send_response(exchange.status)
                for name, value in exchange.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(exchange.body)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *arguments: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def happen(self) -> None:
        """Something to see for whoever watches."""
        if self.api.control.emit is not None:
            self.api.control.emit({"at": 1.5, "kind": "frame", "name": "PING\x1b[2J", "size": 1})

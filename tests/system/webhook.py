"""A receiver of presence events on Python's own HTTP server, in threads: it can fail, hang, and be down."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from loadtest.free_ports import free_ports
from tests.system.gateway_process import PATIENCE

SECRET = "a secret of both"


class Webhook:
    """Keeps what it answered with 204 in `accepted`, and everything that came in `attempts`."""

    def __init__(self) -> None:
        self.accepted: list[dict[str, Any]] = []
        self.attempts: list[dict[str, Any]] = []
        self.status = 204
        self.hanging: threading.Event | None = None
        self._changed = threading.Condition()
        # not one that the kernel gives to others while this server is down
        (self._port,) = free_ports(1)
        self._server: ThreadingHTTPServer | None = None
        self.up()
        self.url = f"http://127.0.0.1:{self._port}/presence?from=gateway"
        self.config = (
            f'\n[webhook]\nurl = "{self.url}"\nsecret = "{SECRET}"\n'
            "timeout = 0.5\nretry_initial = 0.02\nretry_max = 0.3\n"
        )

    def up(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
                genuine = self.headers["x-signature"] == f"sha256={signature}"
                known = (self.path, self.headers["content-type"]) == ("/presence?from=gateway", "application/json")
                with suppress(ConnectionError):
                    self.send_response(outer.take(json.loads(body)) if genuine and known else 400)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def down(self) -> None:
        """Connections are refused; kept-alive ones find nobody who accepts an event."""
        self.status = 503
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def stop(self) -> None:
        if self.hanging is not None:
            self.hanging.set()
        self.down()

    def take(self, event: dict[str, Any]) -> int:
        hanging, status = self.hanging, self.status
        with self._changed:
            self.attempts.append(event)
            self._changed.notify_all()
        if hanging is not None:
            hanging.wait(30)
            return 503  # long after the time-out
        with self._changed:
            if status == 204:
                self.accepted.append(event)
                self._changed.notify_all()
        return status

    def wait(self, true: Callable[[], bool], timeout: float = PATIENCE) -> None:
        """Until `true()` after an event; fails with what came."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not true():
                left = deadline - time.monotonic()
                assert left > 0 and self._changed.wait(left), f"it did not come to be: {self.accepted}"

    @property
    def events(self) -> int:
        """How many were accepted; one whose answer came too late comes again."""
        return len({event["id"] for event in self.accepted})

    def of(self, device: str) -> list[dict[str, Any]]:
        """Accepted events of a device in the order of their arrival, repetitions left out."""
        return list({event["id"]: event for event in self.accepted if event["device"] == device}.values())

    def told(self, device: str) -> list[str]:
        """`of` as "connect", "disconnect REASON"."""
        return [f"{event['event']} {event['reason']}".strip() for event in self.of(device)]

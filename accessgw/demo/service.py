"""The demo upstream: a small payment and feed service over HTTP, with realistic JSON in English and Chinese.

    python -m accessgw.demo.service --port 7800

Operations are `POST /payments.pay`, `/payments.query`, `/accounts.balance`, `/feed.list` and
`/feed.slow?seconds=2`; `GET /health`; `GET /ledger` tells how often each call was executed; `POST
/readings` takes messages of MQTT, `GET /readings` tells them by device; everything under `/api/` is echoed. It stands
on Twisted's own HTTP server and shares nothing with the gateway.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from accessgw.demo.ledger import BadRequest, Ledger, Readings, feed

MAX_BODY = 4 * 1024 * 1024
MAX_DELAY = 60.0


class _QuietSite(Site):
    """Keeps no access log."""

    def log(self, request: Any) -> None:
        """Nothing: the gateway in front has one."""

    def logPrefix(self) -> str:
        """What the log calls it."""
        return "demo upstream"


class Service(Resource):
    """All of it; one resource, since an operation is one path segment."""

    isLeaf = True

    def __init__(self, reactor: Any, ledger: Ledger) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # inherited from Twisted, unannotated
        self._reactor = reactor
        self._ledger = ledger
        self._readings = Readings()
        self._operations: dict[str, Callable[[Any, dict[str, Any]], dict[str, Any]]] = {
            "payments.pay": self._pay,
            "payments.query": lambda request, body: ledger.query(body),
            "accounts.balance": lambda request, body: ledger.balance(_account(request)),
            "feed.list": lambda request, body: feed(body),
        }

    def render(self, request: Any) -> Any:
        """Answer a request."""
        path = request.path.decode("latin-1").lstrip("/")
        try:
            if path == "health" and request.method in (b"GET", b"HEAD"):
                return _answer(request, 200, {"status": "ok"})
            if path == "ledger" and request.method == b"GET":
                return _answer(
                    request, 200, {"executions": self._ledger.executions, "by_call": dict(self._ledger.by_call)}
                )
            if path == "readings" and request.method == b"GET":
                return _answer(request, 200, {"devices": dict(self._readings.by_device)})
            if path == "readings" and request.method == b"POST":
                return _answer(request, 200, {"new": self._readings.take(_json_list(request))})
            if path == "api" or path.startswith("api/"):
                return _answer(request, 200, _echo(request))
            if path == "feed.slow":
                return self._slow(request)
            operation = self._operations.get(path)
            if operation is None:
                raise BadRequest(404, "unknown_operation", f"no operation {path!r}")
            if request.method != b"POST":
                raise BadRequest(405, "method", f"expected POST, got {request.method.decode('latin-1')}")
            return _answer(request, 200, operation(request, _json(request)))
        except BadRequest as error:
            return _answer(request, error.status, {"error": {"code": error.code, "message": str(error)}})

    def _pay(self, request: Any, body: dict[str, Any]) -> dict[str, Any]:
        call_id = _header(request, "x-call-id") or "none"
        return self._ledger.pay(_account(request), call_id, body, self._reactor.seconds())

    def _slow(self, request: Any) -> int:
        text = request.args.get(b"seconds", [b""])[0] or str(_json(request).get("seconds", 1)).encode()
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds <= MAX_DELAY:
            raise BadRequest(422, "bad_seconds", f"seconds: expected 0..{MAX_DELAY:g}, got {text.decode('latin-1')!r}")

        def finish() -> None:
            request.write(_answer(request, 200, {"slept": seconds, "text": {"en": "Good morning", "zh": "早上好"}}))
            request.finish()

        timer = self._reactor.callLater(seconds, finish)
        request.notifyFinish().addErrback(lambda _: timer.active() and timer.cancel())
        return NOT_DONE_YET


def make_site(reactor: Any, ledger: Ledger | None = None) -> Site:
    """The service as a factory for reactor.listenTCP. Give a ledger to look into it from outside."""
    service = Service(reactor, ledger if ledger is not None else Ledger())
    site = _QuietSite(service, reactor=reactor)  # type: ignore[no-untyped-call]  # inherited from Twisted, unannotated
    site.noisy = False
    site.displayTracebacks = False
    return site


def _answer(request: Any, status: int, body: dict[str, Any]) -> bytes:
    data = json.dumps(body, ensure_ascii=False).encode()
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json; charset=utf-8")
    request.setHeader(b"content-length", str(len(data)).encode())
    return data


def _parsed(request: Any) -> Any:
    """The body; an empty one is {}."""
    data = request.content.read(MAX_BODY + 1)
    if len(data) > MAX_BODY:
        raise BadRequest(413, "too_large", f"body: expected at most {MAX_BODY} bytes")
    try:
        return json.loads(data) if data else {}
    except ValueError as error:
        raise BadRequest(400, "bad_json", f"body: expected JSON: {error}") from None


def _json(request: Any) -> dict[str, Any]:
    body = _parsed(request)
    if not isinstance(body, dict):
        raise BadRequest(400, "bad_json", f"body: expected a JSON object, got {type(body).__name__}")
    return body


def _json_list(request: Any) -> list[Any]:
    body = _parsed(request)
    if not isinstance(body, list):
        raise BadRequest(400, "bad_json", f"body: expected a JSON list, got {type(body).__name__}")
    return body


def _header(request: Any, name: str) -> str:
    value = request.getHeader(name)
    return value if isinstance(value, str) else ""


def _account(request: Any) -> str:
    return _header(request, "x-user-id") or _header(request, "x-device-id") or "anonymous"


def _echo(request: Any) -> dict[str, Any]:
    headers = {
        name.decode("latin-1").lower(): [value.decode("latin-1") for value in values]
        for name, values in request.requestHeaders.getAllRawHeaders()
    }
    return {
        "method": request.method.decode("latin-1"),
        "target": request.uri.decode("latin-1"),
        "headers": headers,
        "body": request.content.read(MAX_BODY).decode("utf-8", "replace"),
    }


def main(argv: list[str] | None = None) -> None:
    """Serve until interrupted; prints the address once it listens (port 0: the kernel chooses)."""
    parser = argparse.ArgumentParser(prog="python -m accessgw.demo.service", description="The demo upstream.")
    parser.add_argument("--host", default="127.0.0.1", help="%(default)s")
    parser.add_argument("--port", type=int, default=7800, help="%(default)s")
    args = parser.parse_args(argv)
    from twisted.internet import reactor as _reactor  # importing this module must not install one
    from twisted.internet.error import CannotListenError

    reactor: Any = _reactor
    try:
        port = reactor.listenTCP(args.port, make_site(reactor), interface=args.host)
    except CannotListenError as error:
        sys.exit(f"cannot listen: {error}")
    print(f"demo upstream on http://{args.host}:{port.getHost().port}", flush=True)
    reactor.run()


if __name__ == "__main__":
    main()

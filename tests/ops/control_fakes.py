"""A Control that remembers what was asked of it, and an exchange that remembers its answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from accessgw.core.interfaces.control import ControlError, MetricFamily
from accessgw.core.interfaces.dictionaries import DictionaryControl
from accessgw.core.interfaces.http import HttpUpload
from accessgw.core.interfaces.keys import KeyControl
from accessgw.core.interfaces.mqtt import MqttControl
from accessgw.model.calls import Headers
from accessgw.model.http import HttpRequest
from accessgw.model.identity import ConnectionInfo
from accessgw.model.pushes import PushRequest, PushResult, StreamKey
from accessgw.model.settings import ControlSettings, ControlTokenSettings, PushSettings
from accessgw.ops.control_api import ControlApi

SETTINGS = ControlSettings(
    tokens=(
        ControlTokenSettings(token="dev-push", roles=("push",), loopback_only=True),
        ControlTokenSettings(token="dev-read", roles=("read",), loopback_only=True),
        ControlTokenSettings(token="dev-operate", roles=("operate", "read"), loopback_only=True),
        ControlTokenSettings(token="anywhere", roles=("read",)),
    ),
    max_body=4096,
)


class FakeControl:
    def __init__(self) -> None:
        self.pushed: list[tuple[list[PushRequest], str, bytes]] = []
        self.push_answer: Callable[[Sequence[PushRequest]], Deferred[list[PushResult]]] = lambda requests: succeed(
            [PushResult(request.stream, 7, number, live=2) for number, request in enumerate(requests, 1)]
        )
        self.asked: list[Any] = []
        self.is_ready = (True, "")
        self.reload_answer: Callable[[], Deferred[dict[str, Any]]] = lambda: succeed(
            {"applied": ["routes"], "needs_restart": ["listeners[tls].port"]}
        )
        self.emit: Callable[[dict[str, Any]], None] | None = None
        self.devices_answer: list[dict[str, Any]] = []
        self.ended = 0

    def push(self, requests: Sequence[PushRequest], key: str, digest: bytes) -> Deferred[list[PushResult]]:
        self.pushed.append((list(requests), key, digest))
        return self.push_answer(requests)

    def device(self, device: str) -> Deferred[dict[str, Any]]:
        if device == "unknown":
            return fail(ControlError(404, "not_found", "no such device: unknown"))
        if self.devices_answer:
            return succeed(self.devices_answer[0])
        return succeed({"device": device, "user": "alice", "connected": True, "session": {"generation": [1, 2]}})

    def devices(self, user: str, connected: bool | None, after: str, limit: int) -> list[dict[str, Any]]:
        self.asked.append((user, connected, after, limit))
        return self.devices_answer or [
            {"device": f"d{n}", "user": "alice", "connected": True} for n in range(min(limit, 3))
        ]

    def close_device(self, device: str, revoke: bool = False) -> bool:
        self.asked.append(("revoke" if revoke else "close", device))
        return device not in ("away", "unknown")

    def stream(self, key: StreamKey) -> Deferred[dict[str, Any]]:
        self.asked.append(key)
        return succeed({"epoch": 1, "head": 5, "floor": 0})

    def drain(self, seconds: float) -> dict[str, Any]:
        self.asked.append(("drain", seconds))
        return {"connections": 10, "seconds": seconds}

    def reload(self) -> Deferred[dict[str, Any]]:
        self.asked.append("reload")
        return self.reload_answer()

    def config(self) -> dict[str, Any]:
        return {"settings": {"zone": "local"}, "backends": {"http": "httptools"}}

    def workers(self) -> list[dict[str, Any]]:
        return [{"pid": 42, "connections": 3}]

    def status(self) -> dict[str, Any]:
        return {"state": "ready", "version": "0.1.0", "connections": 3}

    def ready(self) -> tuple[bool, str]:
        return self.is_ready

    def metrics(self) -> list[MetricFamily]:
        return [MetricFamily("accessgw_calls_total", "counter", "Calls.", [("", {}, 5)])]

    def top(self, limit: int) -> dict[str, Any]:
        self.asked.append(("top", limit))
        return {"operations": [{"operation": "payments.pay", "calls": 5, "seconds": 0.5}]}

    def trace(self, device: str, emit: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        if device == "unknown":
            raise ControlError(404, "not_found", "no such device: unknown")
        return self.events(emit)

    def events(self, emit: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        self.emit = emit
        emit({"type": "status", "connections": 3})

        def end() -> None:
            self.ended += 1

        return end


class FakeExchange:
    """Records what the handler answers."""

    def __init__(self, method: str, target: str, headers: Headers, loopback: bool = True) -> None:
        connection = ConnectionInfo(id=1, listener="control", transport="tcp", peer="127.0.0.1", loopback=loopback)
        self.request = HttpRequest(method, target, headers, connection)
        self.buffered = 0
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.finished = False

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        assert not self.status, "answered twice"
        self.start(status, headers)
        self.write(body)
        self.finish()

    def start(self, status: int, headers: Headers) -> None:
        assert not self.status, "answered twice"
        assert all(name == name.lower() for name, _ in headers)
        self.status, self.headers = status, dict(headers)

    def write(self, data: bytes) -> None:
        assert self.status and not self.finished
        self.body += data

    def finish(self) -> None:
        self.finished = True

    def abort(self) -> None:
        self.finished = True

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


class Api:
    """A ControlApi over a FakeControl, with a way to ask it."""

    def __init__(
        self,
        settings: ControlSettings = SETTINGS,
        pushes: PushSettings | None = None,
        mqtt: MqttControl | None = None,
        dictionaries: DictionaryControl | None = None,
        keys: KeyControl | None = None,
    ) -> None:
        self.clock = Clock()
        self.control = FakeControl()
        self.handler = ControlApi(
            self.control,
            settings,
            pushes or PushSettings(),
            self.clock,
            mqtt=mqtt,
            dictionaries=dictionaries,
            keys=keys,
            wall=lambda: 1000.0,
        )

    def open(
        self, method: str, target: str, body: Any = b"", token: str = "", loopback: bool = True, **headers: str
    ) -> tuple[FakeExchange, HttpUpload]:
        fields = [(name.replace("_", "-"), value) for name, value in headers.items()]
        if token:
            fields.append(("authorization", f"Bearer {token}"))
        exchange = FakeExchange(method, target, fields, loopback)
        upload = self.handler(exchange)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        if data:
            upload.data(data[:1])
            upload.data(data[1:])
        upload.finished()
        return exchange, upload

    def ask(self, method: str, target: str, body: Any = b"", token: str = "", **more: Any) -> FakeExchange:
        return self.open(method, target, body, token, **more)[0]

    def push(self, body: Any, **more: Any) -> FakeExchange:
        return self.ask("POST", "/v1/push", body, "dev-push", **more)

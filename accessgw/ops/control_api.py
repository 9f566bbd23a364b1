"""The control API: every path that operators and services call, on top of the Control interface."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred

from accessgw.core.interfaces.clock import Clock
from accessgw.core.interfaces.control import Control, ControlError
from accessgw.core.interfaces.dictionaries import DictionaryControl
from accessgw.core.interfaces.keys import KeyControl
from accessgw.core.interfaces.mqtt import MqttControl
from accessgw.model.pushes import PushResult, Scope, StreamKey
from accessgw.model.settings import ControlSettings, PushSettings
from accessgw.ops import dashboard
from accessgw.ops.dictionaries_api import DictionariesApi
from accessgw.ops.http_api import HttpApi, Reply, Request, Route, check_key
from accessgw.ops.keys_api import KeysApi
from accessgw.ops.metrics import CONTENT_TYPE, render
from accessgw.ops.mqtt_api import MqttApi
from accessgw.ops.push_request import parse_pushes
from accessgw.ops.queries import one_of, only, only_keys, page_limit, shown

NOT_BUILT = (("POST", "/v1/upgrade", "operate"),)
"""Paths that are promised but answer 501."""


class ControlApi(HttpApi):
    """The HttpHandler of the control listener. It acts only through `control`.

    Without `mqtt` the paths under /v1/mqtt answer 404 `not_enabled`, and so for `dictionaries` and `keys`. `describe`
    makes the body of /.well-known/accessgw; without it the path does not exist here. `wall` is the wall clock.
    """

    def __init__(
        self,
        control: Control,
        settings: ControlSettings,
        pushes: PushSettings,
        clock: Clock,
        *,
        mqtt: MqttControl | None = None,
        dictionaries: DictionaryControl | None = None,
        keys: KeyControl | None = None,
        describe: Callable[[], dict[str, object]] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._control = control
        self._keys = keys
        self.pushes = pushes
        routes = [
            Route("GET", "/", "", self._dashboard),
            Route("GET", "/health/live", "", self._live),
            Route("GET", "/health/ready", "", self._ready),
            Route("GET", "/metrics", "read", self._metrics),
            Route("POST", "/v1/push", "push", self._push, own_idempotency=True),
            Route("GET", "/v1/status", "read", lambda request: Reply(control.status())),
            Route("GET", "/v1/devices", "read", self._devices),
            Route("GET", "/v1/devices/{id}", "read", self._device),
            Route("POST", "/v1/devices/{id}/close", "operate", self._close),
            Route("GET", "/v1/devices/{id}/trace", "read", subscribe=self._trace),
            Route("GET", "/v1/streams/{scope}/{id}/{biz}", "read", self._stream_state),
            Route("POST", "/v1/drain", "operate", self._drain),
            Route("POST", "/v1/reload", "operate", lambda request: control.reload().addCallback(Reply)),
            Route("GET", "/v1/config", "read", lambda request: Reply(control.config())),
            Route("GET", "/v1/workers", "read", lambda request: Reply({"workers": control.workers()})),
            Route("GET", "/v1/top", "read", self._top),
            Route("GET", "/v1/events", "read", subscribe=self._events),
            *DictionariesApi(dictionaries).routes(),
            *KeysApi(keys, control.close_device).routes(),
            *MqttApi(mqtt, lambda: self.pushes.max_batch, wall).routes(),
            *(Route(method, path, role, _not_built) for method, path, role in NOT_BUILT),
        ]
        if describe is not None:
            routes.append(Route("GET", "/.well-known/accessgw", "", lambda request: Reply(describe())))
        super().__init__(routes, settings, clock)

    # ------------------------------------------------------------------ pushes

    def _push(self, request: Request) -> Deferred[Reply]:
        key = request.idempotency_key
        if request.has_idempotency_key:
            check_key(key)
        requests, as_list = parse_pushes(request.body, self.pushes.max_batch, self.pushes.max_payload)

        def answer(results: list[PushResult]) -> Reply:
            if as_list:
                return Reply([_result(result) for result in results])
            (result,) = results
            if result.error:
                raise ControlError(403, "refused", result.error)
            return Reply(_result(result))

        return self._control.push(requests, key, request.digest()).addCallback(answer)

    # ------------------------------------------------------------------ devices and streams

    def _devices(self, request: Request) -> Reply:
        query = only(request.query, "user", "connected", "after", "limit")
        wanted = one_of(query, "connected", {"": None, "true": True, "false": False})
        limit = page_limit(query, 100, 1000)
        found = self._control.devices(query.get("user", ""), wanted, query.get("after", ""), limit)
        more = found[-1].get("device") if len(found) == limit else None
        return Reply({"devices": found, "next": more})

    def _device(self, request: Request) -> Deferred[Reply]:
        return self._control.device(request.params["id"]).addCallback(Reply)

    def _close(self, request: Request) -> Reply | Deferred[Reply]:
        device = request.params["id"]
        body = request.json()
        only_keys(body, "revoke")
        revoke = body.get("revoke", False)
        if not isinstance(revoke, bool):
            raise ControlError(400, "invalid", f"revoke: expected true or false, got {shown(revoke)}", "revoke")
        done = self._control.close_device(device, revoke)
        reply = Reply({"device": device, "closed": done} | ({"revoked": done} if revoke else {}))
        if not revoke or self._keys is None:
            return reply
        # a ticket is a key of the session, too
        return self._keys.revoke_device(device).addCallback(lambda _: reply)

    def _stream_state(self, request: Request) -> Deferred[Reply]:
        scope, id, biz = request.params["scope"], request.params["id"], request.params["biz"]
        if scope not in list(Scope):
            raise ControlError(
                400, "invalid", f'scope: expected device, user, topic or broadcast, got "{scope}"', "scope"
            )
        if scope == Scope.BROADCAST:
            if id not in ("", "-"):
                raise ControlError(400, "invalid", f'id: expected - for a broadcast, got "{id}"', "id")
            id = ""
        elif not id:
            raise ControlError(400, "invalid", "id: expected the name of a stream, got nothing", "id")
        return self._control.stream(StreamKey(Scope(scope), id, biz)).addCallback(Reply)

    # ------------------------------------------------------------------ the gateway

    def _drain(self, request: Request) -> Reply:
        body = request.json()
        only_keys(body, "seconds")
        seconds = body.get("seconds", 0)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 86400:
            raise ControlError(400, "invalid", f"seconds: expected a number in 0..86400, got {seconds}", "seconds")
        return Reply(self._control.drain(float(seconds)))

    def _top(self, request: Request) -> Reply:
        return Reply(self._control.top(page_limit(only(request.query, "limit"), 20, 1000)))

    def _live(self, _request: Request) -> Reply:
        return Reply({"status": "live"})

    def _ready(self, _request: Request) -> Reply:
        ready, reason = self._control.ready()
        return Reply({"status": "ready"}) if ready else Reply({"status": "not ready", "reason": reason}, 503)

    def _metrics(self, _request: Request) -> Reply:
        return Reply(render(self._control.metrics()), headers=(("content-type", CONTENT_TYPE),))

    def _dashboard(self, _request: Request) -> Reply:
        return Reply(dashboard.PAGE, headers=dashboard.HEADERS)

    def _trace(self, request: Request, emit: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        return self._control.trace(request.params["id"], emit)

    def _events(self, _request: Request, emit: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        return self._control.events(emit)


def _not_built(_request: Request) -> Reply:
    raise ControlError(501, "not_built", "this version of the gateway does not have it")


def _result(result: PushResult) -> dict[str, Any]:
    if result.error:
        return {"stream": stream_name(result.stream), "error": {"code": "refused", "message": result.error}}
    return {"stream": stream_name(result.stream), "epoch": result.epoch, "seq": result.seq, "live": result.live}


def stream_name(key: StreamKey) -> str:
    """A stream as its path under /v1/streams/: `user/alice/orders`, `broadcast/-/news`."""
    return "/".join((key.scope.value, quote(key.id, safe="") or "-", quote(key.biz, safe="")))

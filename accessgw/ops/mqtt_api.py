"""The control API's paths under /v1/mqtt: publish, ask, watch, look and act, on top of the MqttControl interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast
from urllib.parse import unquote, unquote_to_bytes

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from accessgw.config import syntax
from accessgw.core.interfaces.control import ControlError
from accessgw.core.interfaces.mqtt import MqttControl
from accessgw.core.interfaces.stores import StoreUnavailable
from accessgw.ops.http_api import Handler, Reply, Request, Route, Subscriber
from accessgw.ops.mqtt_message import message_view, parse_messages, parse_request, plain
from accessgw.ops.queries import one_of, only, only_keys, page_limit, shown

log = Logger()

Emit = Callable[[dict[str, Any]], None]
_SPACE = "\0"
"""Stands for a `+` of the query while it is not clear what it meant; no filter can have it."""


class MqttApi:
    """Makes the routes. Without `mqtt` each of them answers 404 `not_enabled`.

    `max_batch` tells how many messages a list may have; `wall` is the wall clock in seconds.
    """

    def __init__(self, mqtt: MqttControl | None, max_batch: Callable[[], int], wall: Callable[[], float]) -> None:
        self._enabled = mqtt is not None
        self._mqtt = cast(MqttControl, mqtt)
        self._max_batch = max_batch
        self._wall = wall

    def routes(self) -> list[Route]:
        """Every path with its role."""
        return [
            Route("POST", "/v1/mqtt/publish", "push", self._if_enabled(self._publish)),
            Route("POST", "/v1/mqtt/request", "push", self._if_enabled(self._request)),
            Route("GET", "/v1/mqtt/subscribe", "read", subscribe=self._stream_if_enabled(self._subscribe)),
            Route("GET", "/v1/mqtt/trace", "read", subscribe=self._stream_if_enabled(self._trace)),
            Route("GET", "/v1/mqtt/clients", "read", self._if_enabled(self._clients)),
            Route("GET", "/v1/mqtt/clients/{id}", "read", self._if_enabled(self._client)),
            Route("POST", "/v1/mqtt/clients/{id}/kick", "operate", self._if_enabled(self._kick)),
            Route("GET", "/v1/mqtt/subscriptions", "read", self._if_enabled(self._subscriptions)),
            Route("GET", "/v1/mqtt/retained", "read", self._if_enabled(self._retained)),
            Route("DELETE", "/v1/mqtt/retained/{topic}", "operate", self._if_enabled(self._remove_retained)),
            Route("GET", "/v1/mqtt/top", "read", self._if_enabled(self._top)),
            Route("GET", "/v1/mqtt/bridges", "read", self._if_enabled(self._bridges)),
            Route("GET", "/v1/mqtt/stats", "read", self._if_enabled(self._stats)),
        ]

    def _if_enabled(self, handle: Handler) -> Handler:
        return handle if self._enabled else _not_enabled

    def _stream_if_enabled(self, subscribe: Subscriber) -> Subscriber:
        return subscribe if self._enabled else _no_stream

    # ------------------------------------------------------------------ messages

    def _publish(self, request: Request) -> Deferred[Reply]:
        messages, as_list = parse_messages(request.body, self._max_batch(), self._wall())
        if not as_list:
            (message,) = messages
            return maybeDeferred(self._mqtt.publish, message).addCallback(lambda count: Reply({"receivers": count}))

        def answer(results: list[tuple[bool, Any]]) -> Reply:
            failures = [result for done, result in results if not done]
            if len(failures) == len(results) and all(failure.check(StoreUnavailable) for failure in failures):
                failures[0].raiseException()
            return Reply([_item(done, result) for done, result in results])

        publishing = [maybeDeferred(self._mqtt.publish, message) for message in messages]
        return DeferredList(publishing, consumeErrors=True).addCallback(answer)

    def _request(self, request: Request) -> Deferred[Reply]:
        asked = parse_request(request.body)
        asking = maybeDeferred(self._mqtt.request, asked.device, asked.topic, asked.payload, asked.timeout)
        return asking.addCallback(lambda answer: Reply(plain(answer)))

    def _subscribe(self, request: Request, emit: Emit) -> Callable[[], None]:
        only(request.query, "filter")
        return self._mqtt.subscribe(
            _filter(request), lambda message: emit({"type": "message", **message_view(message)})
        )

    def _trace(self, request: Request, emit: Emit) -> Callable[[], None]:
        only(request.query, "filter")
        return self._mqtt.trace_topic(_filter(request), lambda event: emit(plain(event)))

    # ------------------------------------------------------------------ clients and subscriptions

    def _clients(self, request: Request) -> Reply:
        query = only(request.query, "after", "limit", "connected")
        limit = page_limit(query, 100, 1000)
        connected = one_of(query, "connected", {"": None, "true": True, "false": False})
        found = self._mqtt.clients(query.get("after", ""), limit, connected)
        return Reply({"clients": plain(found), "next": found[-1].get("client") if len(found) == limit else None})

    def _client(self, request: Request) -> Reply:
        return Reply(plain(self._mqtt.client(request.params["id"])))

    def _kick(self, request: Request) -> Reply:
        client = request.params["id"]
        body = request.json()
        only_keys(body, "discard")
        discard = body.get("discard", False)
        if not isinstance(discard, bool):
            raise ControlError(400, "invalid", f"discard: expected true or false, got {shown(discard)}", "discard")
        kicked = self._mqtt.kick(client, discard)
        return Reply({"client": client, "kicked": kicked, "discarded": kicked and discard})

    def _subscriptions(self, request: Request) -> Reply:
        query = only(request.query, "filter", "after", "after_client", "limit")
        limit = page_limit(query, 100, 1000)
        filter = _filter(request, required=False)
        after, client = _raw(request, "after"), query.get("after_client", "")
        # neither a filter nor a client id can have U+0000, so that this sorts as the pair does
        place = f"{after}\0{client}" if after or client else ""
        found = self._mqtt.subscriptions(filter, place, limit)
        last = found[-1] if len(found) == limit else None
        more = None if last is None else {"after": last.get("filter"), "after_client": last.get("client")}
        return Reply({"subscriptions": plain(found), "next": more})

    # ------------------------------------------------------------------ retained messages

    def _retained(self, request: Request) -> Reply:
        query = only(request.query, "filter", "after", "limit")
        limit = page_limit(query, 100, 1000)
        found = self._mqtt.retained(_filter(request, required=False) or "#", query.get("after", ""), limit)
        return Reply({"retained": plain(found), "next": found[-1].get("topic") if len(found) == limit else None})

    def _remove_retained(self, request: Request) -> Deferred[Reply]:
        topic = request.params["topic"]
        if not syntax.is_topic_name(topic):
            raise ControlError(
                400, "invalid", f'topic: expected a topic without wildcards, got "{topic[:60]}"', "topic"
            )
        removing = maybeDeferred(self._mqtt.remove_retained, topic)
        return removing.addCallback(lambda removed: Reply({"topic": topic, "removed": removed}))

    # ------------------------------------------------------------------ figures

    def _top(self, request: Request) -> Reply:
        return Reply(plain(self._mqtt.top(page_limit(only(request.query, "limit"), 20, 1000))))

    def _bridges(self, _request: Request) -> Reply:
        return Reply({"bridges": plain(self._mqtt.bridges())})

    def _stats(self, _request: Request) -> Reply:
        return Reply(self._mqtt.stats())


def _not_enabled(_request: Request) -> Reply:
    raise ControlError(404, "not_enabled", "no listener of this gateway speaks MQTT")


def _no_stream(request: Request, _emit: Emit) -> Callable[[], None]:
    _not_enabled(request)
    return lambda: None


def _item(done: bool, result: int | Failure) -> dict[str, Any]:
    """The result of one message of a list."""
    if not isinstance(result, Failure):
        return {"receivers": result}
    error = result.value
    if isinstance(error, ControlError):
        return {"error": {"code": error.code, "message": str(error)}}
    if isinstance(error, StoreUnavailable):
        return {"error": {"code": "store_unavailable", "message": str(error)}}
    log.failure("control API", failure=result)
    return {"error": {"code": "internal", "message": "the request failed; the gateway's log says why"}}


# ------------------------------------------------------------------ filters in queries


def _filter(request: Request, required: bool = True) -> str:
    filter = _raw(request, "filter")
    if not filter and not required:
        return ""
    if not syntax.is_topic_filter(filter):
        raise ControlError(400, "invalid", f'filter: expected a topic filter, got "{filter[:60]}"', "filter")
    return filter


def _raw(request: Request, name: str) -> str:
    """A topic filter of the query. Forms write a space as `+`, people write `+` and mean it: a `+` alone in its level
    is the wildcard; within a level, where no wildcard may stand, it was a space."""
    found = ""
    for field in request.http.target.partition("?")[2].split("&"):
        key, _, value = field.partition("=")
        if unquote(key) == name:
            found = value
    if "%00" in found:
        raise ControlError(400, "invalid", f"{name}: expected a topic filter, got U+0000 in it", name)
    try:
        text = unquote_to_bytes(found.replace("+", _SPACE)).decode()
    except UnicodeDecodeError:
        raise ControlError(400, "invalid", f"{name}: expected percent-encoded UTF-8", name) from None
    return "/".join("+" if level == _SPACE else level.replace(_SPACE, " ") for level in text.split("/"))

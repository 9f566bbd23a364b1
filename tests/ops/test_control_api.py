from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.logger import globalLogPublisher

from accessgw.core.interfaces.control import ControlError
from accessgw.core.interfaces.stores import IdempotencyConflict, StoreUnavailable
from accessgw.model.pushes import Priority, PushResult, Scope, StreamKey
from accessgw.model.settings import ControlSettings, PushSettings
from accessgw.ops.control_api import ControlApi
from tests.ops.control_fakes import SETTINGS, Api

PUSH = {"to": {"device": "d1"}, "biz": "orders", "payload": {"text": "您的订单已发货"}}


@pytest.fixture
def api() -> Api:
    return Api()


# ------------------------------------------------------------------ who may do what

PATHS = [
    ("GET", "/metrics", "read"),
    ("GET", "/v1/status", "read"),
    ("GET", "/v1/devices", "read"),
    ("GET", "/v1/devices/d1", "read"),
    ("GET", "/v1/streams/device/d1/orders", "read"),
    ("GET", "/v1/config", "read"),
    ("GET", "/v1/workers", "read"),
    ("GET", "/v1/top", "read"),
    ("GET", "/v1/events", "read"),
    ("GET", "/v1/devices/d1/trace", "read"),
    ("POST", "/v1/devices/d1/close", "operate"),
    ("POST", "/v1/drain", "operate"),
    ("POST", "/v1/reload", "operate"),
    ("POST", "/v1/push", "push"),
]


@pytest.mark.parametrize(("method", "path", "role"), PATHS)
def test_every_path_needs_its_role(api: Api, method: str, path: str, role: str) -> None:
    body: Any = PUSH if role == "push" else b""
    assert api.ask(method, path, body, f"dev-{role}").status == 200
    other = "read" if role != "read" else "push"
    refused = api.ask(method, path, body, f"dev-{other}")
    assert refused.status == 403
    assert refused.json["error"]["code"] == "forbidden"
    assert f"role {role}" in refused.json["error"]["message"]
    nobody = api.ask(method, path, body)
    assert nobody.status == 401
    assert nobody.headers["www-authenticate"].startswith("Bearer")


def test_a_refused_request_did_nothing(api: Api) -> None:
    api.ask("POST", "/v1/drain", token="dev-read")
    api.ask("POST", "/v1/push", PUSH, token="dev-operate")
    assert (api.control.asked, api.control.pushed) == ([], [])


@pytest.mark.parametrize(
    "header", ["", "dev-read", "Basic ZGV2", "Bearer", "Bearer ", "Bearer dev-reads", "Bearer 读", "Bearer \udcff"]
)
def test_other_authorization_headers_are_refused(api: Api, header: str) -> None:
    exchange = api.ask("GET", "/v1/status", authorization=header)
    assert exchange.status == 401
    assert exchange.json["error"]["code"] == "unauthorized"


def test_the_scheme_is_case_insensitive(api: Api) -> None:
    assert api.ask("GET", "/v1/status", authorization="bearer dev-read").status == 200


def test_development_tokens_are_accepted_from_loopback_only(api: Api) -> None:
    refused = api.ask("GET", "/v1/status", token="dev-read", loopback=False)
    assert refused.status == 401
    assert "loopback" in refused.json["error"]["message"]
    assert api.ask("GET", "/v1/status", token="anywhere", loopback=False).status == 200


def test_without_tokens_only_health_answers() -> None:
    api = Api(ControlSettings())
    assert api.ask("GET", "/health/live").status == 200
    assert api.ask("GET", "/v1/status", token="dev-read").status == 401


def test_other_tokens_after_reconfigure(api: Api) -> None:
    api.handler.reconfigure(ControlSettings())
    assert api.ask("GET", "/v1/status", token="dev-read").status == 401


# ------------------------------------------------------------------ paths and bodies


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/devices/a/b", "/nothing", "//", "/v1/push/x", "/V1/status"])
def test_unknown_paths(api: Api, path: str) -> None:
    exchange = api.ask("GET", path, token="dev-read")
    assert (exchange.status, exchange.json["error"]["code"]) == (404, "not_found")


def test_head_goes_wherever_get_does_but_not_to_streams(api: Api) -> None:
    assert api.ask("HEAD", "/health/ready").status == 200
    assert api.ask("HEAD", "/v1/status", token="dev-read").status == 200
    assert api.ask("HEAD", "/v1/status").status == 401
    assert api.ask("OPTIONS", "/health/ready").headers["allow"] == "GET, HEAD"
    refused = api.ask("HEAD", "/v1/events", token="dev-read")
    assert (refused.status, refused.headers["allow"]) == (405, "GET")


def test_a_wrong_method_says_what_is_allowed(api: Api) -> None:
    exchange = api.ask("DELETE", "/v1/push", token="dev-push")
    assert (exchange.status, exchange.headers["allow"]) == (405, "POST")
    assert exchange.json["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    ("method", "path", "token"),
    [
        ("POST", "/v1/upgrade", "dev-operate"),
    ],
)
def test_what_is_not_built_says_so(api: Api, method: str, path: str, token: str) -> None:
    exchange = api.ask(method, path, token=token)
    assert exchange.status == 501
    assert exchange.json["error"]["code"] == "not_built"
    assert api.ask(method, path).status == 401


def test_an_outlandish_content_length_is_413(api: Api) -> None:
    assert api.push(b"", content_length="9" * 5000).status == 413


@pytest.mark.parametrize("told", [True, False])
def test_a_large_body_is_413(api: Api, told: bool) -> None:
    size = SETTINGS.max_body + 1
    headers = {"content_length": str(size)} if told else {}
    exchange = api.push(b"x" * size, **headers)
    assert exchange.status == 413
    assert exchange.json["error"]["code"] == "too_large"
    assert api.control.pushed == []


@pytest.mark.parametrize("path", ["/v1/devices/%ff", "/v1/streams/topic/%80/a"])
def test_a_path_that_is_no_text(api: Api, path: str) -> None:
    assert api.ask("GET", path, token="dev-read").status == 400


def test_answers_are_not_cached_and_not_sniffed(api: Api) -> None:
    for exchange in (api.ask("GET", "/health/live"), api.ask("GET", "/nothing"), api.push(PUSH)):
        assert exchange.headers["cache-control"] == "no-store"
        assert exchange.headers["x-content-type-options"] == "nosniff"


def test_a_defect_is_500_and_logged_without_its_details_in_the_answer(api: Api) -> None:
    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)
    try:
        api.control.push_answer = lambda requests: fail(RuntimeError("inner secret"))
        exchange = api.push(PUSH)
        api.control.config = None  # type: ignore[assignment,method-assign]
        other = api.ask("GET", "/v1/config", token="dev-read")
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert (exchange.status, other.status) == (500, 500)
    assert b"inner secret" not in exchange.body
    assert any("inner secret" in str(event.get("log_failure")) for event in events)


# ------------------------------------------------------------------ pushes


def test_one_push(api: Api) -> None:
    exchange = api.push(PUSH | {"ttl": 60, "collapse": "order-1", "priority": 1})
    assert exchange.status == 200
    assert exchange.json == {"stream": "device/d1/orders", "epoch": 7, "seq": 1, "live": 2}
    ((request,), key, digest) = api.control.pushed[0]
    assert request.stream == StreamKey(Scope.DEVICE, "d1", "orders")
    assert json.loads(request.body) == PUSH["payload"]
    assert (request.ttl, request.collapse, request.priority) == (60.0, "order-1", Priority.NEXT_ACTIVITY)
    assert (key, len(digest)) == ("", 32)


def test_payload_bytes_stay_as_they_were_sent(api: Api) -> None:
    api.push(b'{"to": {"user": "u"}, "biz": "b", "payload": {"amount": 1.10, "big": 123456789012345678901}}')
    assert api.control.pushed[0][0][0].body == b'{"amount": 1.10, "big": 123456789012345678901}'


@pytest.mark.parametrize(
    ("payload", "body"), [(None, b"null"), ("x", b'"x"'), (0, b"0"), ([], b"[]"), (False, b"false")]
)
def test_a_payload_is_any_json(api: Api, payload: Any, body: bytes) -> None:
    assert api.push(PUSH | {"payload": payload}).status == 200
    assert api.control.pushed[0][0][0].body == body


def test_a_binary_payload(api: Api) -> None:
    assert (
        api.push({"to": {"topic": "news/sport"}, "biz": "b", "payload_b64": "AAH/"}).json["stream"]
        == "topic/news%2Fsport/b"
    )
    assert api.control.pushed[0][0][0].body == b"\x00\x01\xff"


def test_a_broadcast_with_a_condition(api: Api) -> None:
    where = {"app": "wallet", "os": ["ios", "android"], "app_version": ">=2.1"}
    exchange = api.push({"to": {"broadcast": True, "where": where}, "biz": "notice", "payload": 1})
    assert exchange.json["stream"] == "broadcast/-/notice"
    (request,) = api.control.pushed[0][0]
    assert request.stream == StreamKey(Scope.BROADCAST, "", "notice")
    assert request.where == where


def test_a_list_answers_a_result_per_item(api: Api) -> None:
    def answer(requests: Any) -> Deferred[list[PushResult]]:
        done: Deferred[list[PushResult]] = Deferred()
        done.callback([PushResult(requests[0].stream, 7, 1), PushResult(requests[1].stream, 0, 0, error="not today")])
        return done

    api.control.push_answer = answer
    exchange = api.push([PUSH, PUSH])
    assert exchange.status == 200
    assert exchange.json == [
        {"stream": "device/d1/orders", "epoch": 7, "seq": 1, "live": 0},
        {"stream": "device/d1/orders", "error": {"code": "refused", "message": "not today"}},
    ]
    single = Api()
    single.control.push_answer = lambda requests: answer([*requests, *requests]).addCallback(lambda found: found[1:])
    assert (single.push(PUSH).status, single.push(PUSH).json["error"]["code"]) == (403, "refused")


def test_the_answer_waits_for_the_durable_append(api: Api) -> None:
    appended: Deferred[list[PushResult]] = Deferred()
    api.control.push_answer = lambda requests: appended
    exchange = api.push(PUSH)
    assert exchange.status == 0
    appended.callback([PushResult(StreamKey(Scope.DEVICE, "d1", "orders"), 1, 9)])
    assert (exchange.status, exchange.json["seq"]) == (200, 9)


LONG = "x" * 257


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        ({"to": {}}, "to", "expected exactly one of device, user, topic, broadcast"),
        ({"to": {"device": "a", "user": "b"}}, "to", "expected exactly one of device, user, topic, broadcast"),
        ({"to": "d1"}, "to", 'expected an object, got "d1"'),
        ({"to": None}, "to", "expected an object, got nothing"),
        ({"to": {"device": ""}}, "to.device", 'expected 1 to 256 bytes of printable text, got ""'),
        ({"to": {"device": 7}}, "to.device", "expected 1 to 256 bytes of printable text, got 7"),
        ({"to": {"device": "a\nb"}}, "to.device", 'expected 1 to 256 bytes of printable text, got "a\\nb"'),
        ({"to": {"device": "a", "os": "ios"}}, "to.os", "unknown key, expected device, user, topic, broadcast or where"),
        ({"to": {"broadcast": False}}, "to.broadcast", "expected true, got false"),
        ({"to": {"broadcast": 1}}, "to.broadcast", "expected true, got 1"),
        ({"to": {"broadcast": True, "where": 3}}, "to.where", "expected an object, got 3"),
        ({"to": {"broadcast": True, "where": {"os": {}}}}, "to.where.os", "expected text, a number or a list of them, got {}"),
        ({"to": {"broadcast": True, "where": {"os": []}}}, "to.where.os", "expected text, a number or a list of them, got []"),
        ({"to": {"broadcast": True, "where": {"os": ["ios", None]}}}, "to.where.os",
         'expected text, a number or a list of them, got ["ios",null]'),
        ({"biz": ""}, "biz", 'expected 1 to 256 bytes of printable text, got ""'),
        ({"biz": LONG}, "biz", f'expected 1 to 256 bytes of printable text, got "{LONG[:56]}...'),
        ({"collapse": 3}, "collapse", "expected 1 to 256 bytes of printable text, got 3"),
        ({"ttl": 0}, "ttl", "expected seconds greater than 0 and at most 315360000, got 0"),
        ({"ttl": "1"}, "ttl", 'expected seconds greater than 0 and at most 315360000, got "1"'),
        ({"ttl": True}, "ttl", "expected seconds greater than 0 and at most 315360000, got true"),
        ({"priority": 3}, "priority", "expected 0, 1 or 2, got 3"),
        ({"priority": True}, "priority", "expected 0, 1 or 2, got true"),
        ({"priority": "now"}, "priority", 'expected 0, 1 or 2, got "now"'),
        ({"payload_b64": "AA=="}, "payload", "expected exactly one of payload and payload_b64"),
        ({"prioritty": 1}, "prioritty", "unknown key, expected to, biz, payload, payload_b64, ttl, collapse, priority"),
    ],
)  # fmt: skip
def test_bad_pushes_are_told_with_their_path(api: Api, change: dict[str, Any], path: str, message: str) -> None:
    single = api.push(PUSH | change)
    assert (single.status, single.json["error"]) == (
        400,
        {"code": "invalid", "message": f"{path}: {message}", "path": path},
    )
    several = api.push([PUSH, PUSH, PUSH, PUSH | change])
    assert several.status == 400
    assert several.json["error"]["path"] == f"[3].{path}"
    assert several.json["error"]["message"] == f"[3].{path}: {message}"
    assert api.control.pushed == [], "nothing of a bad list is done"


@pytest.mark.parametrize("ttl", ["1e999", "1" + "0" * 400, "-1e-5", "1e400"])
def test_outlandish_numbers(api: Api, ttl: str) -> None:
    body = f'{{"to": {{"device": "d"}}, "biz": "b", "payload": 1, "ttl": {ttl}}}'
    assert api.push(body.encode()).status == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
ANY_PUSH = st.fixed_dictionaries(
    {},
    optional={
        "to": st.fixed_dictionaries({}, optional={"device": JSON, "topic": JSON, "broadcast": JSON, "where": JSON}) | JSON,
        "biz": st.just("b") | JSON, "payload": JSON, "payload_b64": JSON, "ttl": JSON, "collapse": JSON, "priority": JSON,
    },
)  # fmt: skip


@given(ANY_PUSH.map(json.dumps).map(str.encode) | st.binary(max_size=40) | JSON.map(json.dumps).map(str.encode))
def test_whatever_comes_is_taken_or_refused_with_a_reason(body: bytes) -> None:
    api = Api()
    exchange = api.push(body)
    assert exchange.status in (200, 400)
    assert bool(api.control.pushed) == (exchange.status == 200)
    if exchange.status == 400:
        assert exchange.json["error"]["code"] == "invalid"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[", b"3", b"null", b"[3]", b"[[]]", b'"x"', b"\xff", b"[" * 3000, b'{"to": NaN}', b"[]"]
)
def test_bodies_that_are_no_pushes(api: Api, body: bytes) -> None:
    exchange = api.push(body)
    assert (exchange.status, exchange.json["error"]["code"]) == (400, "invalid")


@pytest.mark.parametrize(
    ("payload", "path"),
    [('"payload_b64": "*"', "payload_b64"), ('"payload_b64": 3', "payload_b64"), ('"ttl": 3', "payload")],
)
def test_bad_payloads(api: Api, payload: str, path: str) -> None:
    exchange = api.push(f'{{"to": {{"device": "d"}}, "biz": "b", {payload}}}'.encode())
    assert (exchange.status, exchange.json["error"]["path"]) == (400, path)


def test_a_payload_that_is_no_utf8(api: Api) -> None:
    assert api.push(b'{"to": {"device": "d"}, "biz": "b", "payload": "\xff"}').status == 400


def test_bounds_of_pushes() -> None:
    api = Api(pushes=PushSettings(max_batch=2, max_payload=10))
    assert api.push([PUSH | {"payload": 1}] * 2).status == 200
    assert api.push([PUSH | {"payload": 1}] * 3).status == 413
    large = api.push([PUSH | {"payload": 1}, PUSH | {"payload": "123456789"}])
    assert (large.status, large.json["error"]["path"]) == (413, "[1].payload")


def test_the_idempotency_key_of_a_push_goes_to_the_store_with_the_digest_of_the_request(api: Api) -> None:
    api.push(PUSH, idempotency_key="k1")
    api.push(PUSH, idempotency_key="k1")
    api.push(PUSH | {"biz": "other"}, idempotency_key="k1")
    (_, key, first), (_, _, second), (_, _, third) = api.control.pushed
    assert key == "k1"
    assert first == second != third
    assert api.push(PUSH, idempotency_key="x" * 256).status == 400
    assert api.push(PUSH, idempotency_key="").status == 400


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (IdempotencyConflict(), 409, "idempotency_conflict"),
        (StoreUnavailable("disk full"), 503, "store_unavailable"),
        (ControlError(503, "store_unavailable", "disk full"), 503, "store_unavailable"),
    ],
)
def test_errors_of_the_store(api: Api, error: Exception, status: int, code: str) -> None:
    api.control.push_answer = lambda requests: fail(error)
    exchange = api.push(PUSH)
    assert (exchange.status, exchange.json["error"]["code"]) == (status, code)


# ------------------------------------------------------------------ devices, streams, the gateway


def test_devices(api: Api) -> None:
    assert api.ask("GET", "/v1/devices/d%2F1", token="dev-read").json["device"] == "d/1"
    missing = api.ask("GET", "/v1/devices/unknown", token="dev-read")
    assert (missing.status, missing.json["error"]["code"]) == (404, "not_found")
    page = api.ask("GET", "/v1/devices?user=alice&connected=true&after=d0&limit=2", token="dev-read").json
    assert api.control.asked == [("alice", True, "d0", 2)]
    assert ([device["device"] for device in page["devices"]], page["next"]) == (["d0", "d1"], "d1")
    assert api.ask("GET", "/v1/devices", token="dev-read").json["next"] is None
    assert api.control.asked[-1] == ("", None, "", 100)


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "limit=1001", "limit=²", "limit=" + "9" * 5000, "connected=yes", "usr=a"]
)
def test_bad_queries_are_told(api: Api, query: str) -> None:
    exchange = api.ask("GET", f"/v1/devices?{query}", token="dev-read")
    assert (exchange.status, exchange.json["error"]["path"]) == (400, query.partition("=")[0])


def test_close(api: Api) -> None:
    assert api.ask("POST", "/v1/devices/d1/close", token="dev-operate").json == {"device": "d1", "closed": True}
    assert api.ask("POST", "/v1/devices/away/close", token="dev-operate").json["closed"] is False


def test_revoke(api: Api) -> None:
    def revoke(device: str, body: Any) -> Any:
        return api.ask("POST", f"/v1/devices/{device}/close", body, token="dev-operate").json

    assert revoke("d1", {"revoke": True}) == {"device": "d1", "closed": True, "revoked": True}
    assert revoke("away", {"revoke": True}) == {"device": "away", "closed": False, "revoked": False}
    assert revoke("d1", {"revoke": False}) == {"device": "d1", "closed": True}
    assert api.control.asked == [("revoke", "d1"), ("revoke", "away"), ("close", "d1")]
    assert revoke("d1", {"revoke": "yes"})["error"]["path"] == "revoke"
    assert revoke("d1", {"kick": True})["error"]["path"] == "kick"
    assert len(api.control.asked) == 3


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("topic/news%2Fsport/b%20z", StreamKey(Scope.TOPIC, "news/sport", "b z")),
        ("broadcast/-/notice", StreamKey(Scope.BROADCAST, "", "notice")),
        ("broadcast//notice", StreamKey(Scope.BROADCAST, "", "notice")),
        ("user/%E6%94%AF/b", StreamKey(Scope.USER, "支", "b")),
    ],
)
def test_streams(api: Api, path: str, key: StreamKey) -> None:
    assert api.ask("GET", f"/v1/streams/{path}", token="dev-read").json["head"] == 5
    assert api.control.asked == [key]


@pytest.mark.parametrize(("path", "wrong"), [("room/a/b", "scope"), ("broadcast/x/b", "id"), ("topic//b", "id")])
def test_bad_streams(api: Api, path: str, wrong: str) -> None:
    exchange = api.ask("GET", f"/v1/streams/{path}", token="dev-read")
    assert (exchange.status, exchange.json["error"]["path"]) == (400, wrong)


def test_drain(api: Api) -> None:
    assert api.ask("POST", "/v1/drain", {"seconds": 12.5}, "dev-operate").json["seconds"] == 12.5
    assert api.ask("POST", "/v1/drain", token="dev-operate").status == 200
    assert api.control.asked == [("drain", 12.5), ("drain", 0.0)]


@pytest.mark.parametrize("body", [{"seconds": -1}, {"seconds": "1"}, {"seconds": True}, {"second": 1}, b"[]", b"{"])
def test_bad_drains(api: Api, body: Any) -> None:
    assert api.ask("POST", "/v1/drain", body, "dev-operate").status == 400
    assert api.control.asked == []


def test_reload_refused_names_the_path(api: Api) -> None:
    assert api.ask("POST", "/v1/reload", token="dev-operate").json["needs_restart"] == ["listeners[tls].port"]
    api.control.reload_answer = lambda: fail(
        ControlError(422, "bad_config", "pushes.max_batch: expected an integer", "pushes.max_batch")
    )
    exchange = api.ask("POST", "/v1/reload", token="dev-operate")
    assert (exchange.status, exchange.json["error"]["path"]) == (422, "pushes.max_batch")


def test_health(api: Api) -> None:
    assert api.ask("GET", "/health/live").status == 200
    assert api.ask("GET", "/health/ready").status == 200
    api.control.is_ready = (False, "draining")
    exchange = api.ask("GET", "/health/ready")
    assert (exchange.status, exchange.json["reason"]) == (503, "draining")
    assert api.ask("GET", "/health/live").status == 200


def test_the_probe_is_there_when_it_is_described(api: Api) -> None:
    assert api.ask("GET", "/.well-known/accessgw").status == 404
    api.handler = ControlApi(api.control, SETTINGS, PushSettings(), api.clock, describe=lambda: {"zone": "local"})
    assert api.ask("GET", "/.well-known/accessgw").json == {"zone": "local"}


def test_metrics_config_workers_status_top(api: Api) -> None:
    metrics = api.ask("GET", "/metrics", token="dev-read")
    assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"accessgw_calls_total 5\n" in metrics.body
    assert api.ask("GET", "/v1/config", token="dev-read").json["backends"] == {"http": "httptools"}
    assert api.ask("GET", "/v1/workers", token="dev-read").json == {"workers": [{"pid": 42, "connections": 3}]}
    assert api.ask("GET", "/v1/status", token="dev-read").json["state"] == "ready"
    assert api.ask("GET", "/v1/top?limit=5", token="dev-read").json["operations"]
    assert api.control.asked == [("top", 5)]


# ------------------------------------------------------------------ Idempotency-Key of other calls


def test_a_repeated_request_is_answered_and_not_done_again(api: Api) -> None:
    first = api.ask("POST", "/v1/drain", {"seconds": 1}, "dev-operate", idempotency_key="k")
    second = api.ask("POST", "/v1/drain", {"seconds": 1}, "dev-operate", idempotency_key="k")
    assert first.body == second.body
    assert len(api.control.asked) == 1
    other = api.ask("POST", "/v1/drain", {"seconds": 2}, "dev-operate", idempotency_key="k")
    assert (other.status, other.json["error"]["code"]) == (409, "idempotency_conflict")
    api.clock.advance(SETTINGS.idempotency_ttl + 1)
    assert api.ask("POST", "/v1/drain", {"seconds": 2}, "dev-operate", idempotency_key="k").status == 200


def test_a_repetition_waits_for_the_first(api: Api) -> None:
    running: Deferred[dict[str, Any]] = Deferred()
    api.control.reload_answer = lambda: running
    exchanges = [api.ask("POST", "/v1/reload", token="dev-operate", idempotency_key="k") for _ in range(3)]
    assert [exchange.status for exchange in exchanges] == [0, 0, 0]
    running.callback({"applied": []})
    assert [exchange.json for exchange in exchanges] == [{"applied": []}] * 3
    assert api.control.asked == ["reload"]


def test_a_failure_may_be_tried_again_with_its_key(api: Api) -> None:
    running: Deferred[dict[str, Any]] = Deferred()
    api.control.reload_answer = lambda: running
    exchanges = [api.ask("POST", "/v1/reload", token="dev-operate", idempotency_key="k") for _ in range(2)]
    running.errback(ControlError(422, "bad_config", "x: y", "x"))
    assert [exchange.status for exchange in exchanges] == [422, 422]
    api.control.reload_answer = Api().control.reload_answer
    assert api.ask("POST", "/v1/reload", token="dev-operate", idempotency_key="k").status == 200


# ------------------------------------------------------------------ server-sent events


def events(body: bytes) -> list[tuple[str, Any]]:
    found = []
    for block in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((fields["event"], json.loads(fields["data"])))
    return found


def test_events_flow_until_the_reader_leaves(api: Api) -> None:
    exchange, upload = api.open("GET", "/v1/events", token="dev-read")
    assert (exchange.status, exchange.headers["content-type"]) == (200, "text/event-stream")
    assert api.control.emit is not None
    api.control.emit({"type": "push", "stream": "a\nb"})
    assert events(exchange.body) == [
        ("status", {"type": "status", "connections": 3}),
        ("push", {"type": "push", "stream": "a\nb"}),
    ]
    upload.aborted()
    upload.aborted()
    assert api.control.ended == 1
    before = exchange.body
    api.control.emit({"type": "push"})
    api.clock.advance(60)
    assert exchange.body == before
    assert not api.clock.getDelayedCalls()


def test_a_quiet_stream_is_kept_alive(api: Api) -> None:
    exchange, _ = api.open("GET", "/v1/events", token="dev-read")
    before = len(exchange.body)
    api.clock.advance(15)
    api.clock.advance(15)
    assert exchange.body[before:] == b": still here\n\n" * 2


def test_a_slow_reader_is_told_how_much_it_missed(api: Api) -> None:
    exchange, upload = api.open("GET", "/v1/events", token="dev-read")
    assert api.control.emit is not None
    exchange.buffered = 300 * 1024
    api.control.emit({"type": "call"})
    api.control.emit({"type": "call"})
    exchange.buffered = 0
    upload.drained()
    api.control.emit({"type": "push"})
    assert events(exchange.body)[1:] == [("dropped", {"type": "dropped", "count": 2}), ("push", {"type": "push"})]


def test_a_trace_of_an_unknown_device_is_404(api: Api) -> None:
    assert api.ask("GET", "/v1/devices/unknown/trace", token="dev-read").status == 404


def test_streams_are_bounded_and_end_with_the_gateway(api: Api) -> None:
    opened = [api.ask("GET", "/v1/events", token="dev-read") for _ in range(64)]
    refused = api.ask("GET", "/v1/events", token="dev-read")
    assert (refused.status, refused.json["error"]["code"]) == (503, "busy")
    api.handler.close()
    assert all(exchange.finished for exchange in opened)
    assert api.control.ended == 64

"""The public HTTP listener: description, routes by path, authentication, streaming both ways."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail

from accessgw.core.http_routes import HttpRoutes
from accessgw.core.interfaces.authentication import AuthenticationFailed
from accessgw.core.interfaces.upstreams import UpstreamFailure
from accessgw.core.short import ShortConnections
from accessgw.crypto.passwordless import CertificateAuthenticator
from accessgw.model.http import HttpRequest
from accessgw.model.route_settings import RouteSettings
from accessgw.model.settings import AuthenticatorSettings
from tests.core.gateway_fakes import FakeAuthenticator, FakeConnection, FakeExchangeOfHttp, Gateway

OPEN = RouteSettings(path="/open/", cluster="c", require="none", max_request_body=1 << 20)
CLOSED = RouteSettings(path="/api/", cluster="c")


def ask(
    gateway: Gateway, method: str, target: str, body: bytes | None = None, *headers: tuple[str, str], **info: Any
) -> FakeExchangeOfHttp:
    routes = HttpRoutes(
        short=ShortConnections(gateway.services, 30.0),
        calls=gateway.calls,
        chain=gateway.chain,
        clock=gateway.clock,
        describe=lambda: {"version": "1", "zone": "z1"},
    )
    fields = [("host", "gw"), *headers]
    if body is not None and not any(name == "transfer-encoding" for name, _ in headers):
        fields.append(("content-length", str(len(body))))
    early = info.get("early", False)
    exchange = FakeExchangeOfHttp(HttpRequest(method, target, fields, FakeConnection(**info).info, early=early))
    exchange.upload = routes(exchange)
    if body:
        exchange.upload.data(body)
    exchange.upload.finished()
    return exchange


def test_the_description() -> None:
    exchange = ask(Gateway(), "GET", "/.well-known/accessgw")
    assert (exchange.status, json.loads(exchange.body)) == (200, {"version": "1", "zone": "z1"})
    assert ask(Gateway(), "PUT", "/.well-known/accessgw").status == 405
    assert ask(Gateway(), "GET", "/mmtp").status == 405


def test_a_request_passes_through_with_its_status_code() -> None:
    gateway = Gateway(OPEN)
    exchange = ask(gateway, "PUT", "/open/a%20b?q=1", b"body", ("x-user-id", "forged"), ("accept", "*/*"))
    sent = gateway.upstreams.last.request
    assert (sent.method, sent.target, sent.body, sent.more) == ("PUT", "/open/a%20b?q=1", b"body", False)
    headers = dict(sent.headers)
    assert "x-user-id" not in headers
    assert "x-call-id" not in headers
    assert headers["accept"] == "*/*"
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert not sent.idempotent
    gateway.upstreams.last.answer(418, b"teapot", [("content-type", "text/plain"), ("set-cookie", "a=b")])
    assert (exchange.status, exchange.body) == (418, b"teapot")
    assert exchange.headers == [("content-type", "text/plain"), ("set-cookie", "a=b")]
    assert not gateway.store.claims
    assert (gateway.records[-1].operation, gateway.records[-1].binding) == ("PUT /open/a%20b", "http")


@pytest.mark.parametrize(("method", "idempotent"), [("GET", True), ("HEAD", True), ("POST", False), ("DELETE", False)])
def test_safe_methods_may_be_retried(method: str, idempotent: bool) -> None:
    gateway = Gateway(OPEN)
    ask(gateway, method, "/open/x")
    assert gateway.upstreams.last.request.idempotent is idempotent


def test_a_bearer_token_authenticates() -> None:
    gateway = Gateway(CLOSED)
    exchange = ask(gateway, "GET", "/api/x", None, ("authorization", "Bearer ok:alice"), ("x-device-id", "d9"))
    headers = dict(gateway.upstreams.last.request.headers)
    assert (headers["x-user-id"], headers["x-device-id"]) == ("alice", "d9")
    assert "authorization" not in headers
    gateway.upstreams.last.answer(204)
    assert exchange.status == 204


def test_without_a_valid_token_a_closed_route_is_closed() -> None:
    gateway = Gateway(CLOSED, OPEN)
    for headers in ((), (("authorization", "Bearer nobody's"),), (("authorization", "Basic eA=="),)):
        exchange = ask(gateway, "GET", "/api/x", None, *headers)
        assert exchange.status == 401
        assert ("www-authenticate", "Bearer") in exchange.headers
        assert json.loads(exchange.body)["error"]["code"] == "unauthorized"
    assert not gateway.upstreams.exchanges
    ask(gateway, "GET", "/open/x", None, ("authorization", "Bearer of-the-service"))
    assert ("authorization", "Bearer of-the-service") in gateway.upstreams.last.request.headers


STRICT = RouteSettings(path="/strict/", cluster="c", require="certificate")
CERTIFICATE = CertificateAuthenticator(AuthenticatorSettings(kind="certificate"))


class Refusing:
    """Knows every token, and that it is wrong."""

    name = "refusing"

    def authenticate(self, credentials: Any) -> Deferred[Any]:
        return fail(AuthenticationFailed("the token has expired"))


@pytest.mark.parametrize("device", [(), (("x-device-id", "d1"),)])
def test_a_client_certificate_authenticates_alone(device: tuple[tuple[str, str], ...]) -> None:
    gateway = Gateway(CLOSED, STRICT, authenticators=[FakeAuthenticator(), CERTIFICATE])
    for path in ("/api/x", "/strict/x"):
        exchange = ask(gateway, "GET", path, None, *device, ("authorization", "Basic eA=="), certificate_identity="d1")
        headers = dict(gateway.upstreams.last.request.headers)
        assert headers["x-device-id"] == "d1"
        assert headers["authorization"] == "Basic eA=="  # it proved nothing here, so it is for the service
        gateway.upstreams.last.answer(204)
        assert exchange.status == 204


def test_a_token_beside_a_certificate_is_the_chains_to_judge() -> None:
    shown: dict[str, Any] = {"certificate_identity": "d1"}
    junk = ("authorization", "Bearer junk")
    gateway = Gateway(CLOSED, authenticators=[FakeAuthenticator(), CERTIFICATE])
    ask(gateway, "GET", "/api/x", None, junk, **shown)  # nobody knows the token, the certificate is next
    headers = dict(gateway.upstreams.last.request.headers)
    assert (headers["x-device-id"], headers.get("x-user-id")) == ("d1", None)
    assert "authorization" not in headers
    ask(gateway, "GET", "/api/x", None, ("authorization", "Bearer ok:ann"), **shown)
    assert dict(gateway.upstreams.last.request.headers)["x-user-id"] == "ann"
    asked = len(gateway.upstreams.exchanges)
    refusing = Gateway(CLOSED, OPEN, authenticators=[Refusing(), CERTIFICATE])
    for path in ("/api/x", "/open/x"):
        assert ask(refusing, "GET", path, None, junk, **shown).status == 401
    assert not refusing.upstreams.exchanges
    assert len(gateway.upstreams.exchanges) == asked


@pytest.mark.parametrize("authorization", [(), (("authorization", "Bearer ok:ann"),), (("authorization", "Bearer x"),)])
def test_a_certificate_of_another_device_is_refused(authorization: tuple[tuple[str, str], ...]) -> None:
    gateway = Gateway(CLOSED, OPEN, authenticators=[FakeAuthenticator(), CERTIFICATE])
    for path in ("/api/x", "/open/x"):
        other = ("x-device-id", "d2")
        assert ask(gateway, "GET", path, None, other, *authorization, certificate_identity="d1").status == 401
    assert not gateway.upstreams.exchanges


def test_without_an_authenticator_for_it_a_certificate_proves_nobody() -> None:
    gateway = Gateway(CLOSED, OPEN)
    assert ask(gateway, "GET", "/api/x", None, certificate_identity="d1").status == 401
    ask(gateway, "GET", "/open/x", None, certificate_identity="d1")
    assert "x-device-id" not in dict(gateway.upstreams.last.request.headers)


def test_a_certificate_that_names_no_device_leaves_open_routes_open() -> None:
    gateway = Gateway(CLOSED, OPEN, authenticators=[CERTIFICATE])
    for name in ("", "John Smith"):
        assert ask(gateway, "GET", "/api/x", None, certificate_identity=name).status == 401
        ask(gateway, "GET", "/open/x", None, certificate_identity=name)
        assert "x-device-id" not in dict(gateway.upstreams.last.request.headers)


def test_an_encoded_path_is_no_way_round() -> None:
    gateway = Gateway(CLOSED, RouteSettings(path="/", cluster="c", require="none"))
    for target in ("/%61pi/x", "//api/x", "/open/../api/x", "/open/%2e%2e/api/x"):
        exchange = ask(gateway, "GET", target)
        assert exchange.status in (401, 404), target
    assert not gateway.upstreams.exchanges


def test_what_is_not_served() -> None:
    gateway = Gateway(OPEN)
    exchange = ask(gateway, "GET", "/nothing")
    assert exchange.status == 404
    assert json.loads(exchange.body) == {"error": {"code": "not_found", "message": "unknown operation"}}
    assert ask(gateway, "TRACE", "/open/x").status == 405
    assert ask(gateway, "CONNECT", "gw:443").status == 405
    assert ask(gateway, "GET", "http://elsewhere/open/x").status == 400


@pytest.mark.parametrize(
    ("kind", "executed", "expected"),
    [("connect", False, 503), ("timeout", True, 504), ("overload", False, 503), ("too_large", True, 500)],
)
def test_upstream_failures(kind: str, executed: bool, expected: int) -> None:
    gateway = Gateway(OPEN)
    exchange = ask(gateway, "GET", "/open/x")
    gateway.upstreams.last.sink.failed(UpstreamFailure(kind, "", executed))
    assert exchange.status == expected
    assert json.loads(exchange.body)["error"]["code"]


def test_a_long_answer_streams_and_is_throttled() -> None:
    gateway = Gateway(OPEN)
    exchange = ask(gateway, "GET", "/open/x")
    upstream = gateway.upstreams.last
    upstream.sink.started(200, [("content-length", "200000")], "http://u:1", 1)
    exchange.buffered = 70_000
    upstream.sink.data(b"x" * 100_000)
    assert exchange.headers == [("content-length", "200000")]
    assert upstream.paused
    exchange.buffered = 0
    exchange.upload.drained()
    assert not upstream.paused
    upstream.sink.data(b"x" * 100_000)
    upstream.sink.finished()
    assert len(exchange.body) == 200_000
    assert exchange.over
    assert not exchange.cut


def test_an_answer_that_breaks_off_cuts_the_connection() -> None:
    gateway = Gateway(OPEN)
    exchange = ask(gateway, "GET", "/open/x")
    upstream = gateway.upstreams.last
    upstream.sink.started(200, [], "http://u:1", 1)
    upstream.sink.data(b"part")
    upstream.sink.failed(UpstreamFailure("reset", "", True))
    assert exchange.cut


def test_head_keeps_the_length_of_get() -> None:
    gateway = Gateway(OPEN)
    exchange = ask(gateway, "HEAD", "/open/x")
    upstream = gateway.upstreams.last
    upstream.sink.started(200, [("content-length", "1234")], "http://u:1", 1)
    upstream.sink.finished()
    assert (exchange.status, exchange.headers, exchange.over) == (200, [("content-length", "1234")], True)


def test_a_long_upload_streams_and_is_throttled() -> None:
    gateway = Gateway(OPEN)
    routes_exchange = ask(gateway, "POST", "/open/x", b"first", ("transfer-encoding", "chunked"))
    assert gateway.upstreams.last.upload_over
    assert b"".join(gateway.upstreams.last.uploaded) == b"first"
    assert routes_exchange.status == 0

    routes = HttpRoutes(
        short=lambda exchange: exchange.upload, calls=gateway.calls, chain=gateway.chain, clock=gateway.clock,
        describe=dict,
    )  # fmt: skip
    request = HttpRequest("POST", "/open/x", [("content-length", "100000")], FakeConnection().info)
    exchange = FakeExchangeOfHttp(request)
    upload = routes(exchange)
    upload.data(b"a" * 70_000)
    upstream = gateway.upstreams.last
    assert upstream.request.more
    assert exchange.paused
    upstream.sink.upload_sent(70_000)
    assert not exchange.paused
    upload.data(b"a" * 30_000)
    upload.finished()
    assert sum(map(len, upstream.uploaded)) == 100_000
    assert upstream.upload_over
    upstream.answer(200)
    assert exchange.status == 200


def test_too_large_an_upload() -> None:
    gateway = Gateway(RouteSettings(path="/", cluster="c", require="none", max_request_body=10))
    assert ask(gateway, "POST", "/x", b"x" * 11).status == 413
    assert ask(gateway, "POST", "/x", b"x" * 11, ("transfer-encoding", "chunked")).status == 413


def test_a_client_that_leaves_in_the_middle_of_its_upload() -> None:
    gateway = Gateway(OPEN)
    routes = HttpRoutes(
        short=lambda exchange: exchange.upload, calls=gateway.calls, chain=gateway.chain, clock=gateway.clock,
        describe=dict,
    )  # fmt: skip
    request = HttpRequest("POST", "/open/x", [("content-length", "100000")], FakeConnection().info)
    exchange = FakeExchangeOfHttp(request)
    upload = routes(exchange)
    upload.data(b"a")
    upload.aborted()
    assert gateway.upstreams.last.cancelled
    assert gateway.call_counters.open == 0
    assert exchange.status == 0


def test_a_body_waits_while_the_token_is_looked_at() -> None:
    gateway = Gateway(CLOSED)
    gateway.authenticator.hold = True
    exchange = ask(gateway, "POST", "/api/x", b"body", ("authorization", "Bearer ok:alice"))
    assert not gateway.upstreams.exchanges
    gateway.authenticator.let_go()
    assert gateway.upstreams.last.request.body == b"body"
    gateway.upstreams.last.answer(200)
    assert exchange.status == 200


@pytest.mark.parametrize(
    ("method", "target"), [("POST", "/safe/x"), ("PUT", "/safe/x"), ("POST", "/mmtp"), ("GET", "/open/x")]
)
def test_what_is_not_idempotent_is_not_done_in_early_data(method: str, target: str) -> None:
    gateway = Gateway(OPEN, RouteSettings(path="/safe/", cluster="c", require="none", idempotent=True))
    exchange = ask(gateway, method, target, early=True)
    assert exchange.status == 425
    assert json.loads(exchange.body)["error"]["code"] in ("too_early", "early_data_refused")
    assert not gateway.upstreams.exchanges


def test_an_idempotent_request_in_early_data_reaches_the_service_as_such() -> None:
    gateway = Gateway(RouteSettings(path="/safe/", cluster="c", require="none", idempotent=True))
    ask(gateway, "GET", "/safe/x", None, ("early-data", "0"), early=True)
    assert [value for name, value in gateway.upstreams.last.request.headers if name == "early-data"] == ["1"]
    ask(gateway, "GET", "/safe/x", None, ("early-data", "1"))
    assert "early-data" not in dict(gateway.upstreams.last.request.headers)

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed

from accessgw.core.interfaces.control import ControlError
from accessgw.core.interfaces.mqtt_state import Message
from accessgw.core.interfaces.stores import StoreUnavailable
from accessgw.ops.event_stream import MAX_EARLY
from accessgw.ops.mqtt_message import payload_view
from protocols.mqtt.packets import Property
from tests.ops.control_fakes import Api
from tests.ops.mqtt_fakes import FakeMqtt


class MqttApi(Api):
    def __init__(self) -> None:
        self.mqtt = FakeMqtt()
        super().__init__(mqtt=self.mqtt)

    def publish(self, body: Any, **more: Any) -> Any:
        return self.ask("POST", "/v1/mqtt/publish", body, "dev-push", **more)

    def read(self, target: str) -> Any:
        return self.ask("GET", target, token="dev-read")


@pytest.fixture
def api() -> MqttApi:
    return MqttApi()


MESSAGE = {"topic": "a/b", "payload": {"on": True}}
PATHS: list[tuple[str, str, str, Any]] = [
    ("POST", "/v1/mqtt/publish", "push", MESSAGE),
    ("POST", "/v1/mqtt/request", "push", {"device": "d", "topic": "t", "text": ""}),
    ("GET", "/v1/mqtt/subscribe?filter=a", "read", b""),
    ("GET", "/v1/mqtt/trace?filter=a", "read", b""),
    ("GET", "/v1/mqtt/clients", "read", b""),
    ("GET", "/v1/mqtt/clients/c1", "read", b""),
    ("POST", "/v1/mqtt/clients/c1/kick", "operate", b""),
    ("GET", "/v1/mqtt/subscriptions", "read", b""),
    ("GET", "/v1/mqtt/retained", "read", b""),
    ("DELETE", "/v1/mqtt/retained/a", "operate", b""),
    ("GET", "/v1/mqtt/top", "read", b""),
    ("GET", "/v1/mqtt/bridges", "read", b""),
    ("GET", "/v1/mqtt/stats", "read", b""),
]


@pytest.mark.parametrize(("method", "path", "role", "body"), PATHS)
def test_every_path_needs_its_role(api: MqttApi, method: str, path: str, role: str, body: Any) -> None:
    assert api.ask(method, path, body, f"dev-{role}").status == 200
    other = "read" if role != "read" else "push"
    assert api.ask(method, path, body, f"dev-{other}").status == 403
    assert api.ask(method, path, body).status == 401


@pytest.mark.parametrize(("method", "path", "role", "body"), PATHS)
def test_without_mqtt_every_path_says_so(method: str, path: str, role: str, body: Any) -> None:
    answer = Api().ask(method, path, body, f"dev-{role}")
    assert (answer.status, answer.json["error"]["code"]) == (404, "not_enabled")


# ------------------------------------------------------------------ publish


def test_a_message_with_everything(api: MqttApi) -> None:
    answer = api.publish(
        b'{"topic": "a/b", "payload": {"n": 1.10}, "qos": 2, "retain": true, "expiry": 60, "properties": {'
        b'"content_type": "application/json", "response_topic": "r", "correlation_data_b64": "AQI=",'
        b'"payload_format": 1, "user": [["k", "1"], ["k", "2"]]}}'
    )
    assert (answer.status, answer.json) == (200, {"receivers": 2})
    (message,) = api.mqtt.published
    assert message == Message(
        "a/b",
        b'{"n": 1.10}',
        qos=2,
        retain=True,
        properties={
            Property.CONTENT_TYPE: "application/json",
            Property.RESPONSE_TOPIC: "r",
            Property.CORRELATION_DATA: b"\1\2",
            Property.PAYLOAD_FORMAT: 1,
            Property.USER_PROPERTY: [("k", "1"), ("k", "2")],
        },
        at=1000.0,
        expires_at=1060.0,
        publisher="$control",
    )


@pytest.mark.parametrize(
    ("given_payload", "payload"),
    [
        ({"payload": None}, b"null"),
        ({"payload": "x"}, b'"x"'),
        ({"text": "您好"}, "您好".encode()),
        ({"text": ""}, b""),
        ({"payload_b64": base64.b64encode(b"\0\xff").decode()}, b"\0\xff"),
    ],
)
def test_payloads(api: MqttApi, given_payload: dict[str, Any], payload: bytes) -> None:
    assert api.publish({"topic": "t", **given_payload}).status == 200
    assert api.mqtt.published[0].payload == payload


def test_user_properties_as_an_object(api: MqttApi) -> None:
    api.publish({"topic": "t", "text": "", "properties": {"user": {"a": "1"}}})
    assert api.mqtt.published[0].properties == {Property.USER_PROPERTY: [("a", "1")]}


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"topic": "a/#"}, "topic"),
        ({"topic": ""}, "topic"),
        ({"topic": 5}, "topic"),
        ({"topic": None}, "topic"),
        ({"text": "x"}, "payload"),
        ({"qos": 3}, "qos"),
        ({"qos": True}, "qos"),
        ({"retain": 1}, "retain"),
        ({"expiry": 0}, "expiry"),
        ({"expiry": 2**32}, "expiry"),
        ({"ttl": 5}, "ttl"),
        ({"properties": []}, "properties"),
        ({"properties": {"topic_alias": 1}}, "properties.topic_alias"),
        ({"properties": {"content_type": 1}}, "properties.content_type"),
        ({"properties": {"content_type": "\0"}}, "properties.content_type"),
        ({"properties": {"response_topic": "+"}}, "properties.response_topic"),
        ({"properties": {"correlation_data_b64": "!"}}, "properties.correlation_data_b64"),
        ({"properties": {"payload_format": 2}}, "properties.payload_format"),
        ({"properties": {"user": {"a": 1}}}, "properties.user.a"),
        ({"properties": {"user": [["a"]]}}, "properties.user[0]"),
    ],
)
def test_what_is_wrong_is_named(api: MqttApi, change: dict[str, Any], path: str) -> None:
    alone = api.publish(MESSAGE | change)
    assert (alone.status, alone.json["error"]["path"]) == (400, path)
    listed = api.publish([MESSAGE, MESSAGE | change])
    assert (listed.status, listed.json["error"]["path"]) == (400, f"[1].{path}")
    assert api.mqtt.published == []


@pytest.mark.parametrize("body", [b"", b"[]", b"[1]", b"5", b"{", b"\xff", b'{"topic": "\\ud800", "text": ""}'])
def test_bodies_that_are_no_messages(api: MqttApi, body: bytes) -> None:
    assert api.publish(body).status == 400


@given(st.binary(max_size=200))
def test_no_body_breaks_it(body: bytes) -> None:
    for path in ("publish", "request"):
        assert MqttApi().ask("POST", f"/v1/mqtt/{path}", body, "dev-push").status in (200, 400)


def test_it_is_answered_when_the_broker_has_it(api: MqttApi) -> None:
    durable: Deferred[int] = Deferred()
    api.mqtt.publish_answer = lambda message: durable
    answer = api.publish(MESSAGE)
    assert not answer.finished
    durable.callback(0)
    assert answer.json == {"receivers": 0}


def test_a_list_has_a_result_for_each(api: MqttApi) -> None:
    answers = {
        "ok": succeed(1),
        "no": fail(ControlError(403, "refused", "no")),
        "full": fail(StoreUnavailable("disk full")),
    }
    api.mqtt.publish_answer = lambda message: answers[message.topic]
    answer = api.publish([{"topic": topic, "text": ""} for topic in answers])
    assert (answer.status, answer.json) == (
        200,
        [
            {"receivers": 1},
            {"error": {"code": "refused", "message": "no"}},
            {"error": {"code": "store_unavailable", "message": "disk full"}},
        ],
    )


def test_a_store_that_is_away_fails_the_whole_request(api: MqttApi) -> None:
    api.mqtt.publish_answer = lambda message: fail(StoreUnavailable("disk full"))
    assert api.publish([MESSAGE, MESSAGE]).status == 503
    assert api.publish(MESSAGE).status == 503


def test_a_repetition_with_its_key_publishes_once(api: MqttApi) -> None:
    first, second = (api.publish(MESSAGE, idempotency_key="k") for _ in range(2))
    assert first.json == second.json
    assert len(api.mqtt.published) == 1
    assert api.publish(MESSAGE | {"qos": 1}, idempotency_key="k").status == 409


def test_a_list_is_bounded(api: MqttApi) -> None:
    api.handler.pushes = type(api.handler.pushes)(max_batch=2)
    assert api.publish([{"topic": "t", "text": ""}] * 3).status == 413


# ------------------------------------------------------------------ requests


def test_a_request_is_answered_with_the_devices_payload(api: MqttApi) -> None:
    body = {"device": "d/1", "topic": "cmd", "payload": [1], "timeout": 2}
    answer = api.ask("POST", "/v1/mqtt/request", body, "dev-push")
    assert answer.json == {"status": "answered", "payload": {"on": True}}
    assert api.mqtt.asked == [("request", "d/1", "cmd", b"[1]", 2.0)]
    offline = api.ask("POST", "/v1/mqtt/request", body | {"device": "nowhere"}, "dev-push")
    assert (offline.status, offline.json) == (200, {"status": "offline"})
    assert api.ask("POST", "/v1/mqtt/request", body | {"device": "forbidden"}, "dev-push").status == 403


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"device": ""}, "device"),
        ({"device": 1}, "device"),
        ({"topic": "#"}, "topic"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": 301}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"payload_b64": ""}, "payload"),
        ({"qos": 1}, "qos"),
    ],
)
def test_requests_that_are_wrong(api: MqttApi, change: dict[str, Any], path: str) -> None:
    body = {"device": "d", "topic": "cmd", "payload": 1} | change
    answer = api.ask("POST", "/v1/mqtt/request", body, "dev-push")
    assert (answer.status, answer.json["error"]["path"]) == (400, path)


# ------------------------------------------------------------------ watching


def events(body: bytes) -> list[Any]:
    return [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: ")]


def test_messages_of_a_filter_as_events(api: MqttApi) -> None:
    api.mqtt.retained_first = [Message("a/1", b"old", retain=True, at=5.0)]
    exchange, upload = api.open("GET", "/v1/mqtt/subscribe?filter=a/%23", token="dev-read")
    assert api.mqtt.asked == [("subscribe", "a/#")]
    assert api.mqtt.emit is not None
    properties = {Property.USER_PROPERTY: [("k", "v")], Property.CORRELATION_DATA: b"\1", Property.CONTENT_TYPE: "c"}
    api.mqtt.emit(Message("a/2", b'{"n":\n1.10}', qos=1, at=6.5, publisher="d1", properties=properties, expires_at=9.0))
    assert b'"payload":{"n": 1.10}' in exchange.body
    assert b"event: message" in exchange.body
    assert events(exchange.body) == [
        {"type": "message", "topic": "a/1", "text": "old", "qos": 0, "retain": True, "at": 5.0},
        {
            "type": "message",
            "topic": "a/2",
            "payload": {"n": 1.1},
            "qos": 1,
            "retain": False,
            "at": 6.5,
            "expires_at": 9.0,
            "publisher": "d1",
            "properties": {"user": [["k", "v"]], "correlation_data_b64": "AQ==", "content_type": "c"},
        },
    ]
    upload.aborted()
    assert api.mqtt.ended == 1


def test_more_retained_messages_than_a_reader_takes_are_told(api: MqttApi) -> None:
    api.mqtt.retained_first = [Message("a", b"")] * (MAX_EARLY + 5)
    exchange, _ = api.open("GET", "/v1/mqtt/subscribe?filter=a", token="dev-read")
    assert len(events(exchange.body)) == MAX_EARLY
    assert api.mqtt.emit is not None
    api.mqtt.emit(Message("a", b"new"))
    assert events(exchange.body)[-2:] == [
        {"type": "dropped", "count": 5},
        {"type": "message", "topic": "a", "text": "new", "qos": 0, "retain": False, "at": 0.0},
    ]


def test_a_trace_of_a_filter(api: MqttApi) -> None:
    exchange, _ = api.open("GET", "/v1/mqtt/trace?filter=a/%2B", token="dev-read")
    assert api.mqtt.asked == [("trace", "a/+")]
    assert api.mqtt.emit is not None
    api.mqtt.emit({"kind": "published", "topic": "a/1", "payload": b"\xff", "clients": ("a", "b")})
    assert events(exchange.body) == [
        {"kind": "published", "topic": "a/1", "payload_b64": "/w==", "clients": ["a", "b"]}
    ]


@pytest.mark.parametrize("query", ["", "filter=", "filter=a%23", "filter=%00", "filter=%FF", "filter=a&x=1"])
def test_filters_that_are_none(api: MqttApi, query: str) -> None:
    for path in ("subscribe", "trace"):
        assert api.read(f"/v1/mqtt/{path}?{query}").status == 400


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0+#/")), min_size=1).map("/".join))
def test_any_topic_survives_the_query(topic: str) -> None:
    """A program's form encoding: spaces as +, + as %2B. Only a level that is one space is taken for the wildcard."""
    filter = f"x{topic}/+/#"
    if " " in filter.split("/"):
        return
    api = MqttApi()
    assert api.read("/v1/mqtt/trace?" + urlencode({"filter": filter})).status == 200
    assert api.mqtt.asked == [("trace", filter)]
    assert api.read("/v1/mqtt/trace?filter=" + quote(filter, safe="")).status == 200
    assert api.mqtt.asked[1] == ("trace", filter)


def test_a_plus_as_people_type_it(api: MqttApi) -> None:
    api.read("/v1/mqtt/trace?filter=a/+/my+house/%20/+")
    assert api.mqtt.asked == [("trace", "a/+/my house/ /+")]


# ------------------------------------------------------------------ looking and acting

NAMES = st.text(st.characters(codec="utf-8"), min_size=1)


@given(NAMES)
def test_any_client_id_survives_the_path(name: str) -> None:
    api = MqttApi()
    if name != "unknown":
        assert api.read("/v1/mqtt/clients/" + quote(name, safe="")).json["client"] == name
    api.ask("POST", f"/v1/mqtt/clients/{quote(name, safe='')}/kick", token="dev-operate")
    assert api.mqtt.asked == [("kick", name, False)]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0+#"), min_size=1))
def test_any_topic_survives_the_path(topic: str) -> None:
    api = MqttApi()
    answer = api.ask("DELETE", "/v1/mqtt/retained/" + quote(topic, safe=""), token="dev-operate")
    assert answer.json == {"topic": topic, "removed": topic != "absent"}


def test_what_is_no_topic_is_not_removed(api: MqttApi) -> None:
    for topic in ("", "a%2F%23", "%00"):
        assert api.ask("DELETE", f"/v1/mqtt/retained/{topic}", token="dev-operate").status == 400
    assert api.mqtt.asked == []


def test_a_repeated_removal_with_its_key_has_the_same_answer(api: MqttApi) -> None:
    for _ in range(2):
        api.ask("DELETE", "/v1/mqtt/retained/a", token="dev-operate", idempotency_key="k")
    assert api.mqtt.asked == [("remove", "a")]


def test_clients_by_page(api: MqttApi) -> None:
    assert api.read("/v1/mqtt/clients?after=b%2F1&limit=3&connected=false").json["next"] == "c2"
    assert api.mqtt.asked == [("clients", "b/1", 3, False)]
    assert api.read("/v1/mqtt/clients").json["next"] is None
    for wrong in ("connected=yes", "limit=0", "user=a"):
        assert api.read(f"/v1/mqtt/clients?{wrong}").status == 400


def test_one_client(api: MqttApi) -> None:
    assert api.read("/v1/mqtt/clients/c1").json == {
        "client": "c1",
        "expiry": None,
        "subscriptions": [{"filter": "a/#", "qos": 1}],
    }
    assert api.read("/v1/mqtt/clients/unknown").status == 404


def test_kicks(api: MqttApi) -> None:
    answer = api.ask("POST", "/v1/mqtt/clients/c1/kick", {"discard": True}, "dev-operate")
    assert answer.json == {"client": "c1", "kicked": True, "discarded": True}
    assert not api.ask("POST", "/v1/mqtt/clients/unknown/kick", token="dev-operate").json["kicked"]
    for wrong in ({"discard": 1}, {"revoke": True}):
        assert api.ask("POST", "/v1/mqtt/clients/c1/kick", wrong, "dev-operate").status == 400


def test_subscriptions_by_page(api: MqttApi) -> None:
    answer = api.read("/v1/mqtt/subscriptions?limit=2").json
    assert answer["next"] == {"after": "a/+", "after_client": "c1"}
    api.read("/v1/mqtt/subscriptions?" + urlencode({"filter": "a/+", **answer["next"]}))
    assert api.mqtt.asked == [("subscriptions", "", "", 2), ("subscriptions", "a/+", "a/+\0c1", 100)]


def test_retained_messages_by_page(api: MqttApi) -> None:
    answer = api.read("/v1/mqtt/retained?limit=1").json
    assert answer == {"retained": [{"topic": "a/0", "payload_b64": "/wA=", "qos": 0}], "next": "a/0"}
    api.read("/v1/mqtt/retained?filter=a/%23&after=a/0")
    assert api.mqtt.asked == [("retained", "#", "", 1), ("retained", "a/#", "a/0", 100)]


def test_figures(api: MqttApi) -> None:
    assert api.read("/v1/mqtt/top?limit=5").json["topics"][0]["topic"] == "a"
    assert api.read("/v1/mqtt/bridges").json == {"bridges": [{"name": "cloud", "connected": False, "error": "refused"}]}
    assert api.read("/v1/mqtt/stats").json == {"clients": 3, "retained": 7}


@given(st.binary())
def test_a_payload_that_is_shown_can_be_published_again(payload: bytes) -> None:
    (name, value) = next(iter(payload_view(payload).items()))
    shown = bytes(value).decode() if name == "payload" else json.dumps(value)
    api = MqttApi()
    assert api.publish(f'{{"topic": "t", "{name}": {shown}}}'.encode()).status == 200
    if name == "payload":
        payload = payload.replace(b"\r", b" ").replace(b"\n", b" ").strip()
    assert api.mqtt.published[0].payload.strip() == payload.strip()

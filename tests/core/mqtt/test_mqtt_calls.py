from __future__ import annotations

import json
from typing import Any

import pytest

from accessgw.core.interfaces.upstreams import UpstreamFailure
from accessgw.core.mqtt.calls import MqttCalls
from accessgw.model.counters import MqttCounters
from accessgw.model.identity import ConnectionInfo, Identity
from accessgw.model.route_settings import RouteSettings
from protocols.mmtp.statuses import Status
from protocols.mqtt.packets import NO_PROPERTIES, V5, V311, Property, Publish
from protocols.mqtt.reasons import Reason
from tests.core.gateway_fakes import Gateway


class Client:
    """A client's connection: whose answers a test reads."""

    def __init__(self, world: World, version: int, client_id: str = "d1", max_packet: int = 0) -> None:
        self.client_id = client_id
        self.version = version
        self.max_packet = max_packet
        self.identity = Identity(device=client_id, user="u1")
        self.info = ConnectionInfo(id=1, listener="mqtt", transport="tcp", peer="127.0.0.1")
        self.heard: list[tuple[str, bytes, int, Any]] = []
        self.calls = world.mqtt.connection(self, self)

    def reply(self, topic: str, payload: bytes, qos: int, properties: Any) -> None:
        self.heard.append((topic, payload, qos, properties))

    def call(self, topic: str, payload: bytes = b"{}", qos: int = 1, dup: bool = False, **properties: Any) -> int:
        told = {getattr(Property, name.upper()): value for name, value in properties.items()}
        return self.calls.start(
            Publish(topic, payload, qos=qos, dup=dup, packet_id=1, properties=told or NO_PROPERTIES)
        )


class World(Gateway):
    def __init__(self, *routes: RouteSettings, **more: Any) -> None:
        super().__init__(*routes)
        self.mqtt_counters = MqttCounters()
        self.mqtt = MqttCalls(
            self.calls, clock=self.clock, random_bytes=self.random_bytes, counters=self.mqtt_counters,
            max_open=more.pop("max_open", 2), **more,
        )  # fmt: skip

    def client(self, version: int = V5, **more: Any) -> Client:
        return Client(self, version, **more)

    def sent(self) -> Any:
        return self.upstreams.last.request


def test_which_topics_are_calls() -> None:
    assert MqttCalls.is_call("$call/pay/1")
    assert not MqttCalls.is_call("$callback")
    assert not MqttCalls.is_call("a/$call/pay")


def test_a_call_of_an_old_client_is_answered_on_its_reply_topic() -> None:
    world = World()
    client = world.client(V311)
    assert client.call("$call/payments.pay/77", b'{"amount": 1}') == Reason.SUCCESS
    request = world.sent()
    assert (request.method, request.target, request.body) == ("POST", "/payments.pay", b'{"amount": 1}')
    headers = dict(request.headers)
    assert (headers["x-device-id"], headers["x-user-id"], headers["x-call-id"]) == ("d1", "u1", f"{77:016x}")
    assert len(client.calls) == 1
    world.upstreams.last.answer(200, b"done", [("content-type", "text/plain")])
    assert client.heard == [("$reply/77", b"done", 1, NO_PROPERTIES)]
    assert len(client.calls) == 0
    assert world.mqtt_counters.calls == 1
    assert world.records[-1].binding == "mqtt"


@pytest.mark.parametrize(("qos", "answered"), [(0, 0), (1, 1), (2, 1)])
def test_the_answer_has_the_qos_of_the_call_but_at_most_1(qos: int, answered: int) -> None:
    world = World()
    client = world.client(V311)
    client.call("$call/pay/1", qos=qos)
    world.upstreams.last.answer()
    assert [heard[2] for heard in client.heard] == [answered]


def test_an_error_has_a_topic_of_its_own() -> None:
    world = World()
    client = world.client(V311)
    client.call("$call/pay/1")
    world.upstreams.last.answer(404, b"no such account")
    client.call("$call/pay/2")
    world.upstreams.last.sink.failed(UpstreamFailure("connect", "refused"))
    (topic, payload, _, _), (other, second, _, _) = client.heard
    assert (topic, other) == ("$reply/1/error", "$reply/2/error")
    assert json.loads(payload) == {
        "status": 404, "name": "not_found", "message": "not found", "body": "no such account",
    }  # fmt: skip
    assert json.loads(second) == {
        "status": 19, "name": "upstream_unavailable", "message": "upstream unavailable",
    }  # fmt: skip


def test_a_body_of_an_error_that_is_no_text_is_told_in_base64() -> None:
    world = World()
    client = world.client(V311)
    client.call("$call/pay/1")
    world.upstreams.last.answer(500, b"\xff")
    told = json.loads(client.heard[0][1])
    assert (told["name"], told["body_b64"]) == ("internal_server_error", "/w==")


def test_a_client_of_mqtt_5_is_answered_on_its_response_topic() -> None:
    world = World()
    client = world.client()
    answer = client.call(
        "$call/pay", b"{}", response_topic="my/answers", correlation_data=b"\0\1",
        content_type="application/json", user_property=[("X-Kind", "a"), ("x-kind", "b")],
    )  # fmt: skip
    assert answer == Reason.SUCCESS
    headers = world.sent().headers
    assert [value for name, value in headers if name == "x-kind"] == ["a", "b"]
    assert ("content-type", "application/json") in headers
    world.upstreams.last.answer(201, b"ok", [("content-type", "text/plain"), ("etag", "7")])
    ((topic, payload, qos, properties),) = client.heard
    assert (topic, payload, qos) == ("my/answers", b"ok", 1)
    assert properties[Property.CORRELATION_DATA] == b"\0\1"
    assert properties[Property.CONTENT_TYPE] == "text/plain"
    assert properties[Property.USER_PROPERTY] == [("status", "0"), ("etag", "7")]


def test_errors_go_to_the_response_topic_too_with_the_services_own_body() -> None:
    world = World()
    client = world.client()
    client.call("$call/pay", response_topic="r", correlation_data=b"12345678")
    world.upstreams.last.answer(409, b"taken", [("content-type", "text/plain")])
    client.call("$call/pay", response_topic="r", correlation_data=b"12345679")
    world.upstreams.last.sink.failed(UpstreamFailure("timeout", "late"))
    (_, first, _, properties), (topic, second, _, others) = client.heard
    assert (first, properties[Property.USER_PROPERTY]) == (b"taken", [("status", "409")])
    assert topic == "r"
    assert json.loads(second)["name"] == "deadline"
    assert others[Property.CONTENT_TYPE] == "application/json"
    assert others[Property.USER_PROPERTY][0] == ("status", "11")


def test_an_id_and_a_response_topic_go_together() -> None:
    world = World()
    client = world.client()
    client.call("$call/pay/5", response_topic="r")
    assert dict(world.sent().headers)["x-call-id"] == f"{5:016x}"
    world.upstreams.last.answer()
    client.call("$call/pay/6")
    world.upstreams.last.answer()
    assert [heard[0] for heard in client.heard] == ["r", "$reply/6"]
    assert client.heard[1][3][Property.USER_PROPERTY] == [("status", "0")]


@pytest.mark.parametrize(
    "topic", ["$call/", "$call/pay", "$call/pay/", "$call//1", "$call/a/b/c", "$call/pay/1/"]
)  # fmt: skip
def test_other_topics_are_no_calls(topic: str) -> None:
    world = World()
    client = world.client(V311)
    assert client.call(topic) == Reason.TOPIC_NAME_INVALID
    assert world.upstreams.exchanges == []
    assert client.heard == []


def test_a_response_topic_with_wildcards_is_refused() -> None:
    """[MQTT-3.3.2-14]"""
    world = World()
    assert world.client().call("$call/pay", response_topic="a/#") == Reason.TOPIC_NAME_INVALID


def call_id(world: World, client: Client, topic: str, **properties: Any) -> int:
    client.call(topic, **properties)
    found = int(dict(world.sent().headers)["x-call-id"], 16)
    world.upstreams.last.answer()
    return found


def test_how_ids_are_read() -> None:
    world = World()
    client, other = world.client(), world.client(client_id="d2")
    assert call_id(world, client, "$call/pay/18446744073709551615") == (1 << 64) - 1
    assert call_id(world, client, "$call/pay/00000000000000ff") == 255
    too_large = call_id(world, client, "$call/pay/18446744073709551616")
    uuid = call_id(world, client, "$call/pay/e0c1-44")
    assert 0 < too_large < 1 << 64
    assert len({too_large, uuid, call_id(world, other, "$call/pay/e0c1-44")}) == 3


def test_long_correlation_data_identifies_a_call_and_short_does_not() -> None:
    world = World()
    client = world.client()
    first = call_id(world, client, "$call/a", response_topic="r", correlation_data=b"\1")
    assert call_id(world, client, "$call/a", response_topic="r", correlation_data=b"\1") != first
    client.call("$call/a", response_topic="r", correlation_data=b"12345678")
    world.upstreams.last.answer(200, b"once")
    asked = len(world.upstreams.exchanges)
    client.call("$call/a", response_topic="r", correlation_data=b"12345678", dup=True)
    assert len(world.upstreams.exchanges) == asked
    assert client.heard[-1][1] == b"once"


def test_a_repetition_on_another_connection_gets_the_kept_answer() -> None:
    world = World()
    world.clock.advance(3600)
    first = world.client(V311)
    first.call("$call/pay/abc")
    first.calls.detach()
    world.upstreams.last.answer(200, b"paid")
    assert first.heard == []
    second = world.client(V311)
    second.call("$call/pay/abc", dup=True)
    assert len(world.upstreams.exchanges) == 1
    assert second.heard == [("$reply/abc", b"paid", 1, NO_PROPERTIES)]


def test_a_repetition_joins_a_call_that_runs() -> None:
    world = World()
    client = world.client(V311)
    client.call("$call/pay/9")
    client.call("$call/pay/9", dup=True)
    assert len(world.upstreams.exchanges) == 1
    world.upstreams.last.answer(200, b"once")
    assert [heard[1] for heard in client.heard] == [b"once", b"once"]


def test_an_id_that_is_used_twice_is_a_duplicate() -> None:
    world = World()
    client = world.client(V311)
    client.call("$call/pay/9", b"1")
    world.upstreams.last.answer()
    client.call("$call/pay/9", b"2")
    assert json.loads(client.heard[-1][1])["name"] == "duplicate"


def test_only_so_many_calls_are_open_at_once() -> None:
    world = World(max_open=1)
    client, old = world.client(), world.client(V311, client_id="d2")
    for one in (client, old):
        assert one.call("$call/pay/1") == Reason.SUCCESS
    assert client.call("$call/pay/2") == Reason.QUOTA_EXCEEDED
    assert client.heard == []
    assert client.call("$call/pay/3", qos=0) == Reason.SUCCESS
    assert old.call("$call/pay/4") == Reason.SUCCESS
    assert len(world.upstreams.exchanges) == 2
    assert client.heard[0][3][Property.USER_PROPERTY] == [("status", "8"), ("retry-after", "1")]
    assert json.loads(old.heard[0][1]) == {"status": 8, "name": "overload", "message": "overload", "retry_after": 1}
    world.upstreams.last.answer()
    assert old.call("$call/pay/5") == Reason.SUCCESS
    assert len(world.upstreams.exchanges) == 3


def test_message_expiry_is_the_deadline() -> None:
    world = World()
    client = world.client()
    client.call("$call/pay/1", message_expiry=3)
    assert world.sent().deadline == world.clock.seconds() + 3
    client.call("$call/pay/2", message_expiry=0)
    assert client.heard[0][3][Property.USER_PROPERTY][0] == ("status", str(int(Status.DEADLINE)))


def test_a_user_property_that_is_no_header_ends_the_call() -> None:
    world = World()
    client = world.client()
    client.call("$call/pay/1", user_property=[("a\r\nb", "c")])
    client.call("$call/pay/2", user_property=[("x-user-id", "root")])
    assert client.heard[0][3][Property.USER_PROPERTY][0] == ("status", str(int(Status.PROTOCOL)))
    assert [value for name, value in world.sent().headers if name == "x-user-id"] == ["u1"]


def test_a_streamed_answer_is_joined() -> None:
    world = World()
    client = world.client(V311)
    client.call("$call/pay/1")
    sink = world.upstreams.last.sink
    sink.started(200, [], "e", 1)
    sink.data(b"a" * 10)
    sink.data(b"b" * 10)
    assert client.heard == []
    sink.finished()
    assert client.heard[0][1] == b"a" * 10 + b"b" * 10


def test_an_answer_that_the_client_does_not_take_is_a_frame_size_error() -> None:
    """[MQTT-3.1.2-24]"""
    world = World()
    client = world.client(max_packet=300)
    client.call("$call/pay/1")
    sink = world.upstreams.last.sink
    sink.started(200, [], "e", 1)
    sink.data(bytes(200))
    sink.data(bytes(200))
    assert world.upstreams.last.cancelled
    client.call("$call/pay/2")
    world.upstreams.last.answer(200, bytes(290))
    assert [json.loads(heard[1])["name"] for heard in client.heard] == ["frame_size", "frame_size"]
    assert len(client.calls) == 0


def test_headers_are_left_out_before_the_body_is() -> None:
    world = World()
    client = world.client(max_packet=300)
    client.call("$call/pay/1")
    world.upstreams.last.answer(200, bytes(200), [("x-long", "y" * 200)])
    ((topic, payload, _, properties),) = client.heard
    assert (topic, len(payload)) == ("$reply/1", 200)
    assert properties[Property.USER_PROPERTY] == [("status", "0")]


def test_the_gateway_bounds_answers_for_clients_without_a_limit() -> None:
    world = World(max_answer=100)
    client = world.client(V311)
    client.call("$call/pay/1")
    world.upstreams.last.answer(200, bytes(101))
    assert client.heard[0][0] == "$reply/1/error"


def test_an_unknown_operation_is_answered_in_the_same_turn() -> None:
    world = World(RouteSettings(operation="known", cluster="c"))
    client = world.client(V311)
    assert client.call("$call/pay/1") == Reason.SUCCESS
    assert json.loads(client.heard[0][1])["name"] == "unknown_operation"
    assert len(client.calls) == 0


def test_a_client_that_nobody_knows_calls_as_nobody() -> None:
    world = World(RouteSettings(operation="*", cluster="c", require="token"))
    client = world.client(V311)
    client.identity = None  # type: ignore[assignment]
    client.call("$call/pay/1")
    assert json.loads(client.heard[0][1])["name"] == "auth"

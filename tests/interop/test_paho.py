"""paho-mqtt against the gateway: both versions, every transport, QoS 2 both ways, reconnection, properties, wills."""

from __future__ import annotations

import queue
import ssl
import uuid
from typing import Any

import pytest

from tests.interop.mqtt_place import Place
from tests.system.gateway_process import PATIENCE

mqtt = pytest.importorskip("paho.mqtt.client", reason="no paho-mqtt here (pip install '.[test]')")

from paho.mqtt.packettypes import PacketTypes  # noqa: E402
from paho.mqtt.properties import Properties  # noqa: E402
from paho.mqtt.subscribeoptions import SubscribeOptions  # noqa: E402

VERSIONS = [mqtt.MQTTv31, mqtt.MQTTv311, mqtt.MQTTv5]
TIMEOUT = PATIENCE


class Device:
    """A client whose events are queues."""

    def __init__(self, place: Place, name: str, version: int, *, kind: str = "tcp", port: int = 0, **more: Any) -> None:
        options = more if version == mqtt.MQTTv5 else {"clean_session": True} | more
        self.version = version
        self.port = port or place.mqtt
        self.client = client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=version, transport=kind, **options
        )
        client.username_pw_set("anybody", "alice-token")
        client.reconnect_delay_set(1, 1)
        self.connects: queue.Queue[Any] = queue.Queue()
        self.messages: queue.Queue[Any] = queue.Queue()
        self.subscribed: queue.Queue[Any] = queue.Queue()
        self.unsubscribed: queue.Queue[Any] = queue.Queue()
        self.published: queue.Queue[Any] = queue.Queue()
        self.lost: queue.Queue[Any] = queue.Queue()
        client.on_connect = lambda c, data, flags, reason, properties: self.connects.put((flags, reason, properties))
        client.on_message = lambda c, data, message: self.messages.put(message)
        client.on_subscribe = lambda c, data, mid, reasons, properties: self.subscribed.put(reasons)
        client.on_unsubscribe = lambda c, data, mid, reasons, properties: self.unsubscribed.put(reasons)
        client.on_publish = lambda c, data, mid, reason, properties: self.published.put((reason, properties))
        client.on_disconnect = lambda c, data, flags, reason, properties: self.lost.put(reason)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def connect(self, **more: Any) -> tuple[Any, Any, Any]:
        self.client.connect("localhost", self.port, **more)
        self.client.loop_start()
        flags, reason, properties = self.connects.get(timeout=TIMEOUT)
        assert not reason.is_failure, reason
        return flags, reason, properties

    def subscribe(self, *args: Any, **more: Any) -> list[Any]:
        self.client.subscribe(*args, **more)
        reasons: list[Any] = self.subscribed.get(timeout=TIMEOUT)
        return reasons

    def publish(self, topic: str, payload: Any, qos: int, **more: Any) -> Any:
        self.client.publish(topic, payload, qos, **more)
        return self.published.get(timeout=TIMEOUT)[0]

    def message(self) -> Any:
        return self.messages.get(timeout=TIMEOUT)


def properties(kind: int, **values: Any) -> Any:
    made = Properties(kind)
    for name, value in values.items():
        setattr(made, name, value)
    return made


def trust(place: Place) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(place.ca))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("kind", "door", "tls"),
    [("tcp", "mqtt", False), ("tcp", "mqtts", True), ("websockets", "web", False), ("websockets", "shared", True)],
)
def test_every_quality_of_service_both_ways(mqtt_place: Place, version: int, kind: str, door: str, tls: bool) -> None:
    name = f"p{version}{door}"
    with Device(mqtt_place, name, version, kind=kind, port=getattr(mqtt_place, door)) as device:
        if tls:
            device.client.tls_set_context(trust(mqtt_place))
        if kind == "websockets":
            device.client.ws_set_options("/mqtt")
        device.connect()
        assert [reason.value for reason in device.subscribe([(f"{name}/{qos}", qos) for qos in (0, 1, 2)])] == [0, 1, 2]
        for qos in (0, 1, 2):
            assert not device.publish(f"{name}/{qos}", f"温度 {qos}", qos).is_failure
            message = device.message()
            assert (message.topic, message.qos, message.payload.decode()) == (f"{name}/{qos}", qos, f"温度 {qos}")
        device.client.unsubscribe([f"{name}/0", f"{name}/1", "never/had"])
        reasons = device.unsubscribed.get(timeout=TIMEOUT)
        if version == mqtt.MQTTv5:
            assert [reason.value for reason in reasons] == [0, 0, 0x11]
        for qos in (0, 1, 2):
            device.publish(f"{name}/{qos}", "after", qos)
        assert device.message().topic == f"{name}/2"
        assert device.messages.empty()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_burst_of_qos_2_comes_once_each_and_in_order(mqtt_place: Place, version: int) -> None:
    name, count = f"burst{version}", 500
    with Device(mqtt_place, name, version) as device:
        device.client.max_queued_messages_set(0)
        device.connect()
        device.subscribe(name, 2)
        for number in range(count):
            device.client.publish(name, str(number), 2)
        assert [int(device.message().payload) for _ in range(count)] == list(range(count))
        for _ in range(count):
            device.published.get(timeout=TIMEOUT)
        assert device.messages.empty()


@pytest.mark.parametrize("version", VERSIONS)
def test_it_comes_back_after_the_gateway_was_killed(tmp_path_factory: Any, mqtt_place: Place, version: int) -> None:
    """The client reconnects by itself, its session is present, and what it had asked for goes on."""
    name = f"lasting{version}"
    more: dict[str, Any] = {} if version == mqtt.MQTTv5 else {"clean_session": False}
    connecting: dict[str, Any] = {}
    if version == mqtt.MQTTv5:
        connecting = {"clean_start": False, "properties": properties(PacketTypes.CONNECT, SessionExpiryInterval=300)}
    with Device(mqtt_place, name, version, **more) as device:
        flags, _, _ = device.connect(**connecting)
        assert not flags.session_present
        device.subscribe(name, 2)
        assert not device.publish(name, "before", 2).is_failure
        assert device.message().payload == b"before"
        mqtt_place.gateway.kill()
        mqtt_place.gateway.start()
        flags, reason, _ = device.connects.get(timeout=TIMEOUT)
        assert not reason.is_failure
        assert flags.session_present or version == mqtt.MQTTv31
        assert not device.publish(name, "after", 2).is_failure
        while (message := device.message()).payload != b"after":
            assert message.payload == b"before", "only what was not yet acknowledged may come again"
        assert device.messages.empty()


@pytest.mark.parametrize("version", VERSIONS)
def test_wrong_credentials_are_told(mqtt_place: Place, version: int) -> None:
    with Device(mqtt_place, f"wrong{version}", version) as device:
        device.client.username_pw_set("anybody", "wrong")
        device.client.connect("localhost", device.port)
        device.client.loop_start()
        _, reason, _ = device.connects.get(timeout=TIMEOUT)
        assert reason.is_failure
        assert reason.getName() == "Bad user name or password"


@pytest.mark.parametrize("version", VERSIONS)
def test_wills(mqtt_place: Place, version: int) -> None:
    name = f"will{version}"
    with Device(mqtt_place, f"{name}-watcher", version) as watcher:
        watcher.connect()
        watcher.subscribe(f"{name}/#", 2)
        with Device(mqtt_place, name, version) as dying:
            dying.client.will_set(f"{name}/gone", "别了", 2, retain=True)
            dying.connect()
            dying.client.loop_stop()
            dying.client.socket().close()
            message = watcher.message()
        assert (message.topic, message.qos, message.retain, message.payload.decode()) == (
            f"{name}/gone",
            2,
            False,
            "别了",
        )
        with Device(mqtt_place, f"{name}-polite", version) as polite:
            polite.client.will_set(f"{name}/polite", "never sent", 1)
            polite.connect()
        watcher.publish(f"{name}/mark", "mark", 1)
        assert watcher.message().topic == f"{name}/mark", "who says DISCONNECT leaves no will"
    with Device(mqtt_place, f"{name}-late", version) as late:
        late.connect()
        late.subscribe(f"{name}/+", 1)
        message = late.message()
        assert (message.topic, message.qos, message.retain) == (f"{name}/gone", 1, True)


def test_what_the_gateway_tells_a_client_of_mqtt_5(mqtt_place: Place) -> None:
    with Device(mqtt_place, "", mqtt.MQTTv5) as device:
        _, _, told = device.connect()
        assert told.AssignedClientIdentifier.startswith("auto-")
        assert told.ReceiveMaximum == 1024
        assert told.TopicAliasMaximum == 32
        assert told.MaximumPacketSize == 256 * 1024


def test_properties_of_a_message(mqtt_place: Place) -> None:
    with Device(mqtt_place, "proper", mqtt.MQTTv5) as device:
        device.connect(properties=properties(PacketTypes.CONNECT, ReceiveMaximum=1, TopicAliasMaximum=5))
        asked = properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=268_435_455)
        device.subscribe("proper/+", 1, properties=asked)
        given = properties(
            PacketTypes.PUBLISH, PayloadFormatIndicator=1, ContentType="text/plain", ResponseTopic="answers/proper",
            CorrelationData=b"\x00\xff", MessageExpiryInterval=100, UserProperty=[("单位", "℃"), ("单位", "K")],
        )  # fmt: skip
        for again in (False, True):
            assert not device.publish("proper/1", "21.5", 1, properties=given).is_failure
            message = device.message()
            got = message.properties
            # paho leaves aliases to its user
            assert message.topic == ("" if again else "proper/1")
            assert 1 <= got.TopicAlias <= 5
            assert (got.PayloadFormatIndicator, got.ContentType, got.ResponseTopic, got.CorrelationData) == (
                1, "text/plain", "answers/proper", b"\x00\xff",
            )  # fmt: skip
            assert got.UserProperty == [("单位", "℃"), ("单位", "K")]
            assert got.SubscriptionIdentifier == [268_435_455]
            assert 0 < got.MessageExpiryInterval <= 100


def test_aliases_of_a_publisher(mqtt_place: Place) -> None:
    """[MQTT-3.3.2-12] Aliases are accepted, and stand for the topic that they were last given with."""
    with Device(mqtt_place, "alias", mqtt.MQTTv5) as device:
        device.connect()
        device.subscribe("alias/#", 1)
        for topic in ("alias/one", "", "", "alias/two", ""):
            device.publish(topic, "x", 1, properties=properties(PacketTypes.PUBLISH, TopicAlias=7))
        assert [device.message().topic for _ in range(5)] == [
            "alias/one", "alias/one", "alias/one", "alias/two", "alias/two",
        ]  # fmt: skip


def test_options_of_a_subscription(mqtt_place: Place) -> None:
    """No Local, Retain As Published, and the three kinds of retain handling."""
    with Device(mqtt_place, "options", mqtt.MQTTv5) as device, Device(mqtt_place, "other", mqtt.MQTTv5) as other:
        device.connect()
        other.connect()
        other.publish("options/kept", "kept", 1, retain=True)
        device.subscribe("options/+", options=SubscribeOptions(qos=1, noLocal=True, retainAsPublished=True))
        assert device.message().retain
        device.publish("options/mine", "mine", 1)
        other.publish("options/theirs", "theirs", 1, retain=True)
        message = device.message()
        assert (message.topic, message.retain) == ("options/theirs", True), "no local, retain as published"
        device.subscribe("options/+", options=SubscribeOptions(qos=0, retainHandling=1))
        device.subscribe("options/kept", options=SubscribeOptions(qos=0, retainHandling=2))
        other.publish("options/last", "last", 1)
        assert device.message().topic == "options/last", "retained messages only for new subscriptions, or not at all"
        device.subscribe("options/+", options=SubscribeOptions(qos=0, retainHandling=0))
        assert {device.message().topic, device.message().topic} == {"options/kept", "options/theirs"}


def test_refusals_of_mqtt_5_have_reasons(mqtt_place: Place) -> None:
    with Device(mqtt_place, "refused", mqtt.MQTTv5) as device:
        device.connect()
        assert [reason.value for reason in device.subscribe([("fine", 1), ("forbidden/#", 1)])] == [1, 0x87]
        assert device.publish("forbidden/x", "no", 1).value == 0x87
        # paho sends PUBREL for a PUBREC of 0x87, and is told that there is nothing to release
        assert device.publish("forbidden/x", "no", 2).value == 0x92
        assert device.publish("nobody/here", "x", 1).value == 0x10


def test_a_packet_that_is_too_large(mqtt_place: Place) -> None:
    with Device(mqtt_place, "large", mqtt.MQTTv5) as device:
        device.connect()
        device.client.publish("large", b"x" * 300_000, 1)
        assert device.lost.get(timeout=TIMEOUT).value == 0x95


def test_a_call_with_response_topic(mqtt_place: Place) -> None:
    with Device(mqtt_place, "caller", mqtt.MQTTv5) as device:
        device.connect()
        correlation = uuid.uuid4().bytes
        given = properties(PacketTypes.PUBLISH, ResponseTopic="answers", CorrelationData=correlation)
        assert not device.publish("$call/payments.pay", b"{}", 1, properties=given).is_failure
        answer = device.message()
        assert (answer.topic, answer.properties.CorrelationData) == ("answers", correlation)
        assert b'"device": "caller"' in answer.payload
        assert answer.properties.UserProperty[0] == ("status", "0")


@pytest.mark.parametrize("version", [mqtt.MQTTv311, mqtt.MQTTv5])
def test_a_request_to_a_device_is_answered(mqtt_place: Place, version: int) -> None:
    with Device(mqtt_place, f"asked{version}", version) as device:
        device.connect()

        def answer(client: Any, data: Any, message: Any) -> None:
            topic = getattr(getattr(message, "properties", None), "ResponseTopic", None)
            client.publish(topic or f"$response/{message.topic.rpartition('/')[2]}", message.payload.upper(), 1)

        device.client.on_message = answer
        body = {"device": f"asked{version}", "topic": "commands/led", "payload_b64": "b24=", "timeout": 10}
        status, answered = mqtt_place.gateway.http("POST", "/v1/mqtt/request", body, "t-push")
        assert (status, answered["status"]) == (200, "answered"), answered
        assert answered["text"] == "ON"

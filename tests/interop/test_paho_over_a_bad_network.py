"""paho-mqtt through a network that cuts its connections: nothing is lost, and QoS 2 comes exactly once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from accessgw.demo.relay import Relay
from tests.interop.mqtt_place import Place
from tests.system.gateway_process import PATIENCE

mqtt = pytest.importorskip("paho.mqtt.client", reason="no paho-mqtt here (pip install '.[test]')")

from paho.mqtt.packettypes import PacketTypes  # noqa: E402
from paho.mqtt.properties import Properties  # noqa: E402

COUNT = 600
CUT_EVERY = 100


class BadNetwork:
    """A relay in a thread."""

    def __init__(self, port: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._relay = Relay("127.0.0.1", port)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._do(self._relay.start())
        self.port = self._relay.port

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def cut(self) -> int:
        async def cut() -> int:
            return self._relay.cut()

        cuts: int = self._do(cut())
        return cuts

    def close(self) -> None:
        self._do(self._relay.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def network(mqtt_place: Place) -> Iterator[BadNetwork]:
    network = BadNetwork(mqtt_place.mqtt)
    yield network
    network.close()


def lasting(name: str, version: int, port: int) -> Any:
    """A client whose session outlives its connections, and that comes back by itself."""
    more: dict[str, Any] = {} if version == mqtt.MQTTv5 else {"clean_session": False}
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=version, **more)
    client.username_pw_set("anybody", "alice-token")
    client.reconnect_delay_set(0.1, 0.2)
    connecting: dict[str, Any] = {}
    if version == mqtt.MQTTv5:
        connecting = {"clean_start": False, "properties": Properties(PacketTypes.CONNECT)}
        connecting["properties"].SessionExpiryInterval = 300
    client.connect("127.0.0.1", port, **connecting)
    return client


@pytest.mark.parametrize("version", [mqtt.MQTTv311, mqtt.MQTTv5])
@pytest.mark.parametrize("qos", [1, 2])
def test_nothing_is_lost_and_qos_2_comes_once(mqtt_place: Place, network: BadNetwork, qos: int, version: int) -> None:
    """[MQTT-4.4.0-1] Both sides lose their connections again and again."""
    name = f"cut{version}{qos}"
    got: list[int] = []
    ready, all_here, all_sent = threading.Event(), threading.Event(), threading.Event()
    published: list[int] = []
    receiver = lasting(f"{name}-receiver", version, network.port)
    sender = lasting(f"{name}-sender", version, network.port)

    def take(client: Any, data: Any, message: Any) -> None:
        got.append(int(message.payload))
        if got[-1] % CUT_EVERY == CUT_EVERY // 2 and got.count(got[-1]) == 1:
            cutting.set()
        if len(set(got)) == COUNT:
            all_here.set()

    # At a reconnection paho sends all that waits at once, whatever Receive Maximum says.
    room = threading.Semaphore(100)

    def sent(client: Any, data: Any, number: int, reason: Any, properties: Any) -> None:
        published.append(number)
        room.release()
        if len(published) == COUNT:
            all_sent.set()

    cutting, over = threading.Event(), threading.Event()
    cuts: list[int] = []

    def cutter() -> None:
        while not over.is_set():
            if cutting.wait(0.05):
                cutting.clear()
                cuts.append(network.cut())

    receiver.on_message = take
    receiver.on_subscribe = lambda *_: ready.set()
    sender.on_publish = sent
    thread = threading.Thread(target=cutter, daemon=True)
    thread.start()
    try:
        receiver.loop_start()
        sender.loop_start()
        receiver.subscribe(name, qos)
        assert ready.wait(PATIENCE)
        for number in range(COUNT):
            assert room.acquire(timeout=PATIENCE), f"{len(published)} of {number} were acknowledged"
            sender.publish(name, str(number), qos)
        assert all_sent.wait(PATIENCE), f"{len(published)} of {COUNT} were acknowledged"
        assert all_here.wait(PATIENCE), f"missing {sorted(set(range(COUNT)) - set(got))[:10]}"
    finally:
        over.set()
        thread.join()
        for client in (receiver, sender):
            client.disconnect()
            client.loop_stop()
    assert sum(cuts) >= 2, "the network was cut"
    if qos == 2:
        assert len(got) == COUNT, f"twice: {sorted(n for n in set(got) if got.count(n) > 1)[:10]}"
    assert sorted(set(got)) == list(range(COUNT))

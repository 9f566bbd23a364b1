"""A broker of ours on a Clock, and the other broker as a test plays it by hand: packets in, packets out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from accessgw.core.interfaces.mqtt import DialUser
from accessgw.core.interfaces.mqtt_state import Message
from accessgw.core.interfaces.stores import StoreUnavailable
from accessgw.core.mqtt.bridge import Bridge
from accessgw.core.mqtt.bridge_loops import LoopGuard
from accessgw.core.mqtt.bridges import Bridges
from accessgw.core.mqtt.broker import Broker
from accessgw.core.mqtt.outbound import Outbound
from accessgw.core.mqtt.receivers import LocalReceiver
from accessgw.core.mqtt.services import wire_limits
from accessgw.core.mqtt.session_keeper import SessionKeeper
from accessgw.core.mqtt.subscriptions import Subscriptions
from accessgw.core.mqtt.topic_trace import TopicTrace
from accessgw.core.timers import TimingWheel
from accessgw.core.turns import TurnFlusher
from accessgw.model.counters import MqttCounters
from accessgw.model.mqtt_settings import BridgeSettings, BridgeTopicSettings, MqttSettings
from accessgw.stores.memory_mqtt import MemoryMqttStore
from protocols.mqtt import packets
from protocols.mqtt.connection import Connection as Wire
from protocols.mqtt.limits import STANDARD_LIMITS, Limits
from protocols.mqtt.state import Role

WALL = 1.8e9
LIMITS = replace(STANDARD_LIMITS, max_packet=1_000_000)


class SlowStore(MemoryMqttStore):
    """Answers publishes when the test lets it; `refusing` ones fail."""

    slow = False
    refusing = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.held: list[Callable[[], None]] = []

    def publish(self, message: Message, receivers: Any, **more: Any) -> Deferred[list[int]]:
        done: Deferred[list[int]] = Deferred()

        def go() -> None:
            if self.refusing:
                done.errback(StoreUnavailable("the disk is full"))
            else:
                super(SlowStore, self).publish(message, receivers, **more).chainDeferred(done)

        if self.slow:
            self.held.append(go)
        else:
            go()
        return done

    def release(self) -> None:
        held, self.held = self.held, []
        for go in held:
            go()


class Remote:
    """The other broker's end of one connection."""

    def __init__(self, settings: BridgeSettings, user: DialUser, clock: Clock, limits: Limits) -> None:
        self.settings = settings
        self.user = user
        self.wire = Wire(Role.SERVER, limits=limits, now=0.0)
        self.clock = clock
        self.open = True
        """Neither side has ended it."""
        self.paused = False
        self.buffered = 0
        self._came: list[packets.Packet] = []

    # what the bridge calls

    def write(self, data: bytes) -> None:
        self.wire.receive(data, 0.0)
        self._came += self.wire.events()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def close(self) -> None:
        self.open = False

    abort = close

    # what the test does

    def turn(self) -> None:
        """Let everything happen that is due."""
        for _ in range(5):
            self.clock.advance(0)

    def came(self) -> list[packets.Packet]:
        """What the bridge has sent since the last call."""
        self.turn()
        came, self._came = self._came, []
        return came

    def say(self, *said: packets.Packet) -> None:
        for packet in said:
            self.wire.send(packet)
        self.user.received(self.wire.to_send(0.0))
        self.turn()

    def lose(self, error: str = "the other side closed the connection") -> None:
        self.open = False
        self.user.lost(error)

    def accept(self, present: bool = False, **properties: Any) -> packets.Connect:
        """CONNACK, and SUBACK for all that is subscribed; the CONNECT."""
        self.user.connected()
        connect = self.came()[0]
        assert isinstance(connect, packets.Connect)
        told = {packets.Property[name]: value for name, value in properties.items()}
        self.say(packets.Connack(present, 0, told or packets.NO_PROPERTIES))
        self.suback()
        return connect

    def suback(self) -> list[packets.Subscribe]:
        came = self.came()
        asked = [packet for packet in came if isinstance(packet, packets.Subscribe)]
        self._came = [packet for packet in came if not isinstance(packet, packets.Subscribe)]
        for subscribe in asked:
            self.say(packets.Suback(subscribe.packet_id, [request.qos for request in subscribe.requests]))
        return asked


class World:
    """Our side, with one bridge or several."""

    def __init__(
        self, *bridges: BridgeSettings, settings: MqttSettings | None = None, store: SlowStore | None = None
    ) -> None:
        self.settings = settings or MqttSettings()
        self.clock = Clock()
        self.counters = MqttCounters()
        self.store = store or SlowStore(self.settings, self.wall, self.counters)
        self.outbound = Outbound(self.settings, self.store, self.clock, self.wall, self.counters)
        self.broker = Broker(
            self.settings,
            store=self.store,
            outbound=self.outbound,
            clock=self.clock,
            wall=self.wall,
            random=lambda: 0.5,
            counters=self.counters,
            trace=TopicTrace(self.wall),
        )
        self.keeper = SessionKeeper(
            self.broker, self.store, TimingWheel(self.clock, self.clock.seconds), self.wall, self.counters
        )
        self.remotes: list[Remote] = []
        self.dials_at: list[float] = []
        self.remote_limits = LIMITS
        self.random = 1.0
        make = partial(
            Bridge,
            node="node",
            dialer=self,
            broker=self.broker,
            keeper=self.keeper,
            outbound=self.outbound,
            subscriptions=Subscriptions(self.broker, self.store, self.clock),
            store=self.store,
            clock=self.clock,
            wall=self.wall,
            random=lambda: self.random,
            flusher=TurnFlusher(self.clock),
            counters=self.counters,
            limits=lambda: wire_limits(self.settings),
        )
        self.bridges = Bridges(
            make,
            lambda: LoopGuard("us", self.clock.seconds, self.broker.bridge_clients),
            broker=self.broker,
            keeper=self.keeper,
            wall=self.wall,
            counters=self.counters,
        )
        self.seen: list[Message] = []
        self.keeper.restore(self.store.loaded)
        self.broker.tree.subscribe(
            LocalReceiver("$control", lambda message, qos, retain: self.seen.append(message)),
            packets.SubscriptionRequest("#", 2),
        )
        self.bridges.start(bridges)

    def wall(self) -> float:
        return WALL + self.clock.seconds()

    def dial(self, bridge: BridgeSettings, user: DialUser) -> Remote:
        self.dials_at.append(self.clock.seconds())
        self.remotes.append(Remote(bridge, user, self.clock, self.remote_limits))
        return self.remotes[-1]

    @property
    def remote(self) -> Remote:
        return self.remotes[-1]

    def publish(self, topic: str, payload: bytes = b"p", qos: int = 1, **more: Any) -> Any:
        """A client of ours publishes: the reason, once it is known."""
        more.setdefault("publisher", "device")
        outcome = self.broker.publish(Message(topic, payload, qos, at=self.wall(), **more))
        self.remote.turn()
        return outcome if isinstance(outcome, int) else getattr(outcome, "result", None)

    def publish_retained(self, topic: str) -> None:
        """Before there is a bridge."""
        self.broker.publish(Message(topic, b"kept", 1, True, at=self.wall(), publisher="device"))

    def row(self) -> dict[str, Any]:
        return self.bridges.rows()[0]

    def reconnect(self, after: float = 100.0) -> Remote:
        """The present connection is lost, and the next one begins."""
        before = len(self.remotes)
        if self.remote.open:
            self.remote.lose()
        self.clock.advance(after)
        assert len(self.remotes) == before + 1
        return self.remote


def settings(*topics: BridgeTopicSettings, **more: Any) -> BridgeSettings:
    return BridgeSettings(**{"name": "b", "address": "broker.example:1883", "topics": topics or OUT, **more})


OUT = (BridgeTopicSettings(filter="out/#", qos=2),)
IN = (BridgeTopicSettings(filter="in/#", direction="in", qos=2),)

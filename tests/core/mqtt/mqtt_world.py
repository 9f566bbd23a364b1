"""A broker, a store whose steps a test takes by hand, and clients that keep a client's state and rules."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from accessgw.core.interfaces.mqtt_state import Message, StoredWill
from accessgw.core.interfaces.stores import StoreUnavailable
from accessgw.core.mqtt.broker import Broker
from accessgw.core.mqtt.outbound import Outbound
from accessgw.core.mqtt.session import MqttSession
from accessgw.core.mqtt.session_keeper import Opened, Opening, SessionKeeper
from accessgw.core.mqtt.subscriptions import Subscriptions
from accessgw.core.mqtt.topic_trace import TopicTrace
from accessgw.core.timers import TimingWheel
from accessgw.model.counters import MqttCounters
from accessgw.model.mqtt_settings import MqttSettings
from accessgw.stores.memory_mqtt import MemoryMqttStore
from protocols.mqtt import packets
from protocols.mqtt.connection import Connection, Role
from protocols.mqtt.encoding import encode
from protocols.mqtt.limits import STANDARD_LIMITS
from protocols.mqtt.packets import V5, Property, SubscriptionRequest, Will

WALL = 1_700_000_000.0
ORDERED = (
    "save_session",
    "end_session",
    "subscribe",
    "unsubscribe",
    "save_will",
    "publish",
    "assign",
    "pubrec",
    "released",
)
BEHIND = ("forget_will", "retain", "acknowledged")


class HandStore:
    """The memory store, with the durable one's timing: commands become durable one after the other, their Deferreds
    fire later, in order; a read sees what is durable when it runs, and nobody waits for it. `hand` False: all at
    once."""

    def __init__(self, inner: MemoryMqttStore) -> None:
        self.inner = inner
        self.hand = False
        self.refuse = 0
        """So many of the next commands fail at once."""
        self.commands: deque[tuple[Callable[[], Any], Deferred[Any] | None]] = deque()
        self.done: deque[tuple[Deferred[Any], Any]] = deque()
        self.reads: deque[tuple[Callable[[], Any], Deferred[Any]]] = deque()
        self.asked: list[str] = []

    @property
    def loaded(self) -> Any:
        return self.inner.loaded

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if name in ORDERED:
            return lambda *args, **more: self._command(name, lambda: method(*args, **more))
        if name in BEHIND:
            return lambda *args, **more: self._lazily(name, lambda: method(*args, **more))
        if name == "read":
            return lambda *args: self._read(lambda: method(*args))
        return method

    def inflight(self, client_id: str) -> Deferred[Any]:
        barrier: Deferred[Any] = Deferred()
        self.asked.append("inflight")
        self.commands.append((lambda: None, barrier))
        barrier.addCallback(lambda _: self._read(lambda: self.inner.inflight(client_id)))
        self._all_at_once()
        return barrier

    def _refused(self) -> bool:
        if self.refuse:
            self.refuse -= 1
            return True
        return False

    def _command(self, name: str, run: Callable[[], Any]) -> Deferred[Any]:
        self.asked.append(name)
        if self._refused():
            return fail(StoreUnavailable("refused"))
        deferred: Deferred[Any] = Deferred()
        self.commands.append((run, deferred))
        self._all_at_once()
        return deferred

    def _lazily(self, name: str, run: Callable[[], Any]) -> None:
        self.asked.append(name)
        if not self._refused():
            self.commands.append((run, None))
            self._all_at_once()

    def _read(self, run: Callable[[], Any]) -> Deferred[Any]:
        self.asked.append("read")
        if self._refused():
            return fail(StoreUnavailable("refused"))
        deferred: Deferred[Any] = Deferred()
        self.reads.append((run, deferred))
        self._all_at_once()
        return deferred

    def _all_at_once(self) -> None:
        if not self.hand:
            self.settle()

    def commit(self) -> bool:
        """The oldest command becomes durable."""
        if not self.commands:
            return False
        run, deferred = self.commands.popleft()
        result = run()
        if deferred is not None:
            self.done.append((deferred, result.result if isinstance(result, Deferred) else result))
        return True

    def fire(self) -> bool:
        """Whoever asked for the oldest durable command hears of it."""
        if not self.done:
            return False
        deferred, result = self.done.popleft()
        deferred.callback(result)
        return True

    def read_one(self) -> bool:
        if not self.reads:
            return False
        run, deferred = self.reads.popleft()
        deferred.callback(run().result)
        return True

    def settle(self) -> None:
        while self.commit() or self.fire() or self.read_one():
            pass

    def crash(self) -> None:
        """What is not durable never was."""
        self.commands.clear()
        self.done.clear()
        self.reads.clear()


class Client:
    """A client that is told what the broker sends, through a client's end of the wire, which checks it; an Outlet.

    `got` is what its application has got; acknowledgements wait in `answers` until a test lets them go.
    """

    def __init__(self, world: World, name: str, *, receive_maximum: int = 65535, max_packet: int = 0, aliases: int = 0,
                 version: int = V5, prompt: bool = False) -> None:  # fmt: skip
        self.world = world
        self.name = name
        self.receive_maximum, self.max_packet, self.aliases = receive_maximum, max_packet, aliases
        self.version = version
        self.prompt = prompt
        self.got: list[packets.Publish] = []
        self.frames: list[packets.Packet] = []
        self.held: set[int] = set()
        """QoS 2 ids that it has got and that were not released: part of its session."""
        self.answers: deque[tuple[str, int]] = deque()
        self.outstanding: set[int] = set()
        self.buffered = 0
        self.session: MqttSession | None = None
        self.opened: Opened | None = None
        self.displaced: list[int] = []
        self.wire: Any = None

    # ------------------------------------------------------------ as an Outlet

    def put(self, frame: bytes) -> None:
        self._received(frame)

    def pubrel(self, packet_id: int, reason: int = 0) -> None:
        self._received(encode(packets.Pubrel(packet_id, reason), self.version))

    def displace(self, reason: int) -> None:
        self.displaced.append(reason)
        self.cut()

    # ------------------------------------------------------------ what a test does

    def connect(self, *, clean: bool = False, expiry: float = 3600.0, will: StoredWill | None = None,
                welcome: bool = True, user: str = "") -> Opened:  # fmt: skip
        """CONNECT up to CONNACK; with `welcome` False CONNACK is yet to come, by `welcomed`."""
        world = self.world
        opening = Opening(self.name, None, user, self.version, clean, expiry, will, self.max_packet, self.aliases)
        self.opened = world.keeper.open(opening, self)
        if welcome:
            self.welcomed()
        return self.opened

    def welcomed(self) -> None:
        opened = self.opened
        assert opened is not None
        if opened.session.outlet is not self:
            return
        if not opened.present:
            self.held.clear()
        self.answers.clear()
        self.outstanding.clear()
        limits = STANDARD_LIMITS.__class__(
            max_packet=self.max_packet or STANDARD_LIMITS.max_packet, receive_maximum=self.receive_maximum,
            topic_alias_maximum=self.aliases, max_topic_length=65535, max_topic_levels=65536,
        )  # fmt: skip
        self.wire = Connection(Role.CLIENT, limits=limits, now=0.0)
        self.wire.send(packets.Connect(self.name, self.version, clean_start=False))
        self.wire.receive(encode(packets.Connack(opened.present, 0), self.version), 0.0)
        self.wire.events()
        self.session = opened.session
        self.session.window = min(self.world.settings.max_inflight, self.receive_maximum)
        self.world.outbound.resume(self.session)

    def cut(self, *, with_will: bool = True, expiry: float | None = None) -> None:
        """The connection ends."""
        session = self.opened.session if self.opened is not None else None
        self.session, self.wire = None, None
        self.answers.clear()
        if session is not None:
            self.world.keeper.close(session, self, with_will=with_will, expiry=expiry)

    def subscribe(self, *filters: str, qos: int = 1, identifier: int = 0, **options: Any) -> Any:
        assert self.session is not None
        requests = [SubscriptionRequest(filter, qos, **options) for filter in filters]
        reasons = self.world.subscriptions.subscribe(self.session, requests, identifier, lambda request: request.qos)
        if self.session is not None:
            self.world.outbound.pull(self.session)
        return reasons

    def answer(self) -> bool:
        """Let the oldest acknowledgement go."""
        if not self.answers or self.session is None:
            return False
        kind, packet_id = self.answers.popleft()
        getattr(self.wire, kind)(packet_id)
        outbound = self.world.outbound
        if kind == "puback":
            self.outstanding.discard(packet_id)
            outbound.puback(self.session, packet_id)
        elif kind == "pubrec":
            outbound.pubrec(self.session, packet_id, 0)
        else:
            self.outstanding.discard(packet_id)
            outbound.pubcomp(self.session, packet_id)
        return True

    @property
    def payloads(self) -> list[bytes]:
        return [publish.payload for publish in self.got]

    # ------------------------------------------------------------ inside

    def _received(self, frame: bytes) -> None:
        if self.wire is None:
            return
        self.wire.receive(frame, 0.0)
        for packet in self.wire.events():
            self.frames.append(packet)
            if isinstance(packet, packets.Publish):
                self._publish(packet)
            elif isinstance(packet, packets.Pubrel):
                self.held.discard(packet.packet_id)
                self._answer("pubcomp", packet.packet_id)

    def _publish(self, publish: packets.Publish) -> None:
        packet_id = publish.packet_id
        if publish.qos:
            assert packet_id not in self.outstanding, f"packet id {packet_id} is in use"
            self.outstanding.add(packet_id)
        if publish.qos == 2:
            if packet_id not in self.held:
                self.held.add(packet_id)
                self.got.append(publish)
            self._answer("pubrec", packet_id)
            return
        self.got.append(publish)
        if publish.qos:
            self._answer("puback", packet_id)

    def _answer(self, kind: str, packet_id: int) -> None:
        self.answers.append((kind, packet_id))
        if self.prompt:
            self.world.clock.callLater(0, self.answer)


class World:
    """A broker with all that belongs to it. `restart` begins anew with what the store has."""

    def __init__(self, **settings: Any) -> None:
        self.settings = MqttSettings(**settings)
        self.clock = Clock()
        self.counters = MqttCounters()
        self.memory = MemoryMqttStore(self.settings, self.wall, self.counters)
        self.store = HandStore(self.memory)
        self._build()

    def _build(self) -> None:
        self.outbound = Outbound(self.settings, self.store, self.clock, self.wall, self.counters)
        self.broker = Broker(
            self.settings, store=self.store, outbound=self.outbound, clock=self.clock, wall=self.wall,
            random=lambda: 0.5, counters=self.counters, trace=TopicTrace(self.wall),
        )  # fmt: skip
        self.keeper = SessionKeeper(self.broker, self.store, TimingWheel(self.clock), self.wall, self.counters)
        self.subscriptions = Subscriptions(self.broker, self.store, self.clock)

    def wall(self) -> float:
        return WALL + self.clock.seconds()

    def restart(self) -> None:
        """kill -9, and the next process."""
        self.store.crash()
        for call in self.clock.getDelayedCalls():
            call.cancel()
        self.counters = MqttCounters()
        self._build()
        self.keeper.restore(self.store.loaded)
        self.store.settle()

    def client(self, name: str, **more: Any) -> Client:
        return Client(self, name, **more)

    def publish(self, payload: bytes, topic: str = "t", qos: int = 1, **more: Any) -> list[int]:
        """Publish; the list gets the reason code once it is known."""
        reasons: list[int] = []
        outcome = self.broker.publish(Message(topic, payload, qos, at=self.wall(), **more))
        if isinstance(outcome, int):
            reasons.append(outcome)
        else:
            outcome.addCallback(reasons.append)
        return reasons

    def turn(self, times: int = 1) -> None:
        """Turns of the reactor: what a turn schedules is for the next one. (Clock.advance would run it as well.)"""
        for _ in range(times):
            for call in [call for call in self.clock.getDelayedCalls() if call.getTime() <= self.clock.seconds()]:
                if call.active():
                    run, args, more = call.func, call.args, call.kw
                    call.cancel()
                    run(*args, **more)

    def run(self, *clients: Client) -> None:
        """Until nothing moves: every acknowledgement goes its way."""
        while True:
            self.store.settle()
            self.turn(2)
            if not any(client.answer() for client in clients):
                self.store.settle()
                if not any(client.answers and client.session for client in clients) and not self.store.commands:
                    return


def will_of(topic: str = "will", payload: bytes = b"gone", qos: int = 1, delay: float = 0.0) -> StoredWill:
    properties = {Property.WILL_DELAY: int(delay)} if delay else packets.NO_PROPERTIES
    return StoredWill(Will(topic, payload, qos, False, properties), delay)

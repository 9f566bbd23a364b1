"""Core with everything around it faked, and what saves bytes in it real; and devices that remember."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed

from accessgw.core.app_tables import AppTables
from accessgw.core.codings import Codings
from accessgw.core.header_states import HeaderStates
from accessgw.core.interfaces.pushes import OutgoingPush
from accessgw.core.rollout import Packs, Rollout
from accessgw.model.counters import CodingCounters, HeaderCounters
from accessgw.model.header_states import HeaderState, StateKey
from accessgw.model.mmtp_settings import HeaderStateSettings, MmtpSettings
from accessgw.model.pushes import Scope, StreamKey
from accessgw.stores.memory_header_states import MemoryHeaderStateStore
from protocols.mmtp.bundles import Bundle
from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.events import PushReceived, ResponseReceived, WelcomeReceived
from protocols.mmtp.handshake import Hello
from protocols.mmtp.tables import GENERIC, AppTable, TableName, ValueType
from tests.core.gateway_fakes import Device, Gateway
from tests.system.coded_device import ALL, Memory

HEADERS = [("content-type", "application/json"), ("x-request", "0123456789abcdef")]
BODY = b'{"order": "8a7f", "currency": "CNY", "merchant": "Corner Shop", "status": "paid", "sum": 12}'
ORDERS = StreamKey(Scope.USER, "alice", "orders")


def table(version: int) -> AppTable:
    """Version after version of one table."""
    operations = tuple(f"operation{number}" for number in range(version))
    return AppTable(7, version, (TableName(":op", ValueType.ENUM, ("pay", *operations)),), ())


def dictionary(id: int, *classes: str) -> Dictionary:
    content = b'{"order": "", "currency": "CNY", "merchant": "Corner Shop", "status": "paid", "version": %d}' % id
    return Dictionary(id, content * 8, classes)


class FakeDictionaries:
    """A DictionaryService; a test says what is in force."""

    def __init__(self) -> None:
        self.bundle: Bundle | None = None
        self.all: dict[int, Dictionary] = {}
        self.sets: dict[bytes, Bundle] = {}
        self.secret: set[str] = set()
        self.observed: list[tuple[str, str, str, str, bytes]] = []
        self._changed: Callable[[str], None] = lambda app: None

    def put_in_force(self, *dictionaries: Dictionary) -> None:
        self.bundle = Bundle(dictionaries) if dictionaries else None
        if self.bundle is not None:
            self.sets[self.bundle.digest] = self.bundle
        self.all.update({one.id: one for one in dictionaries})
        self._changed("shop")

    def observe(self, *sample: Any) -> None:
        self.observed.append(sample)

    def is_secret(self, name: str) -> bool:
        return name in self.secret

    def bundle_for(self, app: str, device: str) -> Bundle | None:
        return self.bundle if app == "shop" else None

    def known(self, digest: bytes) -> Bundle | None:
        return self.sets.get(digest)

    def dictionary(self, id: int) -> Dictionary | None:
        return self.all.get(id)

    def readable(self) -> list[Dictionary]:
        return list(self.all.values())

    def on_change(self, changed: Callable[[str], None]) -> Callable[[], None]:
        self._changed = changed
        return lambda: None


class HeldStore(MemoryHeaderStateStore):
    """Answers when a test lets it."""

    def __init__(self) -> None:
        super().__init__(1000)
        self.hold = False
        self.held: list[tuple[Deferred[list[HeaderState]], StateKey]] = []
        self.loads = 0

    def load(self, key: StateKey) -> Deferred[list[HeaderState]]:
        self.loads += 1
        if not self.hold:
            return super().load(key)
        waiting: Deferred[list[HeaderState]] = Deferred()
        self.held.append((waiting, key))
        return waiting

    def let_go(self) -> None:
        held, self.held = self.held, []
        for waiting, key in held:
            super().load(key).addCallback(waiting.callback)


class CodingWorld(Gateway):
    """`restart` begins with an empty memory and the same store."""

    def __init__(
        self,
        *routes: Any,
        tables: tuple[AppTable, ...] = (),
        mmtp: MmtpSettings | None = None,
        dictionaries_enabled: bool = True,
        **more: Any,
    ) -> None:
        settings = mmtp or MmtpSettings()
        super().__init__(*routes, mmtp=settings, **more)
        self.header_store = HeldStore()
        self.dictionaries = FakeDictionaries()
        self.header_counters = HeaderCounters()
        self.coding_counters = CodingCounters()
        self.rollout = Rollout(self.clock)
        self.codings = Codings(
            settings,
            tables=tables_of(*tables),
            states=self.new_states(),
            dictionaries=self.dictionaries,
            dictionaries_enabled=dictionaries_enabled,
            rollout=self.rollout,
            packs=Packs(lambda work: succeed(work()), self.rollout),
            timers=self.timers,
            counters=self.coding_counters,
        )
        self.services.codings = self.codings
        self.services.is_secret = self.dictionaries.is_secret

    def new_states(self) -> HeaderStates:
        return HeaderStates(HeaderStateSettings(), self.header_store, self.timers, self.wall, self.header_counters)

    def restart(self) -> None:
        """Forget what is in memory only."""
        self.codings.states = self.new_states()

    def coded(self, memory: Memory | None = None, **hello: Any) -> CodedDevice:
        """A device with every capability that has said hello."""
        number = next(self._generations)
        hello.setdefault("generation", (1, number))
        hello.setdefault("call_base", 1000 * number)
        return CodedDevice(self, Memory() if memory is None else memory).hello(**hello)


def tables_of(*tables: AppTable) -> AppTables:
    return AppTables([(one, ("shop",)) for one in tables])


class CodedDevice(Device):
    """Keeps in its Memory what a device stores."""

    def __init__(self, gateway: Gateway, memory: Memory) -> None:
        super().__init__(gateway)
        self.memory = memory

    def hello(self, device: str = "d1", token: str = "ok:alice", **more: Any) -> CodedDevice:
        boot, counter = more.pop("generation", (1, 1))
        more.setdefault("capabilities", ALL)
        more.setdefault("app", "shop")
        hello = Hello(device=device, token=token, boot=boot, counter=counter, **more)
        template, dictionaries = "template" in hello.capabilities, "dict" in hello.capabilities
        bundle = Bundle(self.memory.dictionaries.values()) if dictionaries and self.memory.dictionaries else None
        self.wire.send_hello(hello, self.memory.headers if template else None, bundle)
        self.send()
        return self

    def listen(self) -> None:
        """As before, until neither side has more to say."""
        known = len(self.heard)
        while True:
            super().listen()
            for event in self.heard[known:]:
                self.memory.note(event)
            known = len(self.heard)
            data = self.wire.to_send(self.gateway.clock.seconds())
            if not data or self.connection.closed is not None:
                return
            self.binding.data_received(data)

    def settle(self) -> None:
        """Let slices of a rollout and transfers come to their end."""
        for _ in range(50):
            self.gateway.clock.advance(0.01)
            self.listen()

    def pay(self, body: bytes = b"{}", operation: str = "pay") -> int:
        """A call and its answer of `body`; the answer's bytes on the wire."""
        number = self.call(operation, body, headers=list(HEADERS))
        before = len(self.connection.written)
        self.gateway.upstreams.last.answer(200, body, [("content-type", "application/json")])
        self.listen()
        (response,) = [one for one in self.take(ResponseReceived) if one.call == number]
        assert response.status == 0
        assert response.body == body
        return sum(map(len, self.connection.written[before:]))


def accepted(device: CodedDevice) -> int:
    (welcomed,) = device.take(WelcomeReceived)
    assert welcomed.welcome.result == 0
    return int(welcomed.welcome.accepted)


def push_to(device: CodedDevice, stream: StreamKey, seq: int, body: bytes, push: OutgoingPush | None = None) -> int:
    """Bytes of a push on the wire."""
    written = len(device.connection.written)
    push = push or OutgoingPush(stream, 3, 1, seq, body)
    assert device.binding.send_push(push, 0)
    device.gateway.clock.advance(0)
    size = sum(map(len, device.connection.written[written:]))
    assert [(one.seq, one.body) for one in device.take(PushReceived)] == [(seq, body)]
    return size


__all__ = [
    "BODY",
    "GENERIC",
    "ORDERS",
    "CodedDevice",
    "CodingWorld",
    "Memory",
    "accepted",
    "dictionary",
    "push_to",
    "table",
    "tables_of",
]

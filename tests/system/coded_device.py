"""A device on a blocking socket that keeps header states, tables and dictionaries between its connections."""

from __future__ import annotations

import time
from typing import Any

from protocols.mmtp import Connection, Hello, Limits, Role
from protocols.mmtp.bundles import Bundle
from protocols.mmtp.device_exchange import HeaderMemory
from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.events import (
    DOWN,
    UP,
    CallReset,
    CheckpointAcked,
    CheckpointTaken,
    DictionaryReceived,
    DictionaryRetired,
    Event,
    ResponseReceived,
    TableReceived,
)
from protocols.mmtp.profiles import Checkpoint
from protocols.mmtp.statuses import Status
from protocols.mmtp.tables import GENERIC, AppTable
from tests.system.device import Device

ALL = frozenset({"zstd", "template", "dict", "history"})
HEADERS = [("content-type", "application/json"), ("x-request", "0123456789abcdef"), ("accept-language", "zh-CN")]


class Memory:
    """What survives a connection."""

    def __init__(self, table: AppTable = GENERIC) -> None:
        self.table = table
        self.up: Checkpoint | None = None
        self.down: Checkpoint | None = None
        self.dictionaries: dict[int, Dictionary] = {}

    def note(self, event: Event) -> None:
        """Keep what the event says is to be kept."""
        if isinstance(event, CheckpointAcked | CheckpointTaken) and event.state.table.digest != self.table.digest:
            return  # a newer table came meanwhile
        if isinstance(event, CheckpointAcked) and event.direction == UP:
            self.up = Checkpoint(event.number, event.state)
        elif isinstance(event, CheckpointTaken) and event.direction == DOWN:
            self.down = Checkpoint(event.number, event.state)
        elif isinstance(event, TableReceived):
            self.table, self.up, self.down = event.table, None, None
        elif isinstance(event, DictionaryReceived):
            self.dictionaries[event.dictionary.id] = event.dictionary
        elif isinstance(event, DictionaryRetired):
            self.dictionaries.pop(event.id, None)

    @property
    def headers(self) -> HeaderMemory:
        return HeaderMemory(self.table, self.up, self.down)


class CodedDevice(Device):
    """A Device with every capability. A miss of state or dictionary is repeated, as every device has to."""

    def __init__(
        self, port: int, memory: Memory, device: str = "d1", token: str = "device-token", **hello: Any
    ) -> None:
        self.memory = memory
        self.misses = 0
        self.socket = self.open_socket(port, None)
        self.wire = Connection(Role.CLIENT, limits=Limits(), now=time.monotonic())
        self.seen = []
        self.pushes = []
        self.sent_bytes = self.received_bytes = 0
        hello.setdefault("boot", 1)
        hello.setdefault("call_base", time.time_ns() & (2**63 - 1))
        hello.setdefault("capabilities", ALL)
        self.base = hello["call_base"]
        bundle = Bundle(memory.dictionaries.values()) if memory.dictionaries else None
        self.wire.send_hello(Hello(device=device, token=token, **hello), memory.headers, bundle)
        self.flush()

    def flush(self) -> None:
        data = self.wire.to_send(time.monotonic())
        if data:
            self.sent_bytes += len(data)
            self.socket.sendall(data)

    def read(self) -> None:
        known = len(self.seen)
        super().read()
        for event in self.seen[known:]:
            self.memory.note(event)

    def call(self, operation: str, body: bytes = b"{}", call_id: int | None = None) -> ResponseReceived:
        number = self.wire.request(operation, HEADERS, body, call_id=call_id)
        self.flush()
        last: Any = self.expect((ResponseReceived, CallReset), lambda event: event.call == number)  # type: ignore[arg-type]
        if isinstance(last, CallReset) and last.status in (Status.STATE_MISS, Status.DICTIONARY_MISS):
            self.misses += 1
            again = (self.base + number) & (2**64 - 1) if call_id is None else call_id
            number = self.wire.request(
                operation, HEADERS, body, call_id=again, secret=last.status == Status.DICTIONARY_MISS
            )
            self.flush()
            last = self.expect((ResponseReceived, CallReset), lambda event: event.call == number)  # type: ignore[arg-type]
        if isinstance(last, CallReset):
            return ResponseReceived(number, last.status, [], b"", False, 0)
        return last  # type: ignore[no-any-return]

    def settle(self) -> None:
        """All that the gateway has to say by now was heard: a call of its own comes back behind it."""
        assert self.call("gw.time", b"").status == 0

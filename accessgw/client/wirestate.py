"""Header states, tables and dictionaries of a client: what its HELLO names, what connections add, when it is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from accessgw.client.commands import Command, Keep, Tell
from accessgw.client.link import Link
from accessgw.client.model import Note
from accessgw.client.settings import ClientSettings
from accessgw.client.wirememory import NOTHING_KNOWN, WireMemory
from protocols.errors import LocalError
from protocols.mmtp import events as wire
from protocols.mmtp.bodies import ZSTD_CAPABILITY
from protocols.mmtp.bundles import MAX_DICTIONARIES, Bundle
from protocols.mmtp.connection import Connection
from protocols.mmtp.device_exchange import HeaderMemory
from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.handshake import DOWN_ACCEPTED, UP_ACCEPTED, Welcome
from protocols.mmtp.profiles import TEMPLATE_CAPABILITY, Checkpoint
from protocols.mmtp.statuses import Status
from protocols.mmtp.uses import DICT_CAPABILITY, HISTORY_CAPABILITY

KEEP_INTERVAL = 1.0
"""Seconds between two writes: states change often while they are young."""
KEEP_RETRY = 60.0
TROUBLE = frozenset((Status.PROTOCOL, Status.COMPRESSION, Status.STATE_MISS, Status.DICTIONARY_MISS))
"""Ends of a connection after which nothing that was learned is used again."""
MAX_TROUBLE = 3
"""Of these in a row without anything resumed between them, and the client does without the optional features."""


class WireState:
    """See the module's text. Changes are stored one Keep at a time, what comes meanwhile goes into the next."""

    def __init__(
        self, settings: ClientSettings, memory: WireMemory, *, persistent: bool, emit: Callable[[Command], None]
    ) -> None:
        self.metered = settings.metered
        """Tables and dictionaries that are offered are not wanted now."""
        self._settings = settings
        self._persistent = persistent
        self._emit = emit
        self._agreed = memory.agreed
        self._headers = memory.headers
        self._dictionaries: dict[int, Dictionary] = {}
        self._unconfirmed: set[int] = set()
        """Of a bundle that the gateway did not know, those that it has not offered again: as soon as it has offered
        one they are dropped, since with them it would not know the next bundle either."""
        self._doubted = False
        self._trouble = 0
        self._missed: dict[int, int] = {}
        self._retired: set[int] = set()
        self._dirty = self._keeping = self._closing = self._failed = False
        self._not_before = 0.0
        for dictionary in memory.dictionaries:
            self._hold(dictionary)

    # --- what the next connection begins with

    @property
    def capabilities(self) -> frozenset[str]:
        """Of HELLO."""
        settings = self._settings
        wanted = {
            TEMPLATE_CAPABILITY: settings.templates,
            DICT_CAPABILITY: settings.dictionaries,
            HISTORY_CAPABILITY: settings.history,
        }
        optional = (name for name, on in wanted.items() if on and self._trouble < MAX_TROUBLE)
        return frozenset((ZSTD_CAPABILITY, *optional))

    def named(self) -> tuple[HeaderMemory | None, Bundle | None]:
        """What HELLO may name: only what the gateway has agreed to before."""
        used = self._agreed & self.capabilities
        self._drop_unconfirmed()
        headers = self._headers if TEMPLATE_CAPABILITY in used else None
        bundle = None
        if DICT_CAPABILITY in used and self._dictionaries:
            try:
                bundle = Bundle(self._dictionaries.values())
            except LocalError:
                self._dictionaries.clear()
        return headers, bundle

    def bound(self, connection: Connection) -> None:
        """Tell a connection which offers to take."""
        settings = self._settings
        connection.take_offers(
            dictionary_bytes=0 if self.metered else settings.max_dictionary_bytes, tables=not self.metered
        )

    # --- news

    def welcomed(self, link: Link, welcome: Welcome) -> None:
        """What the gateway made of what HELLO named."""
        self._agreed = welcome.capabilities & self.capabilities
        named = link.named_headers
        headers = self._headers
        if TEMPLATE_CAPABILITY not in self._agreed or named is None:
            headers = HeaderMemory(headers.table)
        elif headers.table.digest != named.table.digest:
            pass  # a table that came on another connection meanwhile
        elif welcome.table == (named.table.id, named.table.digest):
            up = named.up if welcome.accepted & UP_ACCEPTED else None
            down = named.down if welcome.accepted & DOWN_ACCEPTED else None
            headers = HeaderMemory(named.table, up, down)
            if up is not None:
                self._trouble = 0
        else:
            headers = NOTHING_KNOWN
        self._headers = headers
        if DICT_CAPABILITY in self._agreed:
            self._doubted = bool(self._dictionaries) and not welcome.bundle
            self._unconfirmed = set(self._dictionaries) if self._doubted else set()
        self._changed()

    def happened(self, event: wire.Event, *, current: bool) -> None:
        """Something of tables and dictionaries came; states count only on the connection in force."""
        match event:
            case wire.CheckpointAcked():
                self._state(current, event.number, event, up=True)
            case wire.CheckpointTaken() if event.direction == wire.DOWN:
                self._state(current, event.number, event, up=False)
            case wire.TableReceived():
                self._headers = HeaderMemory(event.table)
                self._changed()
            case wire.TableRetired():
                if self._headers.table.id == event.id:
                    self._headers = NOTHING_KNOWN
                    self._changed()
            case wire.DictionaryReceived():
                self._hold(event.dictionary)
                self._changed()
            case wire.DictionaryRetired():
                self._dictionaries.pop(event.id, None)
                self._unconfirmed.discard(event.id)
                self._retired.add(event.id)
                self._changed()
            case _:
                pass

    def _state(
        self, current: bool, number: int, event: wire.CheckpointAcked | wire.CheckpointTaken, *, up: bool
    ) -> None:
        headers = self._headers
        if not current or event.state.table.digest != headers.table.digest:
            return
        checkpoint = Checkpoint(number, event.state)
        self._headers = replace(headers, up=checkpoint) if up else replace(headers, down=checkpoint)
        self._changed()

    def _hold(self, dictionary: Dictionary) -> None:
        """One more, the newest: where there is no room for all, those go that are in doubt, then the lowest ids."""
        held = self._dictionaries
        held[dictionary.id] = dictionary
        self._unconfirmed.discard(dictionary.id)
        self._retired.discard(dictionary.id)
        size = sum(len(d.content) for d in held.values())
        for id in sorted(held, key=lambda id: (id not in self._unconfirmed, id)):
            if size <= self._settings.max_dictionary_bytes and len(held) <= MAX_DICTIONARIES:
                break
            size -= len(held.pop(id).content)
            self._unconfirmed.discard(id)

    def _drop_unconfirmed(self) -> None:
        if self._doubted and len(self._unconfirmed) < len(self._dictionaries):
            for id in self._unconfirmed:
                self._dictionaries.pop(id, None)
            self._unconfirmed.clear()
            self._doubted = False

    def missed(self, status: int) -> None:
        """A call is sent again, since the gateway does not have what it was coded with."""
        self._missed[status] = self._missed.get(status, 0) + 1

    def trouble(self, status: int) -> None:
        """A connection ended with this status: the gateway and we may not have the same."""
        if status not in TROUBLE:
            return
        self._trouble += 1
        self._agreed = frozenset()
        self._headers = NOTHING_KNOWN
        self._dictionaries.clear()
        self._unconfirmed.clear()
        self._doubted = False
        self._changed()

    # --- storing

    def _changed(self) -> None:
        self._dirty = self._persistent

    @property
    def memory(self) -> WireMemory:
        """What there is to remember."""
        held = self._dictionaries
        if self._doubted and len(self._unconfirmed) < len(held):
            held = {id: dictionary for id, dictionary in held.items() if id not in self._unconfirmed}
        return WireMemory(self._agreed, self._headers, tuple(held[id] for id in sorted(held)))

    def settle(self, now: float) -> None:
        """After every input: tell what was missed, store what has changed."""
        if self._missed:
            missed, self._missed = self._missed, {}
            for status, count in missed.items():
                kind = "state_miss" if status == Status.STATE_MISS else "dictionary_miss"
                self._emit(Tell(Note(kind, "the gateway does not have it: calls were sent again in full", count=count)))
        if self._dirty and not self._keeping and (now >= self._not_before or self._closing):
            self._dirty = False
            self._keeping = True
            self._not_before = now + KEEP_INTERVAL
            self._emit(Keep(self.memory, frozenset(self._retired)))
            self._retired.clear()

    def kept(self, now: float) -> None:
        """The Keep is done."""
        self._keeping = self._failed = False
        self.settle(now)

    def keep_failed(self, reason: str, now: float) -> None:
        """It was not; told once, and tried again later."""
        self._keeping = False
        if not self._failed:
            self._failed = True
            self._emit(Tell(Note("cache_failed", reason)))
        self._dirty = not self._closing
        self._not_before = now + KEEP_RETRY

    def next_timer(self) -> float | None:
        """When settle() will store."""
        return self._not_before if self._dirty and not self._keeping else None

    def close(self) -> None:
        """Store what is left at once."""
        self._closing = True
        self.settle(self._not_before)

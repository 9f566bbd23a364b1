"""What a client keeps in its `state_dir`: cursors, what the gateway taught it, tickets."""

from __future__ import annotations

import os
from collections.abc import Iterable

from accessgw.client.cache import MAX_BYTES, WireCache
from accessgw.client.cursors import Memory, StateFile
from accessgw.client.settings import ClientSettings
from accessgw.client.ticket_file import TicketFile
from accessgw.client.tickets import TicketMemory
from accessgw.client.wirememory import WireMemory


class StateDirectory:
    """The part of one device in the directory; without one, nothing is kept and nothing is found.

    Cursors are of the device; the rest is of its way to one gateway, and only of ways that can use it: long connections
    have header states, tables and dictionaries, those over TLS have tickets. Storing raises OSError when the disk does
    not take it.
    """

    def __init__(self, directory: str | os.PathLike[str] | None, settings: ClientSettings) -> None:
        self._cursors: StateFile | None = None
        self._cache: WireCache | None = None
        self._tickets: TicketFile | None = None
        if directory is None:
            return
        gateway = " ".join(sorted({address.authority for address in settings.addresses}))
        self._cursors = StateFile(directory, settings.device)
        if settings.addresses:
            self._cache = WireCache(
                directory,
                gateway=gateway,
                app=settings.app,
                device=settings.device,
                user=settings.user,
                max_bytes=MAX_BYTES + settings.max_dictionary_bytes,
            )
        if any(address.secure for address in settings.addresses):
            self._tickets = TicketFile(directory, gateway=gateway, device=settings.device)

    def memory(self) -> Memory:
        """Cursors and what was learned of networks. ValueError names a damaged file."""
        return Memory() if self._cursors is None else self._cursors.load()

    def wire_memory(self) -> WireMemory | None:
        """Header states, table and dictionaries, as far as they are whole."""
        return None if self._cache is None else self._cache.load()

    def tickets(self) -> TicketMemory | None:
        """Those that are whole."""
        return None if self._tickets is None else self._tickets.load()

    @property
    def keeps_wire(self) -> bool:
        """store_wire() has something to do."""
        return self._cache is not None

    def store(self, memory: Memory) -> None:
        """Cursors and what was learned of networks: on disk when this returns."""
        if self._cursors is not None:
            self._cursors.store(memory)

    def store_wire(self, memory: WireMemory, retired: Iterable[int]) -> None:
        """What the next connection begins with; without the dictionaries that the gateway has retired."""
        if self._cache is not None:
            self._cache.store(memory, retired)

    def store_tickets(self, memory: TicketMemory) -> None:
        """Those that are left: what is used must be gone from the disk before it leaves."""
        if self._tickets is not None:
            self._tickets.store(memory)

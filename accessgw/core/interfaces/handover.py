"""Between transports and protocols: bindings whose connection can go on in another process."""

from __future__ import annotations

from typing import Protocol

from accessgw.core.interfaces.connections import Binding, Connection


class MovableBinding(Binding, Protocol):
    """A binding that can be made again elsewhere from bytes."""

    def leave(self) -> bytes:
        """Its state, from which MovableFactory.resume makes it again. From now on it writes nothing, until stay() or
        connection_lost() is called."""

    def stay(self) -> None:
        """It was not taken: go on."""


class MovableFactory(Protocol):
    """Makes the bindings of connections that come from another process."""

    def resume(self, connection: Connection, state: bytes) -> Binding:
        """The binding that gave `state` by leave(). ValueError when these bytes are no such state."""

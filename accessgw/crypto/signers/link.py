"""The connection of a gateway to a signer process: greeting, framing, what ends it. What it means is ProcessSigner's."""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet import protocol
from twisted.internet.interfaces import IAddress
from twisted.python.failure import Failure

from protocols.errors import RemoteError
from protocols.signing import SigningConnection, SigningEvent


class Asker(Protocol):
    """Whose connection it is."""

    def connected_to(self, link: Link) -> Any:
        """`link` is there, and owes its greeting. Returns the delayed call that ends it when none comes."""

    def greeted(self, link: Link) -> None:
        """The signer has said HELLO."""

    def happened(self, event: SigningEvent) -> None:
        """An event of the connection."""

    def heard(self) -> None:
        """All events that came at once have been told."""

    def lost(self, reason: str) -> None:
        """There is no connection, or none any more."""


class Link(protocol.Protocol):
    """One connection to a signer."""

    transport: Any

    def __init__(self, signer: Asker) -> None:
        self._signer = signer
        self._unheard: Any = None
        """The end of our patience, until it has greeted."""
        self._trouble = ""
        self.wire = SigningConnection(signer=False)

    def connectionMade(self) -> None:
        self._unheard = self._signer.connected_to(self)
        self.wire.hello()
        self.flush()

    def give_up(self, why: str) -> None:
        """It is no signer of ours, or not one that works."""
        self._trouble = why
        self.transport.abortConnection()

    def flush(self) -> None:
        data = self.wire.to_send()
        if data:
            self.transport.write(data)

    def dataReceived(self, data: bytes) -> None:
        try:
            events = self.wire.receive(data)
        except RemoteError as error:
            self.give_up(f"it does not speak our protocol: {error}")
            return
        for event in events:
            if self._unheard is not None:
                self._heard()
                self._signer.greeted(self)
            self._signer.happened(event)
        if events:
            self._signer.heard()

    def _heard(self) -> None:
        unheard, self._unheard = self._unheard, None
        if unheard is not None and unheard.active():
            unheard.cancel()

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        self._heard()
        self._signer.lost(self._trouble or reason.getErrorMessage())


class LinkFactory(protocol.ClientFactory):
    """For one attempt to connect."""

    noisy = False

    def __init__(self, signer: Asker) -> None:
        self._signer = signer

    def buildProtocol(self, addr: IAddress | None) -> Link:
        return Link(self._signer)

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self._signer.lost(reason.getErrorMessage())

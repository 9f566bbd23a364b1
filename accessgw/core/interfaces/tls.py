"""Between transports, crypto and the hand-shake of MMTP: engines, tickets, replays, signers, revocation, and
the threads of hand-shakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.defer import Deferred

from accessgw.model.identity import Serials
from protocols.tls.engine import TlsEngine

TICKET_PROTOCOL = "mmtp/1"
"""By ALPN: the one over which our tickets (TicketKeys) are made and taken. Its HELLO holds a ticket against device,
certificate and revocations. Over another one nobody would, and who has the ticket alone would come in where certificates are
required."""


class HandshakeStep(Protocol):
    """A piece of work of one hand-shake."""

    def run(self) -> None:
        """On another thread than the reactor's. Does not raise."""

    def done(self) -> None:
        """On the reactor's thread, after run()."""


class HandshakeLane(Protocol):
    """Where all steps of one hand-shake run."""

    def submit(self, step: HandshakeStep, begun: bool) -> None:
        """Run it soon; `begun`: before the first steps of other hand-shakes."""


class HandshakeThreads(Protocol):
    """Where hand-shakes sign and verify: not on the reactor's thread."""

    def lane(self) -> HandshakeLane:
        """For a new hand-shake."""


class TlsContexts(Protocol):
    """What a listener serves TLS with: certificates by SNI, replaced whole at a reload."""

    def engine(self) -> TlsEngine:
        """The server side of a new connection. Its hand-shake may run on another thread, one thread at a time."""

    @property
    def offloaded(self) -> bool:
        """Whether its engines are OffloadedEngines (protocols.tls.crew)."""

    def prepare(self) -> Callable[[], None]:
        """Load the files again; what it returns brings them into force.
        An error has the path, and the old ones stay."""

    def expires_at(self) -> Mapping[str, float]:
        """Certificate name -> wall-clock second of notAfter."""

    def is_own_ticket(self, identity: bytes) -> bool:
        """Whether the identity under which a peer has proved to have the key is that of a ticket of ours (TicketKeys), and
        none of OpenSSL's. It may have ended since: opening it tells."""

    def identify(self, certificate: bytes, chain: Sequence[bytes] = ()) -> tuple[str, Serials]:
        """Who a verified client certificate (DER) names, by the listener's rule; empty when it names nobody. `chain` is
        what was verified, leaf first. With it come the serials that were held against the revocation lists, empty where
        there are none. RemoteError (a TLS alert) where that is not allowed, and for one that was revoked."""


@dataclass(slots=True, frozen=True)
class TicketBinding:
    """Whom a ticket is for: what HELLO says must give the same eight bytes again."""

    device: str
    kind: str = "token"
    """How the device proved itself: token | certificate."""
    fingerprint: bytes = b""
    """SHA-256 of the client certificate in DER; empty without one."""
    not_after: int = 0
    """Wall-clock second at which the certificate ends; 0 without one."""


@dataclass(slots=True, frozen=True)
class Ticket:
    """What a device presents as the identity of an external PSK (RFC 8446 4.2.11), once."""

    identity: bytes
    """17 bytes."""
    key: bytes = field(repr=False)
    """32 bytes; the device must get it over an encrypted connection."""
    ends: float
    """Wall-clock second from which it opens nothing any more, if its secret is not taken back before."""


@dataclass(slots=True, frozen=True)
class OpenedTicket:
    """A ticket that this zone, listener and transport made, and that is not too old."""

    identity: bytes
    """What was opened."""
    issued: float
    """Wall-clock second, to the minute."""
    days: int
    """Days since the device's last full authentication when it was issued."""
    bound: bytes
    """Eight bytes of a keyed digest of its TicketBinding."""
    epoch: int = 0
    """Number of the secret that made it."""

    def days_at(self, now: float) -> int:
        """Days since the last full authentication, at this wall-clock second: what the next ticket says. Midnights
        (UTC) are counted, so that a chain of tickets of which none lives a day comes to its end, too."""
        midnights = now // 86_400 - self.issued // 86_400
        return self.days + int(midnights) if midnights > 0 else self.days


class TicketKeys(Protocol):
    """Makes and opens tickets of one listener's purpose. `open` and `key` are called from hand-shake threads."""

    def mint(self, now: float, binding: TicketBinding, days: int) -> Ticket:
        """A new ticket; `now` is the wall clock, `days` since the last full authentication."""

    def open(self, identity: bytes, now: float) -> OpenedTicket | None:
        """None for every identity that is not a ticket of ours in its time."""

    def key(self, opened: OpenedTicket) -> bytes | None:
        """The pre-shared key; None when the secret has been dropped since it was opened."""

    def is_open(self, opened: OpenedTicket, now: float) -> bool:
        """Whether `open` would give it again at this wall-clock second. Costs no look inside the ticket."""

    def matches(self, opened: OpenedTicket, binding: TicketBinding) -> bool:
        """Whether the ticket was made for it, in constant time."""

    @property
    def full_authentication_days(self) -> int:
        """Days after which no ticket is minted any more without a full authentication."""


class ReplayGuard(Protocol):
    """Early data takes effect once, across the processes of a node."""

    def ready(self, now: float) -> bool:
        """False within the first window after a start, and while the register is full: refuse early data."""

    def strike(self, identity: bytes, random: bytes, now: float) -> bool:
        """True the first time. False: a replay, or nobody can say. `now` is the wall clock; `identity` and `random` are
        the ticket and the ClientHello's random, whose binder has been verified."""


class SigningFailed(Exception):
    """No signature came; the message says why, without secrets."""


class Signer(Protocol):
    """Signs with a private key that may live elsewhere. Called, and answering, on the reactor's thread."""

    def sign(self, key: str, algorithm: int, data: bytes) -> Deferred[bytes]:
        """`key` is the SHA-256 of the public key (SubjectPublicKeyInfo) in hexadecimal digits; `algorithm`
        protocols.signing.RSA_BLOCK or ECDSA_DIGEST: what OpenSSL leaves to the key once it has hashed and padded.
        Fails with SigningFailed."""


class Revocations(Protocol):
    """Who must not come in any more, although the proof still holds by itself."""

    def is_revoked(self, binding: TicketBinding, issued: float) -> bool:
        """Whether a ticket issued at that wall-clock second, or the certificate in it, was revoked since."""

    def is_locked_out(self, device: str, fingerprint: bytes, since: float) -> bool:
        """Whether the device lost what it had proved up to that wall-clock second, or its certificate was revoked other
        than by a list. Empty where there is none."""

    def are_listed(self, serials: Serials) -> bool:
        """Whether a revocation list names one of them. Asked for every connection, so no more than look-ups."""

    def certificate_is_revoked(self, fingerprint: bytes, serials: Serials) -> bool:
        """Whether a list names one of these serials of a certificate (its own and those of CAs above), or somebody
        revoked it. They are remembered, as far as there is room: they decide about its tickets."""

    def serials_of(self, fingerprint: bytes) -> Serials:
        """What was said when the certificate was shown last; empty when that is not remembered."""

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each change, on the reactor's thread: connections are looked at again."""

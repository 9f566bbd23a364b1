"""One long connection as the core sees it: the protocol object, its calls and arrivals, and whether it is silent."""

from __future__ import annotations

from collections import deque

from accessgw.client.addresses import Address
from accessgw.client.rtt import RoundTrip
from accessgw.client.streams import Arrival
from accessgw.client.tunnel import Tunnel
from protocols.mmtp.connection import Connection
from protocols.mmtp.device_exchange import HeaderMemory
from protocols.mmtp.tickets import ShownCertificate


class Link:
    """A transport that won the race, from its HELLO to its end.

    Silence is watched only while an answer is due (a call or a PING is open): after `probe_after` without a
    byte a PING goes out, and when that is not answered either the link is suspect, later dead. A peer that
    answers PINGs while a call takes long is asked less and less often.
    """

    __slots__ = (
        "_inspected",
        "_patience",
        "_pinged_at",
        "_rtt",
        "_silent_since",
        "address",
        "arrivals",
        "attempt",
        "call_base",
        "calls",
        "certificate",
        "connection",
        "heartbeat_out",
        "hello_deadline",
        "hello_sent",
        "idle_since",
        "leaving",
        "missed",
        "named_headers",
        "suspect",
        "ticketed",
        "tunnel",
        "welcomed",
    )

    MAX_PATIENCE = 32

    def __init__(self, attempt: int, address: Address, connection: Connection, rtt: RoundTrip, now: float) -> None:
        self.attempt = attempt
        self.address = address
        self.connection = connection
        self.tunnel: Tunnel | None = None
        """Around the connection's bytes, where they ride in WebSocket."""
        self.ticketed = False
        """TLS was resumed by a ticket."""
        self.certificate: ShownCertificate | None = None
        """Ours: which the ticket stands for, else which TLS may have shown."""
        self.hello_sent = now
        self.hello_deadline: float | None = None
        self.call_base = 0
        """Ids of the calls opened here count from it."""
        self.welcomed = False
        self.named_headers: HeaderMemory | None = None
        """Header states that HELLO named; before WELCOME nobody knows whether the gateway has them."""
        self.missed = False
        """It does not have them: until WELCOME nothing that is sent can be read."""
        self.leaving = False
        """The gateway said GOAWAY: no new calls, those open may finish."""
        self.suspect = False
        """Silent for longer than the path explains; calls go over short connections meanwhile."""
        self.calls: dict[int, int] = {}
        """Number on this connection -> key in the table."""
        self.arrivals: deque[Arrival] = deque()
        """Not acknowledged yet, in order."""
        self.heartbeat_out = False
        self.idle_since = now
        self._rtt = rtt
        self._silent_since: float | None = None
        self._pinged_at: float | None = None
        self._patience = 1
        self._inspected = False

    # --- silence

    def asked(self, now: float) -> None:
        """A request left: its answer is due."""
        self._patience = 1
        self.idle_since = now
        if self._silent_since is None:
            self._silent_since = now
            self._inspected = False

    def ping(self, now: float, *, heartbeat: bool = False) -> None:
        """Ask whether the peer is there."""
        self.connection.ping(answer=True)
        self._pinged_at = now
        self.idle_since = now
        self.heartbeat_out = heartbeat
        if self._silent_since is None:
            self._silent_since = now
            self._inspected = False

    def heard(self, now: float) -> None:
        """Bytes came: the peer is there."""
        self.idle_since = now
        self.suspect = False
        self._inspected = False
        self._silent_since = now if self.calls or self._pinged_at is not None else None

    def ponged(self, now: float) -> bool:
        """A PING was answered. Whether it was a heartbeat."""
        if self._pinged_at is not None:
            self._rtt.observe(now - self._pinged_at)
            self._pinged_at = None
            self._patience = min(self._patience * 2, self.MAX_PATIENCE)
        was_heartbeat, self.heartbeat_out = self.heartbeat_out, False
        if not self.calls:
            self._silent_since = None
        return was_heartbeat

    def settled(self) -> None:
        """A call ended here; without others nothing is due."""
        if not self.calls and self._pinged_at is None:
            self._silent_since = None

    @property
    def pinging(self) -> bool:
        """A PING is not answered yet."""
        return self._pinged_at is not None

    def silence(self, now: float) -> float:
        """Seconds since an answer was due and nothing came; 0 when none is due."""
        return 0.0 if self._silent_since is None else now - self._silent_since

    def next_timer(self) -> float | None:
        """When the first of the following is due, or the protocol's own timer."""
        times = (
            self.hello_deadline,
            self.connection.next_timer(),
            self.probe_due(),
            self.inspect_due(),
            self.suspect_due(),
            self.dead_due(),
        )
        return min((at for at in times if at is not None), default=None)

    def probe_due(self) -> float | None:
        """When to send a PING."""
        if self._silent_since is None or self._pinged_at is not None:
            return None
        return self._silent_since + self._rtt.probe_after * self._patience

    def inspect_due(self) -> float | None:
        """When to look at what the kernel knows."""
        if self._silent_since is None or self._inspected or self.suspect:
            return None
        return self._silent_since + self._rtt.inspect_after

    def inspected(self) -> None:
        """The kernel was asked."""
        self._inspected = True

    def suspect_due(self) -> float | None:
        """When silence makes the link suspect."""
        if self._silent_since is None or self._pinged_at is None or self.suspect:
            return None
        return max(self._pinged_at, self._silent_since) + self._rtt.probe_after + 0.15

    def dead_due(self) -> float | None:
        """When silence makes it dead."""
        if self._silent_since is None or self._pinged_at is None:
            return None
        return max(self._pinged_at, self._silent_since) + self._rtt.dead_after

    # --- pushes

    def arrival(self, index: int) -> Arrival:
        """The next push came; `index` is its number on this connection."""
        arrival = Arrival(self.attempt, index)
        self.arrivals.append(arrival)
        return arrival

    def acknowledge(self) -> None:
        """Tell the peer about every arrival that is stored: a count for the oldest, ranges for later ones."""
        count = 0
        while self.arrivals and self.arrivals[0].stored:
            self.arrivals.popleft()
            count += 1
        if count:
            self.connection.ack(count)
        later = [arrival for arrival in self.arrivals if arrival.stored]
        if later:
            self.connection.ack_ranges([arrival.index for arrival in later])
            self.arrivals = deque(arrival for arrival in self.arrivals if not arrival.stored)

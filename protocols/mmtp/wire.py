"""What the parts of one connection share: its state, output, events, limits of both sides, header codec."""

from __future__ import annotations

from protocols.errors import LocalError
from protocols.mmtp.events import Event
from protocols.mmtp.flow import ControlBudget
from protocols.mmtp.frames import FrameType, encode_frame
from protocols.mmtp.handshake import Goaway, Hello, encode_goaway
from protocols.mmtp.headers import HeaderCodec
from protocols.mmtp.hpack_backends import Backend
from protocols.mmtp.profiles import Profiles
from protocols.mmtp.settings import DEFAULT_LIMITS, Limits, until_heard
from protocols.mmtp.state import CLIENT, SERVER, ConnectionState, Sent, moves
from protocols.mmtp.statuses import Status
from protocols.mmtp.uses import Parts, Uses, unpack


class Wire:
    """Plain shared state, so that calls and pushes need no reference to their connection (and make no cycle)."""

    __slots__ = (
        "budget", "closed", "closing_status", "enforced", "events", "headers", "hello", "limits", "moves", "now",
        "out", "peer", "pongs_owed", "refuse", "server", "state", "table", "timer", "uses", "witness", "zstd",
    )  # fmt: skip

    def __init__(self, server: bool, limits: Limits, now: float, hpack: Backend | None = None) -> None:
        self.server = server
        self.limits = limits
        self.enforced = until_heard(limits)
        """What the peer is held to: our limits, and while it may not have heard them, what it believes."""
        self.peer: Limits = DEFAULT_LIMITS
        """What the peer accepts."""
        self.out: list[bytes] = []
        self.events: list[Event] = []
        self.headers: HeaderCodec | Profiles = HeaderCodec(hpack)
        self.budget: ControlBudget | None = None
        """Full, and made at the first control frame."""
        self.now = now
        self.timer: float | None = now + limits.hello_timeout if server else None
        """When HELLO must be complete."""
        self.hello: Hello | None = None
        """The device's, until WELCOME."""
        self.zstd = False
        """Both sides named the capability."""
        self.uses: Uses | None = None
        """Dictionaries, where they were agreed."""
        self.witness = 0
        """Whose bodies these are, for the watchers of dictionaries."""
        self.pongs_owed = 0
        """Pings of ours that wait for an answer."""
        self.refuse: int | None = None
        """Gateway: status with which further calls are refused."""
        self.closed = False
        self.closing_status: int = Status.OK
        self.table = SERVER if server else CLIENT
        self.enter(ConnectionState.AWAIT_HELLO if server else ConnectionState.START)

    def enter(self, state: ConnectionState) -> None:
        """Go on in `state`."""
        self.state = state
        self.moves = moves(self.table, state)
        if state is ConnectionState.CLOSED:
            self.closed = True
            self.timer = None

    def sends(self, what: Sent) -> ConnectionState:
        """The state after sending. Raises LocalError when it is not allowed now."""
        state = self.table.get((self.state, what))
        if state is None:
            raise LocalError(f"{what.name} is not allowed in state {self.state.name}")
        return state

    def fail(self, goaway: Goaway) -> None:
        """Queue GOAWAY and close."""
        self.out.append(encode_frame(FrameType.GOAWAY, 0, encode_goaway(goaway)))
        self.closing_status = goaway.status
        self.enter(ConnectionState.CLOSED)

    def unpack(self, coding: int, body: bytes, more: bool, kind: str, name: str) -> tuple[bytes, Parts | None]:
        """As uses.unpack, a body of the peer."""
        uses = self.uses
        classes = None if uses is None else uses.up if self.server else uses.down
        return unpack(
            coding, body, more,
            zstd=self.zstd, limits=self.limits, classes=classes, kind=kind, name=name, witness=self.witness,
        )  # fmt: skip

    def control_frame(self) -> None:
        """Count one. Raises RemoteError(OVERLOAD)."""
        limits = self.limits
        if self.budget is None:
            self.budget = ControlBudget(limits.control_frame_burst, self.now)
        self.budget.spend(limits.control_frames_per_second, limits.control_frame_burst, self.now)

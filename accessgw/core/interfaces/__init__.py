"""What the rooms need of each other, as typing protocols; nothing here does anything.

Rooms never import each other: service.py builds them and hands each what it asks for by these names.
All of it runs on the reactor's thread unless a line says otherwise. `now` is always seconds of the
worker's clock (`IReactorTime.seconds`, taken as monotonic); wall-clock values say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from accessgw.model.calls import Answer, Call, Headers
from accessgw.model.header_states import HeaderState, StateKey
from accessgw.model.http import HttpRequest
from accessgw.model.identity import ConnectionInfo, Credentials, Identity
from accessgw.model.presence import PresenceEvent
from accessgw.model.pushes import Cursor, PushRequest, PushResult, StoredPush, StreamKey, StreamState
from accessgw.model.reasons import CloseReason

# ------------------------------------------------------------------ connections


class Connection(Protocol):
    """One transport connection, as the binding on it sees it."""

    info: ConnectionInfo

    @property
    def buffered(self) -> int:
        """Bytes taken by write() that the kernel has not taken yet."""

    def write(self, data: bytes) -> None:
        """Send now, keep what does not fit. Past the write_buffer limit the connection is aborted
        with SLOW_READER. After close() or abort() it does nothing."""

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """Flush what is buffered within close_timeout, then end in order. Idempotent; the first
        reason stays, `detail` is for the log."""

    def finish(self, reason: CloseReason, detail: str = "") -> None:
        """close() after the peer has said its last, so that nothing of it is waited for: at once where the transport
        needs no words to end."""

    def abort(self, reason: CloseReason, detail: str = "") -> None:
        """End at once. `connection_lost` is called from a later turn of the reactor. Idempotent."""

    def retire(self) -> None:
        """Ask the binding to end in order, as at max_age (Binding.aged), without a bound on how long it takes."""

    def pause(self) -> None:
        """Stop reading (HTTP bodies only; an MMTP reader is never paused)."""

    def resume(self) -> None:
        """Read again."""

    def established(self) -> None:
        """The HELLO (or the request head) is complete: hello_timeout ends, idle_timeout rules. Idempotent."""

    def set_idle(self, seconds: float) -> None:
        """Close with IDLE when nothing arrives for so long (instead of limits.idle_timeout); counts
        from now; 0 for never. Implies established()."""

    def await_hello(self) -> None:
        """Undo established(): another request head has begun and must be complete within hello_timeout."""

    def hand_over(self, binding: Binding, farewell: Callable[[CloseReason], bytes]) -> None:
        """Another protocol begins here (an HTTP upgrade): all later calls go to `binding`. close(), whoever calls it,
        writes last what `farewell` gives. From now on idle time is counted from touch(), not from any byte."""

    def touch(self) -> None:
        """After hand_over(): something came that counts as activity."""


class Binding(Protocol):
    """The protocol on a connection: what a transport calls."""

    def data_received(self, data: bytes) -> None: ...

    def drained(self) -> None:
        """`buffered` fell back to 0 after it had been more."""

    def aged(self) -> None:
        """The connection reached max_age: say GOAWAY and close when calls are done. The transport
        closes it with MAX_AGE 30 s later. Called at most once."""

    def late(self) -> None:
        """hello_timeout has passed without established(): say so and close with HELLO_TIMEOUT. The
        transport aborts what is still open when this returns."""

    def expired(self) -> None:
        """Nothing has arrived for the idle time: say so. The transport closes with IDLE when this returns."""

    def connection_lost(self, reason: CloseReason, detail: str) -> None:
        """The last call; `detail` is for the log."""


class BindingFactory(Protocol):
    """Makes the binding of an accepted (and, for TLS, hand-shaken) connection."""

    def __call__(self, connection: Connection) -> Binding: ...


class Listener(Protocol):
    """Accepts connections on one address."""

    name: str
    host: str
    port: int
    """The port in use once started (0 for a Unix socket)."""

    def start(self) -> None:
        """Bind and listen; raises twisted.internet.error.CannotListenError."""

    def stop(self) -> Deferred[None]:
        """Stop accepting; established connections stay."""

    def apply_limits(self) -> None:
        """The limits were replaced: connections accepted from now on get the new ones."""

    def fileno(self) -> int: ...


class ConnectionTable(Protocol):
    """Every open connection of this worker, for drain and the control API."""

    def __len__(self) -> int: ...

    def snapshot(self) -> list[Connection]: ...


# ------------------------------------------------------------------ time


class Clock(Protocol):
    """What is used of Twisted's IReactorTime; the reactor and task.Clock are such."""

    def seconds(self) -> float: ...

    def callLater(self, delay: float, callable: Callable[..., object], *args: Any) -> Any: ...


class DescriptorReactor(Clock, Protocol):
    """What is used of IReactorFDSet beside the time."""

    def addReader(self, reader: Any) -> None: ...

    def removeReader(self, reader: Any) -> None: ...

    def addWriter(self, writer: Any) -> None: ...

    def removeWriter(self, writer: Any) -> None: ...


class Timer(Protocol):
    """One pending time-out."""

    def touch(self, delay: float) -> None:
        """Move it to `delay` seconds from now; cheap, meant to be called for every message."""

    def bound(self, at: float) -> None:
        """Fire at this second of the clock at the latest, however it is touched; infinity: no bound."""

    def cancel(self) -> None:
        """Idempotent; after it has fired it does nothing."""


class Timers(Protocol):
    """The timing wheel: coarse (its tick, 0.25 s) and cheap. Never fires early."""

    def schedule(self, delay: float, callback: Callable[[], None]) -> Timer: ...


# ------------------------------------------------------------------ HTTP served by us


class HttpExchange(Protocol):
    """One HTTP request and the way to answer it. Calls after the end do nothing."""

    request: HttpRequest

    @property
    def buffered(self) -> int:
        """Bytes of the answer that the kernel has not taken yet."""

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer, with Content-Length."""

    def start(self, status: int, headers: Headers) -> None:
        """Begin an answer whose body follows (chunked unless a content-length header is given)."""

    def write(self, data: bytes) -> None: ...

    def finish(self) -> None: ...

    def abort(self) -> None:
        """End the connection without finishing the answer."""

    def pause(self) -> None:
        """Stop reading the request's body."""

    def resume(self) -> None: ...


class HttpUpload(Protocol):
    """Gets the body of a request, and news of its exchange. See model.http.BodyCollector."""

    def data(self, data: bytes) -> None: ...

    def finished(self) -> None: ...

    def aborted(self) -> None:
        """The client went away before the answer was complete."""

    def drained(self) -> None:
        """The answer's buffer is empty again."""


class HttpHandler(Protocol):
    """Serves requests; called with the head, before the body."""

    def __call__(self, exchange: HttpExchange) -> HttpUpload: ...


# ------------------------------------------------------------------ who is this


class AuthenticationFailed(Exception):
    """The credentials are known to be wrong; nobody further down the chain is asked."""


class Authenticator(Protocol):
    """One link of the chain."""

    name: str

    def authenticate(self, credentials: Credentials) -> Deferred[Identity | None]:
        """The identity, or None when this authenticator does not know such credentials.

        Fails with AuthenticationFailed to refuse; any other failure means "unavailable", and the
        chain refuses as well (it fails closed).
        """


# ------------------------------------------------------------------ calls


class CallResponder(Protocol):
    """The way back of one call, given by whoever received it. Exactly one final call comes:
    `respond` without more, `data` without more, or `reset`. Calls after the device has gone are
    harmless."""

    def respond(self, status: int, headers: Headers, body: bytes, more: bool) -> None:
        """Status and headers with the first part of the body."""

    def data(self, data: bytes, more: bool) -> None: ...

    def reset(self, status: int) -> None: ...

    def unsent(self) -> int:
        """Answer bytes that wait for the device (credit or kernel); the call service pauses the
        upstream above 64 KiB and goes on when `CallUpload.drained` is called."""

    def upload_consumed(self, size: int) -> None:
        """`size` more request body bytes went on to the upstream: give credit back."""


class CallUpload(Protocol):
    """What the call service gives to whoever started a call."""

    def data(self, data: bytes, more: bool) -> None:
        """The next part of a streaming request body."""

    def cancel(self, status: int) -> None:
        """The device asked to end it (RESET). Still answered exactly once through the responder."""

    def detach(self) -> None:
        """The connection is gone: a complete request goes on and its answer is kept; an incomplete
        upload is cancelled."""

    def drained(self) -> None:
        """`unsent()` fell to 0."""


class CallService(Protocol):
    """Takes calls from any binding."""

    def start(self, call: Call, responder: CallResponder) -> CallUpload: ...


# ------------------------------------------------------------------ upstreams


@dataclass(slots=True)
class UpstreamRequest:
    """One HTTP request to a business service."""

    method: str
    target: str
    headers: Headers
    """Without host, transfer-encoding and connection, which the client adds; content-length only with
    `more`, when the length of the whole body is known."""
    body: bytes = b""
    more: bool = False
    """The body goes on through UpstreamExchange.data."""
    deadline: float = 0.0
    """Seconds of the worker's clock; it bounds everything, queueing and retries included."""
    retries: int = 0
    """Further attempts allowed. A request that never left (connect failed, a kept-alive connection
    closed before the first byte of it was written) may always be tried again; others only when
    `idempotent`; a streaming body is never repeated once part of it has left."""
    idempotent: bool = False
    max_response_body: int = 16 * 1024 * 1024


class UpstreamSink(Protocol):
    """Receives one response: started, data..., then finished; or failed at any point, once."""

    def started(self, status: int, headers: Headers, endpoint: str, attempts: int) -> None: ...

    def data(self, data: bytes) -> None: ...

    def finished(self) -> None: ...

    def failed(self, failure: UpstreamFailure) -> None: ...

    def upload_sent(self, size: int) -> None:
        """`size` more bytes of a streaming request body were handed to the kernel."""


@dataclass(slots=True)
class UpstreamFailure:
    """Why there is no (complete) response."""

    kind: str
    """connect | reset | timeout | protocol | overload | no_endpoint | too_large | cancelled."""
    message: str
    executed: bool = False
    """The request may have reached a server: its outcome is unknown."""
    endpoint: str = ""
    attempts: int = 0


class UpstreamExchange(Protocol):
    """One request in progress."""

    def data(self, data: bytes, more: bool) -> None: ...

    def cancel(self) -> None:
        """Drop it; the sink gets nothing more. Its connection is closed when the request had left."""

    def pause(self) -> None:
        """Stop reading the response."""

    def resume(self) -> None: ...


class UpstreamClient(Protocol):
    """All clusters."""

    def request(self, cluster: str, request: UpstreamRequest, sink: UpstreamSink) -> UpstreamExchange:
        """Never raises for the network's sake: an unknown cluster is a failure `no_endpoint`.
        The sink is never called before this has returned."""


# ------------------------------------------------------------------ stores (Deferreds fire on the reactor's thread)


class StoreUnavailable(Exception):
    """The store could not do it (disk full, too much pending); nothing was stored."""


@dataclass(slots=True)
class AppendOutcome:
    """Places of the pushes of one append call, in order."""

    places: list[tuple[int, int]]
    """(epoch, seq) each."""
    repeated: bool = False
    """The idempotency key was known: these are the places of the first time."""


class IdempotencyConflict(Exception):
    """The idempotency key was used before for another request."""


class StreamStore(Protocol):
    """Append-only logs of pushes, and cursors on them."""

    def append(
        self, requests: Sequence[PushRequest], *, now: float, idempotency_key: str = "", digest: bytes = b""
    ) -> Deferred[AppendOutcome]:
        """Durable when it fires, all or nothing. `now` is wall-clock. Fails with StoreUnavailable or
        IdempotencyConflict (same key, other digest). A collapse key removes older pushes of the stream with it;
        retention moves floors."""

    def states(self, keys: Sequence[StreamKey]) -> Deferred[dict[StreamKey, StreamState]]:
        """Of streams that exist."""

    def streams_of(self, scope: str, id: str) -> Deferred[list[StreamState]]:
        """Every stream (all biz) of one device, user or topic, or all broadcasts (id "")."""

    def read(self, key: StreamKey, after: int, limit: int, max_bytes: int) -> Deferred[list[StoredPush]]:
        """Pushes with seq > after in order; at least one if there is one. Gaps are collapsed or expired pushes."""

    def knows_nothing_of(self, device: str, user: str) -> bool:
        """True only when there is certainly no cursor or subscription of the device, and no stream of it, of the user
        or of everybody: then there is nothing to read. Answered at once."""

    def cursors(self, device: str) -> Deferred[dict[StreamKey, Cursor]]: ...

    def save_cursors(self, device: str, cursors: Sequence[Cursor]) -> None:
        """Written behind, coalesced; never moves backwards within an epoch."""

    def subscriptions(self, device: str) -> Deferred[set[str]]:
        """Topics of a device."""

    def subscribe(self, device: str, topics: Sequence[str], cursors: Sequence[Cursor] = ()) -> Deferred[None]:
        """Durable when it fires. `cursors` say where the topics begin for this device and are stored in the
        same transaction, under the rule of save_cursors; they may name streams that do not exist (biz "")."""

    def unsubscribe(self, device: str, topics: Sequence[str]) -> Deferred[None]: ...

    def sweep(self, now: float) -> Deferred[int]:
        """Remove what retention and ttl allow, a bounded batch; how many rows went (0: done)."""


class ClaimState:
    """Outcomes of AnswerStore.claim."""

    NEW = "new"
    OPEN = "open"
    """Claimed before, by this or another process; what became of it is unknown to the store."""
    ANSWERED = "answered"
    """Claimed and finished; the answer may or may not be kept."""
    MISMATCH = "mismatch"
    """The id was claimed with another digest."""


class AnswerStore(Protocol):
    """Durable claims on calls: what makes a call at most once. Answers themselves are kept in memory by core."""

    def claim(
        self, device: str, user: str, call_id: int, digest: bytes, now: float, *, first: float | None = None
    ) -> Deferred[str]:
        """Atomically claim; a ClaimState. Durable when it fires. `now` is wall-clock.

        `first`: of a repetition, the earliest wall-clock time of its first attempt. When the store has forgotten
        claims from then or later for want of room, a call that it does not know is OPEN, and nothing is claimed.
        """

    def settle(self, device: str, user: str, call_id: int) -> None:
        """Written behind: the call was answered."""

    def release(self, device: str, user: str, call_id: int) -> None:
        """Written behind: certainly not executed, the id may be claimed again."""

    def sweep(self, before: float) -> Deferred[int]:
        """Forget claims older than wall-clock `before`, a bounded batch; how many."""


class HeaderStateStore(Protocol):
    """States of header codecs, for the next connection of a device; losing one costs it bytes and nothing else."""

    def save(self, key: StateKey, state: HeaderState, generation: tuple[int, int], now: float) -> None:
        """Written behind. Of a direction the KEPT_CHECKPOINTS newest stay; what a connection of a higher generation
        (boot, counter) has written is neither replaced nor removed. `now` is wall-clock."""

    def load(self, key: StateKey) -> Deferred[list[HeaderState]]:
        """All that is kept of the key."""

    def sweep(self, before: float) -> Deferred[int]:
        """Forget states written before wall-clock `before`, and the oldest past the bound, one batch; how many."""


class OutboxStore(Protocol):
    """Presence events waiting to be delivered, in order per device."""

    def put(self, event: PresenceEvent) -> Deferred[None]: ...

    def next_seq(self, device: str) -> int:
        """The next number of the device's events; grows across restarts."""

    def pending(self, limit: int) -> Deferred[list[PresenceEvent]]:
        """Oldest undelivered events, at most one per device."""

    def done(self, event: PresenceEvent) -> Deferred[None]: ...


class Bus(Protocol):
    """Between workers: at most once, coalesced per turn of the reactor."""

    def publish(self, topic: str, message: bytes) -> None: ...

    def subscribe(self, topic: str, receive: Callable[[bytes], None]) -> Callable[[], None]:
        """Returns what cancels it."""


# ------------------------------------------------------------------ sessions and pushes


@dataclass(slots=True)
class OutgoingPush:
    """One push of a stream on its way to many sessions; its encodings are shared."""

    stream: StreamKey
    alias: int
    """Number of the stream in this worker, equal on all its connections."""
    epoch: int
    seq: int
    body: bytes
    ttl: float | None = None
    """Seconds left when it was read."""
    collapse: str = ""
    priority: int = 0
    encodings: dict[Any, Any] = field(default_factory=dict)
    """Filled by links: (coding, form) -> bytes, so that a group is encoded once."""


class Link(Protocol):
    """The live connection of a session, whatever protocol it speaks."""

    info: ConnectionInfo

    @property
    def buffered(self) -> int: ...

    def introduce(self, alias: int, stream: StreamKey, epoch: int, after: int) -> None:
        """Before the first push of a stream on this connection: the next one is `after` + 1."""

    def send_push(self, push: OutgoingPush, gap: int) -> bool:
        """Send it now. `gap` is how many sequence numbers before it were left out (collapsed,
        expired, not visible). False, and nothing sent, when the push window is full."""

    def stream_note(self, alias: int, stream: StreamKey, note: str, epoch: int, floor: int) -> None:
        """Tell the device `truncated` (its cursor was below the floor; resync by call; the next push
        is floor + 1) or `history_lost` (the epoch changed)."""

    def close(self, reason: CloseReason, status: int) -> None:
        """GOAWAY with the status, then close in order."""

    def go_away(self, status: int, address: str, delay: float) -> None:
        """Ask the device to leave; it finishes its calls first."""


class Session(Protocol):
    """What core keeps of one device; `delivery` belongs to the push side alone."""

    id: str
    identity: Identity
    link: Link | None
    delivery: Any


class PushService(Protocol):
    """Streams, delivery and fan-out, as sessions and the control API use them."""

    def attach(self, session: Session, cursors: Sequence[Cursor], *, passing: bool = False) -> None:
        """The session got a link: deliver its streams from these cursors (authoritative within an
        epoch, capped at the head), from the stored ones where a stream is missing, else from the tail.

        `passing`: a device that may never come back; that it was here is remembered only when it gets something.
        """

    def detach(self, session: Session) -> None:
        """The link is gone."""

    def acked(self, session: Session, places: Sequence[tuple[int, int]]) -> None:
        """The device processed these (alias, seq); the push window has room again."""

    def writable(self, session: Session) -> None:
        """The link's buffer is empty again."""

    def activity(self, session: Session) -> None:
        """The device sent something else than ACK or heartbeat: priority 1 may leave."""

    def subscribe(self, session: Session, topics: Sequence[str]) -> Deferred[None]: ...

    def unsubscribe(self, session: Session, topics: Sequence[str]) -> Deferred[None]: ...

    def subscriptions(self, session: Session) -> Deferred[list[str]]: ...

    def pending(
        self, session: Session, cursors: Sequence[Cursor], limit: int, max_bytes: int
    ) -> Deferred[list[tuple[StreamKey, int, StoredPush]]]:
        """For a short connection: up to `limit` pushes (stream, epoch, push) past the cursors given, the stored or sent ones."""

    def append(
        self, requests: Sequence[PushRequest], idempotency_key: str = "", digest: bytes = b""
    ) -> Deferred[list[PushResult]]:
        """Filters, then the durable append, then live delivery. One result per request."""


class PresenceSink(Protocol):
    """Takes connect and disconnect events."""

    def connected(self, session: Session) -> None: ...

    def disconnected(self, session: Session, reason: CloseReason) -> None: ...


# ------------------------------------------------------------------ filters


class Refused(Exception):
    """A filter's decision against something; carries an MMTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Filter:
    """Base of filters: override what is of interest. Each method may return its result or a
    Deferred of it. Refuse by raising Refused; any other exception costs this one connection, call
    or push (status 15), is logged and counted, and nothing else."""

    def connection(self, identity: Identity, info: ConnectionInfo | None) -> None:
        """A device was authenticated and is about to be welcomed."""

    def call(self, call: Call) -> Answer | Deferred[Answer | None] | None:
        """Return an Answer to answer it here; None to let it go on (the call may be changed)."""

    def push(self, push: PushRequest) -> PushRequest | Deferred[PushRequest | None] | None:
        """Return the push, changed or not."""
        return push


# ------------------------------------------------------------------ later rooms


class TlsContexts(Protocol):
    """Server contexts by SNI; a swap builds new ones, a Context in use never changes."""

    def context(self) -> Any:
        """An OpenSSL.SSL.Context for a new connection; selects the certificate by SNI itself."""

    def prepare(self) -> Callable[[], None]:
        """Load the files again; what it returns brings them into force. An error has the path, and the old ones stay."""

    def expires_at(self) -> Mapping[str, float]:
        """Certificate name -> wall-clock second of notAfter."""

    def identify(self, certificate: bytes) -> str:
        """Who a verified client certificate (DER) names, by the listener's rule; empty when it names nobody.
        RemoteError (a TLS alert) where that is not allowed."""


# ------------------------------------------------------------------ control


class ControlError(Exception):
    """A refusal with an HTTP status, a code and, for bad input, the path in the request."""

    def __init__(self, status: int, code: str, message: str, path: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.path = path


@dataclass(slots=True)
class MetricFamily:
    """One metric, ready for the Prometheus text format."""

    name: str
    kind: str
    """counter | gauge | histogram."""
    help: str
    samples: list[tuple[str, dict[str, str], float]]
    """(suffix, labels, value)."""


class Control(Protocol):
    """All that ops may do with the gateway. Errors are ControlError."""

    def push(
        self, requests: Sequence[PushRequest], idempotency_key: str, digest: bytes
    ) -> Deferred[list[PushResult]]: ...

    def device(self, device: str) -> Deferred[dict[str, Any]]:
        """404 when unknown."""

    def devices(self, user: str, connected: bool | None, after: str, limit: int) -> list[dict[str, Any]]: ...

    def close_device(self, device: str, revoke: bool = False) -> bool:
        """End its connection; False when it is not connected. With `revoke` also its session and the
        session's key; False when it has none."""

    def stream(self, key: StreamKey) -> Deferred[dict[str, Any]]: ...

    def drain(self, seconds: float) -> dict[str, Any]: ...

    def reload(self) -> Deferred[dict[str, Any]]:
        """422 with the path for a bad file; the old one stays in force."""

    def config(self) -> dict[str, Any]:
        """Effective configuration, secrets masked, and the back ends in use."""

    def workers(self) -> list[dict[str, Any]]: ...

    def status(self) -> dict[str, Any]: ...

    def ready(self) -> tuple[bool, str]: ...

    def metrics(self) -> list[MetricFamily]: ...

    def top(self, limit: int) -> dict[str, Any]: ...

    def trace(self, device: str, emit: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        """Frames and calls of one device as they happen; returns what ends it."""

    def events(self, emit: Callable[[dict[str, Any]], None]) -> Callable[[], None]: ...

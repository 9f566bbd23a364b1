"""Between transports and the protocols on their connections: connections, bindings, listeners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred

from accessgw.model.identity import ConnectionInfo
from accessgw.model.reasons import CloseReason


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


class EarlyBinding(Binding, Protocol):
    """A binding that takes 0-RTT data (RFC 8446 section 2.3). While `connection.info.early` holds, the peer may be one
    that replays what another sent; it may be written to, and close() waits for the end of the hand-shake."""

    def early_data_received(self, data: bytes, replayed: bool) -> None:
        """What came before the end of the hand-shake, in order. With `replayed`, which is the same in all calls, it came
        before or nobody can say: nothing in it may take effect."""

    def handshake_completed(self) -> None:
        """The peer is the one who sent the early data, and not a replay. Called at most once, on bindings that were made
        before it; data_received() only after it. A replay comes to its end without it."""


class BindingFactory(Protocol):
    """Makes the binding of an accepted (and, for TLS, hand-shaken) connection."""

    def __call__(self, connection: Connection) -> Binding: ...


class EarlyBindingFactory(Protocol):
    """A BindingFactory some of whose bindings are EarlyBindings, made when the first 0-RTT data comes. For all other
    factories early data is held until the hand-shake is complete."""

    def __call__(self, connection: Connection) -> EarlyBinding: ...

    def takes_early_data(self, info: ConnectionInfo) -> bool:
        """Whether it makes such a binding for this connection, whose alpn, server_name and ticket are known."""


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


class ConnectionPages(Protocol):
    """The same for who goes through all of them bit by bit: a list of a million takes 50 ms."""

    def pages(self) -> list[int]:
        """Ascending numbers of those that have someone; a connection stays on its page, and the younger are on later
        ones."""

    def page(self, number: int) -> list[Connection]:
        """Who is on it now, at most a thousand or so; nobody when all have ended."""

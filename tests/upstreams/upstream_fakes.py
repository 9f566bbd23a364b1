"""A reactor without sockets whose connections the test accepts, answers and breaks by hand."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from accessgw.core.interfaces.upstreams import UpstreamFailure, UpstreamRequest
from accessgw.model.counters import UpstreamCounters
from accessgw.model.route_settings import ClusterSettings
from accessgw.upstreams.client import HttpUpstreams
from accessgw.upstreams.threads import AT_ONCE


class Sink:
    """Notes what an exchange tells it."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.body = b""
        self.endpoint = ""
        self.attempts = 0
        self.complete = False
        self.failure: UpstreamFailure | None = None
        self.sent = 0
        self.calls = 0

    def started(self, status: int, headers: list[tuple[str, str]], endpoint: str, attempts: int) -> None:
        assert self.status == 0 and not self.ended
        self.calls += 1
        self.status, self.headers, self.endpoint, self.attempts = status, headers, endpoint, attempts

    def data(self, data: bytes) -> None:
        assert self.status and not self.ended
        self.calls += 1
        self.body += data

    def finished(self) -> None:
        assert self.status and not self.ended
        self.calls += 1
        self.complete = True

    def failed(self, failure: UpstreamFailure) -> None:
        assert not self.ended
        self.calls += 1
        self.failure = failure

    def upload_sent(self, size: int) -> None:
        self.calls += 1
        self.sent += size

    @property
    def ended(self) -> bool:
        return self.complete or self.failure is not None

    @property
    def kind(self) -> str:
        return self.failure.kind if self.failure is not None else ""


class Waiting(Sink):
    """A sink with a Deferred for its end."""

    def __init__(self) -> None:
        super().__init__()
        self.done: Deferred[Sink] = Deferred()

    def finished(self) -> None:
        super().finished()
        self.done.callback(self)

    def failed(self, failure: Any) -> None:
        super().failed(failure)
        self.done.callback(self)


class Wire(StringTransport):
    """The server's view of one connection."""

    def __init__(self, net: Net, protocol: Any, place: tuple[Any, ...]) -> None:
        super().__init__()
        self.net = net
        self.protocol = protocol
        self.place = place
        self.closed = ""
        self.room = 1 << 30
        """Bytes that the kernel still takes; the rest waits in the transport until `drain`."""
        self.peek: bytes | Exception = BlockingIOError()
        self.send_error: Exception | None = None
        self.waiting = b""

    # The socket, which connections write to themselves as long as nothing waits.

    def getHandle(self) -> Wire:
        return self

    def send(self, data: bytes) -> int:
        assert not self.waiting, "bytes would overtake others"
        if self.send_error is not None:
            raise self.send_error
        if not self.room:
            raise BlockingIOError
        taken = data[: self.room]
        self.room -= len(taken)
        super().write(taken)
        return len(taken)

    def recv(self, size: int, flags: int) -> bytes:
        if isinstance(self.peek, Exception):
            raise self.peek
        return self.peek

    # The transport.

    def write(self, data: bytes) -> None:
        self.waiting += data

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        super().registerProducer(producer, streaming)
        assert not streaming
        producer.resumeProducing()

    def drain(self) -> None:
        """The kernel takes all that waits, and more."""
        self.room = 1 << 30
        waiting, self.waiting = self.waiting, b""
        super().write(waiting)
        if self.producer is not None:
            self.producer.resumeProducing()

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def loseConnection(self) -> None:
        self._ours("close")

    def abortConnection(self) -> None:
        self._ours("abort")

    def _ours(self, how: str) -> None:
        if not self.closed:
            self.closed = how
            self.net.clock.callLater(0, self._lost, ConnectionDone())

    def _lost(self, error: Exception) -> None:
        if self.producer is not None:
            self.producer.stopProducing()
        self.protocol.connectionLost(Failure(error))

    def taken(self) -> bytes:
        """Bytes of requests since the last call."""
        data = self.value()
        self.clear()
        return bytes(data)

    def answer(self, data: bytes) -> None:
        assert not self.closed, "we had closed it"
        self.protocol.dataReceived(data)

    def ok(self, body: bytes = b"ok", status: bytes = b"200 OK", extra: bytes = b"") -> None:
        self.answer(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), extra, body))

    def end(self) -> None:
        """An orderly end by the server."""
        self.closed = "peer"
        self._lost(ConnectionDone())

    def reset(self) -> None:
        self.closed = "peer"
        self._lost(ConnectionLost())


class Net:
    """Upstreams on a fake reactor."""

    def __init__(
        self, *endpoints: str, random: float = 0.0, resolve: Any = None, handshakes: Any = AT_ONCE, **settings: Any
    ) -> None:
        self.clock = MemoryReactorClock()
        self.counters: dict[str, UpstreamCounters] = {}
        self.settings = ClusterSettings(name="c", endpoints=endpoints or ("http://10.0.0.1:80",), **settings)
        self.random = random
        self.upstreams = HttpUpstreams(
            self.clock,
            [self.settings],
            random=lambda: self.random,
            counters=self.counters,
            resolve=resolve,
            handshakes=handshakes,
        )
        self.seen = 0
        self.unix_seen = 0

    def ask(self, method: str = "POST", body: bytes = b"", timeout: float = 10.0, **fields: Any) -> tuple[Any, Sink]:
        sink = Sink()
        fields.setdefault("headers", [])
        request = UpstreamRequest(
            method=method,
            target=fields.pop("target", "/p"),
            body=body,
            deadline=self.clock.seconds() + timeout,
            **fields,
        )
        exchange = self.upstreams.request("c", request, sink)
        assert sink.calls == 0, "the sink was called before request() had returned"
        return exchange, sink

    @property
    def connecting(self) -> int:
        """Attempts that the test has not decided about."""
        return len(self.clock.tcpClients) - self.seen

    def accept(self) -> Wire:
        host, port, factory, *_ = self.clock.tcpClients[self.seen]
        self.seen += 1
        protocol = factory.buildProtocol(None)
        wire = Wire(self, protocol, (host, port))
        protocol.makeConnection(wire)
        return wire

    def refuse(self) -> tuple[str, int]:
        host, port, factory, *_ = self.clock.tcpClients[self.seen]
        self.seen += 1
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))
        return host, port

    def turn(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)

    @property
    def counter(self) -> UpstreamCounters:
        return self.counters["c"]

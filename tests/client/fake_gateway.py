"""A small gateway without I/O for the client's tests: protocols.mmtp's server side, echo calls, logs of pushes."""

from __future__ import annotations

from dataclasses import dataclass, field

from protocols.mmtp import events as wire
from protocols.mmtp import short
from protocols.mmtp.connection import Connection, Role
from protocols.mmtp.handshake import Goaway, Hello, StreamCursor, Welcome
from protocols.mmtp.pushes import encode_push
from protocols.mmtp.settings import DEFAULT_LIMITS

MAC_KEY = bytes(range(32))


@dataclass
class FakeGateway:
    """Shared by all connections of the one device under test; remembers what was executed."""

    executed: dict[int, bytes] = field(default_factory=dict)
    """call id -> body; a second execution of an id is an error."""
    resent: list[int] = field(default_factory=list)
    hold: set[str] = field(default_factory=set)
    """Operations that are not answered."""
    statuses: dict[str, int] = field(default_factory=dict)
    headers: list[tuple[str, str]] = field(default_factory=list)
    """Of every answer, after `via`."""
    log: dict[tuple[str, str, str], list[bytes]] = field(default_factory=dict)
    epoch: int = 1
    cursors: dict[tuple[str, str, str], int] = field(default_factory=dict)
    welcome: Welcome = field(
        default_factory=lambda: Welcome(session="s1", mac_key=MAC_KEY, heartbeat=60.0, time=1000.0)
    )
    hellos: list[Hello] = field(default_factory=list)
    links: list[FakeLink] = field(default_factory=list)
    subscriptions: list[str] = field(default_factory=list)
    counters: list[int] = field(default_factory=list)

    def execute(self, operation: str, call_id: int, body: bytes, resent: bool) -> tuple[int, bytes] | None:
        if resent:
            self.resent.append(call_id)
        if call_id in self.executed:
            assert self.executed[call_id] == body, "one id, two bodies"
        else:
            self.executed[call_id] = body
        if operation in self.hold:
            return None
        return self.statuses.get(operation, 0), operation.encode() + b":" + body

    def accept(self, now: float) -> FakeLink:
        link = FakeLink(self, Connection(Role.SERVER, now=now))
        self.links.append(link)
        return link

    def push(self, stream: tuple[str, str, str], body: bytes) -> None:
        self.log.setdefault(stream, []).append(body)
        if self.links:
            self.links[-1].deliver()

    def http(self, host: str, body: bytes) -> tuple[int, bytes]:
        """POST /mmtp."""
        request = short.decode_short_request(body, DEFAULT_LIMITS)
        response = short.ShortResponse(time=1000.0)
        if request.hello is not None:
            self.hellos.append(request.hello)
            response.welcome = self.welcome
        elif request.session != self.welcome.session or not short.verify_tag(request, MAC_KEY, host):
            return 200, short.encode_short_response(short.ShortResponse(status=7))
        else:
            assert request.counter not in self.counters
            self.counters.append(request.counter)
        for index, call in enumerate(request.calls):
            outcome = self.execute(call.operation, call.call_id, call.body, call.resent)
            if outcome is not None:
                response.answers.append(
                    short.ShortAnswer(index, outcome[0], [("via", "short"), *self.headers], outcome[1])
                )
        cursors = request.hello.cursors if request.hello is not None else request.cursors
        after = {(c.scope, c.id, c.biz): c.seq for c in cursors}
        for name, bodies in self.log.items():
            for seq in range(after.get(name, 0) + 1, len(bodies) + 1)[: request.max_pushes]:
                response.pushes.append(wire.PushReceived(0, *name, self.epoch, seq, bodies[seq - 1]))
        return 200, short.encode_short_response(response)


class FakeLink:
    """One accepted connection."""

    def __init__(self, gateway: FakeGateway, connection: Connection) -> None:
        self.gateway = gateway
        self.connection = connection
        self.open = False
        self.goaways: list[Goaway] = []
        self.acked: list[object] = []
        self._echoing: set[int] = set()
        self._sent: dict[tuple[str, str, str], int] = {}
        self._aliases: dict[tuple[str, str, str], int] = {}

    def receive(self, data: bytes, now: float) -> bytes:
        self.connection.receive(data, now)
        while events := self.connection.events():  # a WELCOME may release others
            for event in events:
                self._event(event)
        return self.connection.to_send(now)

    def welcome(self, hello: Hello) -> None:
        self.connection.send_welcome(self.gateway.welcome)

    def _event(self, event: wire.Event) -> None:
        gateway = self.gateway
        if isinstance(event, wire.HelloReceived):
            gateway.hellos.append(event.hello)
            self.welcome(event.hello)
            if gateway.welcome.result == 0:
                self.open = True
                self._sent = dict(gateway.cursors)
                self._sent.update({(c.scope, c.id, c.biz): c.seq for c in event.hello.cursors})
                self.deliver()
        elif isinstance(event, wire.RequestReceived) and event.operation == "stream.echo":
            self._echoing.add(event.call)
            self.connection.respond(event.call, 0, [("kind", "echo")], event.body, more=event.more)
        elif isinstance(event, wire.DataReceived) and event.call in self._echoing:
            self.connection.consumed(event.call, event.wire_size)
            self.connection.send_data(event.call, event.data, event.more)
        elif isinstance(event, wire.RequestReceived):
            assert not event.more
            if event.operation == "gw.subscriptions":
                self.connection.respond(event.call, 0, [], b'{"topics":["news/sport"]}')
                return
            outcome = gateway.execute(event.operation, event.call_id, event.body, event.resent)
            self.connection.consumed(event.call, event.wire_size)
            if outcome is not None:
                self.connection.respond(event.call, outcome[0], [("via", "long"), *gateway.headers], outcome[1])
        elif isinstance(event, wire.CallReset):
            self.connection.reset(event.call, 12)
        elif isinstance(event, wire.PushesAcked):
            for stream, seq in event.tokens:
                self.acked.append((stream, seq))
                gateway.cursors[stream] = max(gateway.cursors.get(stream, 0), seq)
            self.deliver()
        elif isinstance(event, wire.GoawayReceived):
            self.goaways.append(event.goaway)

    def deliver(self) -> None:
        if not self.open or self.connection.closed:
            return
        for name, bodies in self.gateway.log.items():
            sent = self._sent.get(name, 0)
            for seq in range(sent + 1, len(bodies) + 1):
                body = bodies[seq - 1]
                if not self.connection.push_room(len(body)):
                    return
                if name not in self._aliases:
                    self._aliases[name] = len(self._aliases) + 1
                    cursor = StreamCursor(*name, self.gateway.epoch, seq - 1)
                    self.connection.introduce_stream(self._aliases[name], cursor)
                alias = self._aliases[name]
                self.connection.send_push(alias, seq, encode_push(alias, body), len(body), (name, seq))
                self._sent[name] = seq


class FakePost:
    """One HTTP exchange: bytes of the request in, bytes of the whole response out."""

    def __init__(self, gateway: FakeGateway) -> None:
        self._gateway = gateway
        self._data = b""

    def receive(self, data: bytes) -> bytes:
        self._data += data
        head, separator, body = self._data.partition(b"\r\n\r\n")
        if not separator:
            return b""
        lines = head.decode().split("\r\n")
        assert lines[0] == "POST /mmtp HTTP/1.1"
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        assert headers["content-type"] == "application/mmtp"
        if len(body) < int(headers["content-length"]):
            return b""
        status, answer = self._gateway.http(headers["host"], body)
        return (
            b"HTTP/1.1 %d X\r\ncontent-type: application/mmtp\r\ncontent-length: %d\r\n\r\n" % (status, len(answer))
            + answer
        )

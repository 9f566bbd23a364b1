"""The peer "stock Twisted": the same frames as floor.c by Protocol, Factory and listenTCP as the manual shows them.

usage: python -m loadtest.bench.stock_twisted   prints "port N"; ends with SIGTERM.
"""

from __future__ import annotations

from struct import Struct

from twisted.internet.protocol import Factory, Protocol

LENGTH = Struct(">I")


class Peer(Protocol):
    """One connection."""

    def __init__(self, group: set[Peer]) -> None:
        self.group = group
        self.partial = b""

    def dataReceived(self, data: bytes) -> None:
        data = self.partial + data
        at = 0
        while len(data) - at >= 5:
            size = 4 + LENGTH.unpack_from(data, at)[0]
            if len(data) - at < size:
                break
            self.handle(data[at : at + size])
            at += size
        self.partial = data[at:]

    def handle(self, frame: bytes) -> None:
        match frame[4:5]:
            case b"E":
                self.transport.write(frame)
            case b"S":
                self.group.add(self)
                self.transport.write(b"\0\0\0\1K")
            case b"F":
                message = frame[:4] + b"M" + frame[5:]
                for member in self.group:
                    member.transport.write(message)

    def connectionLost(self, reason: object = None) -> None:
        self.group.discard(self)


def main() -> None:
    from twisted.internet import epollreactor

    epollreactor.install()
    from twisted.internet import reactor

    group: set[Peer] = set()
    port = reactor.listenTCP(0, Factory.forProtocol(lambda: Peer(group)), backlog=4096, interface="127.0.0.1")
    print(f"port {port.getHost().port}", flush=True)
    reactor.run()


if __name__ == "__main__":
    main()

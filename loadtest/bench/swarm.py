"""A swarm of client connections in one process and one epoll loop.

usage: python -m loadtest.bench.swarm WIRE PORT COUNT ROLE      WIRE: frames | mmtp, ROLE: idle | subscribe

Prints "ready" when every connection is up (for MMTP: welcomed, and subscribed). Then it reads and
counts; for each line on standard input it answers with the number of messages received so far, and it
ends when standard input ends.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from struct import Struct

from protocols.mmtp import Connection, Hello, Limits, Role
from protocols.mmtp.events import PushReceived, ResponseReceived, WelcomeReceived

LENGTH = Struct(">I")
TOPIC = "bench/fanout"
IN_PROGRESS = 64  # connections being set up at once, below any accept queue


class FramesPeer:
    """A connection that speaks the frames of floor.c."""

    def __init__(self, sock: socket.socket, role: str, number: int) -> None:
        self.sock = sock
        self.partial = b""
        self.received = 0
        self.ready = role == "idle"
        if not self.ready:
            sock.send(LENGTH.pack(1) + b"S")

    def readable(self, now: float) -> None:
        data = self.partial + self.sock.recv(65536)
        at = 0
        while len(data) - at >= 5:
            size = 4 + LENGTH.unpack_from(data, at)[0]
            if len(data) - at < size:
                break
            if data[at + 4 : at + 5] == b"K":
                self.ready = True
            else:
                self.received += 1
            at += size
        self.partial = data[at:]


class MmtpPeer:
    """A device: HELLO, subscription, acknowledgements."""

    def __init__(self, sock: socket.socket, role: str, number: int) -> None:
        self.sock = sock
        self.role = role
        self.received = 0
        self.ready = False
        self.wire = Connection(Role.CLIENT, limits=Limits(), now=time.monotonic())
        self.wire.send_hello(Hello(device=f"bench-{role}-{number}", token="bench-device", call_base=number << 20))
        self.flush()

    def flush(self) -> None:
        data = self.wire.to_send(time.monotonic())
        if data:
            self.sock.send(data)

    def readable(self, now: float) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError("the gateway closed a connection of the swarm")
        self.wire.receive(data, now)
        pushes = 0
        for event in self.wire.events():
            if isinstance(event, PushReceived):
                pushes += 1
            elif isinstance(event, WelcomeReceived):
                if event.welcome.result:
                    raise ConnectionError(f"refused: {event.welcome.result} {event.welcome.message}")
                self.ready = self.role == "idle"
                if not self.ready:
                    self.wire.request("gw.subscribe", [], b'{"topics":["%s"]}' % TOPIC.encode())
            elif isinstance(event, ResponseReceived):
                if event.status:
                    raise ConnectionError(f"subscription refused: {event.status} {event.body!r}")
                self.ready = True
        if pushes:
            self.received += pushes
            self.wire.ack(pushes)
        self.flush()


def main() -> None:
    wire, port, count, role = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    make = {"frames": FramesPeer, "mmtp": MmtpPeer}[wire]
    poller = select.epoll()
    poller.register(0, select.EPOLLIN)
    peers: dict[int, FramesPeer | MmtpPeer] = {}
    waiting: set[int] = set()
    announced = False
    while True:
        while len(peers) < count and len(waiting) < IN_PROGRESS:
            sock = socket.create_connection(("127.0.0.1", port), 10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer = peers[sock.fileno()] = make(sock, role, len(peers))
            poller.register(sock.fileno(), select.EPOLLIN)
            if not peer.ready:
                waiting.add(sock.fileno())
        if not announced and len(peers) == count and not waiting:
            announced = True
            print("ready", flush=True)
        now = time.monotonic()
        for fd, _events in poller.poll(1.0):
            if fd == 0:
                if not sys.stdin.readline():
                    return
                print(sum(peer.received for peer in peers.values()), flush=True)
                continue
            peer = peers[fd]
            peer.readable(now)
            if peer.ready:
                waiting.discard(fd)


if __name__ == "__main__":
    main()

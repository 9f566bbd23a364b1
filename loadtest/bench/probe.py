"""One connection that measures round trips, closed loop with a pause.

usage: python -m loadtest.bench.probe WIRE PORT SECONDS    prints two JSON lists of microseconds: the round trips, and by
                                                           how much each pause between them was too long

With `frames` a round trip is the echo of a 100 byte frame; with `mmtp` it is a call of gw.time through
decoder, session look-up and header compression.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable
from struct import Struct

from protocols.mmtp import Connection, Hello, Limits, Role
from protocols.mmtp.events import ResponseReceived, WelcomeReceived

PAUSE = 0.002
ECHO = Struct(">I").pack(96) + b"E" + bytes(95)


def frames(sock: socket.socket) -> Callable[[], None]:
    def trip() -> None:
        sock.sendall(ECHO)
        left = len(ECHO)
        while left:
            left -= len(received(sock, left))

    return trip


def mmtp(sock: socket.socket) -> Callable[[], None]:
    wire = Connection(Role.CLIENT, limits=Limits(), now=time.monotonic())

    def until(kind: type) -> None:
        sock.sendall(wire.to_send(time.monotonic()))
        while True:
            wire.receive(received(sock, 65536), time.monotonic())
            if any(isinstance(event, kind) for event in wire.events()):
                return

    wire.send_hello(Hello(device="bench-probe", token="bench-device", call_base=1 << 40))
    until(WelcomeReceived)

    def trip() -> None:
        wire.request("gw.time", [], b"")
        until(ResponseReceived)

    return trip


def received(sock: socket.socket, size: int) -> bytes:
    data = sock.recv(size)
    if not data:
        raise ConnectionError("the server closed the probe's connection")
    return data


def main() -> None:
    wire, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    sock = socket.create_connection(("127.0.0.1", port), 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    trip = {"frames": frames, "mmtp": mmtp}[wire](sock)
    for _ in range(50):
        trip()
    print("ready", flush=True)
    sys.stdin.readline()
    trips: list[float] = []
    late: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begin = time.perf_counter()
        trip()
        pause = time.perf_counter()
        trips.append(round((pause - begin) * 1e6, 1))
        time.sleep(PAUSE)
        late.append(round((time.perf_counter() - pause - PAUSE) * 1e6, 1))
    print(json.dumps([trips, late]), flush=True)


if __name__ == "__main__":
    main()

"""A load of MQTT clients in one epoll loop: the twin of mqtt_load.c, for machines without a compiler.

usage: python -m loadtest.bench.mqtt_load fanout|pairs|connect|idle [--NAME VALUE ...]

Options, the line of JSON and the exit status are those of mqtt_load.c, whose first comment tells them. It costs several
times the CPU per message, so it may be the limit where the other is not; "own_cpu" in its answer shows that.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import sys
import time
from struct import Struct
from typing import NoReturn

from loadtest.bench.mqtt_measure import Histogram, broker_cpu, broker_memory

CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, DISCONNECT = 2, 3, 4, 5, 6, 7, 9, 14
CONNECTING, SUBSCRIBING, READY, LEAVING = range(4)
FAILURE = 0x80
EXPIRY = b"\x05\x11" + (3600).to_bytes(4, "big")  # properties: Session Expiry Interval, seconds
KEEP_ALIVE = 300
STAMP = Struct("=IIQ")  # number of the flow, sequence number, time of sending (ns)
IN_PROGRESS = 32
WARM = 200
BLOCK = 256 * 1024
MAX_PACKET = 1 << 20
SETTLE = 0.2


def fail(message: str) -> NoReturn:
    print(f"mqtt_load: {message}", file=sys.stderr)
    sys.exit(2)


class Flow:
    """One publisher's messages."""

    __slots__ = ("acknowledged", "complete", "publisher", "sent", "topic")

    def __init__(self, topic: str) -> None:
        self.topic = topic.encode()
        self.publisher: Client | None = None
        self.sent = self.acknowledged = self.complete = 0


class Client:
    """One connection."""

    __slots__ = ("blocked", "expected", "flow", "number", "partial", "phase", "sock", "started", "subscriber", "unsent")

    sock: socket.socket

    def __init__(self, number: int, flow: int, subscriber: bool) -> None:
        self.number, self.flow, self.subscriber = number, flow, subscriber
        self.partial = b""
        self.unsent = bytearray()
        self.blocked = False
        self.phase = CONNECTING
        self.started = self.expected = 0


class Load:
    def __init__(self, options: argparse.Namespace) -> None:
        self.o = o = options
        self.poller = select.epoll()
        self.clients: list[Client] = []
        self.by_fd: dict[int, Client] = {}
        self.dirty: set[Client] = set()
        self.latencies = Histogram()
        self.opened = self.ready = 0
        self.publishing = False
        self.now = time.monotonic_ns()
        self.messages = self.deliveries = self.cycles = self.withheld = 0
        self.duplicates = self.misordered = self.altered = 0
        self.pids = [int(pid) for pid in o.pids.split(",") if pid]
        fanout, pairs = o.command == "fanout", o.command == "pairs"
        total = {"fanout": o.count + 1, "pairs": 2 * o.count, "idle": o.count + WARM}.get(o.command, o.concurrency)
        for number in range(total):
            flow = number // 2 if pairs else 0 if fanout else number
            subscriber = bool(number % 2 if pairs else number > 0 if fanout else o.subscribe)
            self.clients.append(Client(number, flow, subscriber))
        self.flow_count = 1 if fanout else o.count if pairs else 0
        self.flows = [Flow(f"bench/{o.prefix}/{number}/value") for number in range(self.flow_count or total)]
        for client in self.clients:
            if not client.subscriber:
                self.flows[client.flow].publisher = client
        self.missing = [0] * o.inflight if fanout else []  # receivers that are still without message seq % inflight

    # -- sockets

    def open(self, client: Client) -> None:
        o = self.o
        try:
            client.sock = socket.create_connection((o.host, o.port), o.timeout)
        except OSError as why:
            fail(f"connect to port {o.port}: {why}")
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sock.setblocking(False)
        self.by_fd[client.sock.fileno()] = client
        self.poller.register(client.sock.fileno(), select.EPOLLIN)
        flags = (0x02 if o.clean else 0) | (0x80 if o.user else 0) | (0x40 if o.password else 0)
        body = text("MQTT") + bytes([o.version, flags]) + KEEP_ALIVE.to_bytes(2, "big")
        if o.version == 5:
            body += b"\0" if o.clean else EXPIRY
        body += text(f"{o.prefix}-{client.number}")
        body += b"".join(text(part) for part in (o.user, o.password) if part)
        client.phase = CONNECTING
        client.started = time.monotonic_ns()
        client.unsent += packet(0x10, body)
        self.flush(client)

    def flush(self, client: Client) -> None:
        if not client.unsent or client.blocked:
            return
        try:
            sent = client.sock.send(client.unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the next read meets the error
        del client.unsent[:sent]
        if client.unsent:
            client.blocked = True
            self.poller.modify(client.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    # -- messages

    def under_way(self, flow: Flow) -> int:
        return flow.sent - (min(flow.complete, flow.acknowledged) if self.o.qos else flow.complete)

    def publish(self, number: int) -> None:
        o, flow = self.o, self.flows[number]
        assert flow.publisher is not None
        payload = STAMP.pack(number, flow.sent, time.monotonic_ns()).ljust(o.size, b"x")
        if self.missing:
            self.missing[flow.sent % o.inflight] = o.count
        head = len(flow.topic).to_bytes(2, "big") + flow.topic
        if o.qos:
            head += (flow.sent % 65535 + 1).to_bytes(2, "big")
        if o.version == 5:
            head += b"\0"
        flow.publisher.unsent += packet(0x30 | o.qos << 1, head + payload)
        flow.sent += 1
        self.messages += 1
        self.dirty.add(flow.publisher)  # publishes of one turn leave together

    def refill(self, number: int) -> None:
        if self.o.rate > 0:
            return
        while self.publishing and self.under_way(self.flows[number]) < self.o.inflight:
            self.publish(number)

    def on_delivery(self, client: Client, payload: bytes) -> None:
        if len(payload) != self.o.size:
            self.altered += 1
            return
        number, sequence, sent_at = STAMP.unpack_from(payload)
        if number != client.flow or sequence >= self.flows[number].sent:
            self.altered += 1
            return
        if sequence < client.expected:
            self.duplicates += 1
            return
        if sequence > client.expected:
            self.misordered += 1
        client.expected = sequence + 1
        self.deliveries += 1
        self.latencies.add(self.now - sent_at)
        if self.missing:
            self.missing[sequence % self.o.inflight] -= 1
        if not self.missing or not self.missing[sequence % self.o.inflight]:
            self.flows[number].complete += 1
        self.refill(number)

    # -- packets in

    def on_packet(self, client: Client, first: int, body: bytes) -> None:
        o, kind = self.o, first >> 4
        if kind == PUBLISH:
            qos = first >> 1 & 3
            at = 2 + int.from_bytes(body[:2], "big")
            same = body[2:at] == self.flows[client.flow].topic and qos == o.qos
            if qos:
                client.unsent += packet((PUBACK if qos == 1 else PUBREC) << 4, body[at : at + 2])
                at += 2
            if o.version == 5:
                taken = length_at(body, at)
                if taken is None:
                    fail("PUBLISH: bad properties")
                at = taken[1] + taken[0]
            if same:
                self.on_delivery(client, body[at:])
            else:
                self.altered += 1
        elif kind == DISCONNECT:
            fail(f"the broker disconnected {o.prefix}-{client.number}: reason {body[:1].hex() or '00'}")
        elif len(body) < 2:
            fail(f"packet of type {kind} has {len(body)} bytes")
        elif kind == CONNACK:
            self.on_connack(client, body[1])
        elif kind == SUBACK:
            if client.phase != SUBSCRIBING or body[-1] != o.qos:
                fail(f"SUBACK says 0x{body[-1]:02x} where QoS {o.qos} was asked for")
            client.phase = READY
            self.ready += 1
        elif kind == PUBREL:
            client.unsent += packet(PUBCOMP << 4, body[:2])
        elif kind in (PUBACK, PUBREC, PUBCOMP):
            if len(body) > 2 and body[2] >= FAILURE:
                fail(f"a PUBLISH was answered with reason 0x{body[2]:02x}")
            if kind == PUBREC:
                client.unsent += packet(PUBREL << 4 | 2, body[:2])
                return
            self.flows[client.flow].acknowledged += 1
            self.refill(client.flow)
        else:
            fail(f"unexpected packet of type {kind}")

    def on_connack(self, client: Client, reason: int) -> None:
        if reason:
            fail(f"connection refused: 0x{reason:02x}")
        if client.phase != CONNECTING:
            fail("a second CONNACK")
        if self.o.command == "connect":
            self.latencies.add(self.now - client.started)
            client.unsent += packet(DISCONNECT << 4, b"")
            self.flush(client)
            client.sock.shutdown(socket.SHUT_WR)
            client.phase = LEAVING
        elif client.subscriber:
            client.phase = SUBSCRIBING
            head = b"\0\1\0" if self.o.version == 5 else b"\0\1"
            topic = self.flows[client.flow].topic
            client.unsent += packet(0x82, head + len(topic).to_bytes(2, "big") + topic + bytes([self.o.qos]))
        else:
            client.phase = READY
            self.ready += 1

    def on_readable(self, client: Client) -> None:
        try:
            data = client.sock.recv(BLOCK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.on_end(client)
            return
        self.now = time.monotonic_ns()
        data, done = client.partial + data, 0
        while done + 1 < len(data):
            taken = length_at(data, done + 1)
            if taken is None:
                break
            length, at = taken
            if length > MAX_PACKET:
                fail(f"a packet of {length} bytes")
            if at + length > len(data):
                break
            self.on_packet(client, data[done], data[at : at + length])
            done = at + length
        client.partial = data[done:]
        if client not in self.dirty:
            self.flush(client)

    def on_end(self, client: Client) -> None:
        if client.phase != LEAVING:
            fail(f"the broker closed the connection of {self.o.prefix}-{client.number}")
        self.poller.unregister(client.sock.fileno())
        del self.by_fd[client.sock.fileno()]
        client.sock.close()
        client.partial, client.blocked = b"", False
        client.unsent.clear()
        self.cycles += 1
        if self.publishing:
            self.open(client)
        else:
            self.ready += 1

    def turn(self, until: int) -> None:
        # Before the wait, so that nothing said since the last one waits with it.
        for client in self.dirty:
            self.flush(client)
        self.dirty.clear()
        wait = min(max(until - time.monotonic_ns(), 0) / 1e9, 0.1)
        for fd, events in self.poller.poll(wait):
            client = self.by_fd[fd]
            if events & select.EPOLLOUT:
                self.poller.modify(fd, select.EPOLLIN)
                client.blocked = False
                self.flush(client)
            if events & ~select.EPOLLOUT:
                self.on_readable(client)
        self.now = time.monotonic_ns()

    def run_until(self, end: int) -> None:
        self.turn(end)
        while self.now < end:
            self.turn(end)

    # -- phases

    def set_up(self, count: int) -> None:
        """Open clients up to number `count`, never more at once than an accept queue holds."""
        end = time.monotonic_ns() + int(self.o.timeout * 1e9)
        while self.ready < count:
            while self.opened < count and self.opened - self.ready < IN_PROGRESS:
                self.open(self.clients[self.opened])
                self.opened += 1
            self.turn(end)
            if self.now > end:
                fail(f"{self.ready} of {count} clients are ready after {self.o.timeout:g} s")

    def publish_by_clock(self, start: int, end: int) -> None:
        due, sent = start, 0
        while self.now < end:
            while due <= self.now:
                number = sent % self.flow_count
                sent += 1
                due = start + int(sent * 1e9 / self.o.rate)
                if self.under_way(self.flows[number]) < self.o.inflight:
                    self.publish(number)
                else:
                    self.withheld += 1  # the broker lags: to send more would only measure its queue
            self.turn(min(due, end))

    def all_arrived(self) -> bool:
        return not any(self.under_way(flow) for flow in self.flows)

    def run(self) -> None:
        start = self.now
        end = start + int(self.o.duration * 1e9)
        self.publishing = True
        connects = self.o.command == "connect"
        if connects:
            self.opened = len(self.clients)
            for client in self.clients:
                self.open(client)
        for number in range(self.flow_count):
            self.refill(number)
        if self.o.rate > 0 and not connects:
            self.publish_by_clock(start, end)
        else:
            self.run_until(end)
        self.publishing = False
        last = self.now + int(self.o.timeout * 1e9)
        while self.now < last and not (self.ready == self.opened if connects else self.all_arrived()):
            self.turn(self.now + 10**6)


def text(value: str) -> bytes:
    data = value.encode()
    return len(data).to_bytes(2, "big") + data


def packet(first: int, body: bytes) -> bytes:
    length, head = len(body), bytearray([first])
    while length >= 128:
        head.append(length % 128 | 128)
        length //= 128
    head.append(length)
    return bytes(head) + body


def length_at(data: bytes, at: int) -> tuple[int, int] | None:
    """A variable byte integer and where what follows begins; None: more bytes are needed."""
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            return None
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    fail("a length of more than four bytes")


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("command", choices=["fanout", "pairs", "connect", "idle"])
    defaults = {"host": "127.0.0.1", "prefix": "load", "user": "", "password": "", "pids": ""}
    for name, words in defaults.items():
        parser.add_argument(f"--{name}", default=words)
    numbers = {"port": 1883, "count": 10, "size": 100, "qos": 0, "inflight": 1, "clean": 1, "version": 4}
    for name, number in {**numbers, "concurrency": 20, "subscribe": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    for name, seconds in {"rate": 0.0, "duration": 1.0, "timeout": 30.0}.items():
        parser.add_argument(f"--{name}", type=float, default=seconds)
    return parser.parse_args(arguments)


def main() -> None:
    o = parsed(sys.argv[1:])
    load = Load(o)
    idle, connects, fanout = (o.command == name for name in ("idle", "connect", "fanout"))
    if not connects:
        load.set_up(WARM if idle else len(load.clients))
    load.run_until(time.monotonic_ns() + int(SETTLE * 1e9))  # the broker may still have work of the set-up
    memory, cpu = broker_memory(load.pids), broker_cpu(load.pids)
    start, own = load.now, time.process_time()
    if idle:
        load.set_up(len(load.clients))
    else:
        load.run()
    seconds, own_cpu = (load.now - start) / 1e9, time.process_time() - own
    load.run_until(load.now + int((1.0 if idle else SETTLE) * 1e9))  # last acknowledgements are on the broker's bill
    expected = load.messages * (o.count if fanout else 1)
    wrong = load.duplicates or load.misordered or load.altered or load.deliveries != expected
    unfinished = load.ready < load.opened if connects else not load.all_arrived()
    answer = {
        "generator": "Python",
        "command": o.command,
        "version": o.version,
        "qos": o.qos,
        "count": o.count,
        "messages": load.messages,
        "expected": expected,
        "deliveries": load.deliveries,
        "duplicates": load.duplicates,
        "misordered": load.misordered,
        "altered": load.altered,
        "withheld": load.withheld,
        "cycles": load.cycles,
        "seconds": seconds,
        "own_cpu": own_cpu,
        "broker_cpu": broker_cpu(load.pids) - cpu,
        "p50": load.latencies.percentile(0.5),
        "p90": load.latencies.percentile(0.9),
        "p99": load.latencies.percentile(0.99),
        "max": load.latencies.slowest / 1e3,
        "memory_before": memory,
        "memory_after": broker_memory(load.pids),
    }
    print(json.dumps(answer))
    sys.exit(1 if wrong or unfinished else 0)


if __name__ == "__main__":
    main()

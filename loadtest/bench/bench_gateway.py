"""Idle connections, and echo p99 beside a fan-out: accessgw next to a C floor and stock Twisted.

usage: make bench-gateway [JSON=path] [SEED=n]      bounds itself: about two minutes
"""

from __future__ import annotations

import http.client
import json
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from loadtest.bench.report import Report, arguments
from loadtest.bench.servers import Floor, Gateway, Server, StockTwisted, Unavailable
from loadtest.bench.swarm import LENGTH, TOPIC

SERVERS: tuple[type[Server], ...] = (Floor, StockTwisted, Gateway)
PAYLOAD = 100  # bytes of one message
INTERVAL = 0.4  # seconds between fan-outs
SPARE_DESCRIPTORS = 200


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--idle", type=int, default=10_000, help="idle connections (as far as ulimit -n allows)")
    parser.add_argument("--group", type=int, default=5_000, help="receivers of the fan-out")
    parser.add_argument("--seconds", type=float, default=6.0, help="per server and round")
    parser.add_argument("--rounds", type=int, default=3, help="alternated rounds; medians are shown")
    options = parser.parse_args()
    say = Console(stderr=True)

    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    idle = min(options.idle, hard - SPARE_DESCRIPTORS)
    group = min(options.group, hard - SPARE_DESCRIPTORS)
    report = Report(f"{idle:,} idle connections; echo beside a fan-out of {PAYLOAD} B to {group:,} every {INTERVAL} s")
    limited = f"ulimit -n is {hard}" if idle < options.idle else ""

    for kind in SERVERS:
        say.print(f"idle: {kind.name} ...")
        try:
            with running(kind) as server:
                if isinstance(server, Gateway):
                    report.backends = server.backends()
                report.add("memory per idle connection", kind.name, memory_per_connection(server, idle), "B", limited)
        except Unavailable as why:
            report.add("memory per idle connection", kind.name, None, "B", str(why))

    measured: dict[tuple[str, str], list[float]] = {}
    skipped: dict[str, str] = {}
    for number in range(options.rounds):
        for kind in SERVERS:
            if kind.name in skipped:
                continue
            say.print(f"fan-out, round {number + 1} of {options.rounds}: {kind.name} ...")
            try:
                with running(kind) as server:
                    for case, value in fan_out(server, group, options.seconds).items():
                        measured.setdefault((case, kind.name), []).append(value)
            except Unavailable as why:
                skipped[kind.name] = str(why)
    units = {"echo p50": "us", "echo p99": "us", "CPU per delivery, echoes included": "us", "deliveries lost": "count"}
    for case, unit in units.items():
        for kind in SERVERS:
            values = measured.get((case, kind.name))
            note = skipped.get(kind.name, "a call of gw.time" if kind is Gateway and case.startswith("echo") else "")
            report.add(case, kind.name, statistics.median(values) if values else None, unit, note)
    report.relate(StockTwisted.name if Floor.name in skipped else Floor.name)
    report.print()
    if options.json:
        report.write(options.json)


@contextmanager
def running(kind: type[Server]) -> Iterator[Server]:
    """A fresh server, ended at exit."""
    with tempfile.TemporaryDirectory(prefix="accessgw-bench-") as directory:
        server = kind(Path(directory))
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def child(module: str, *args: object) -> Iterator[subprocess.Popen[str]]:
    """A load process that has said that it is ready; ended at exit."""
    command = [sys.executable, "-m", f"loadtest.bench.{module}", *map(str, args)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{module} did not get ready")
        yield process
    finally:
        process.kill()
        process.wait()


def asked(process: subprocess.Popen[str]) -> str:
    """One line for one line."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline()


def memory_per_connection(server: Server, count: int) -> float:
    before = server.memory()
    with child("swarm", server.wire, server.port, count, "idle"):
        return (server.memory() - before) / count


class Trigger:
    """Starts one fan-out, the way each server takes it."""

    def __init__(self, server: Server) -> None:
        self.control: http.client.HTTPConnection | None = None
        if isinstance(server, Gateway):
            self.control = http.client.HTTPConnection("127.0.0.1", server.control_port, timeout=10)
        else:
            self.sock = socket.create_connection(("127.0.0.1", server.port), 10)

    def fire(self) -> None:
        if self.control is None:
            self.sock.sendall(LENGTH.pack(PAYLOAD + 1) + b"F" + bytes(PAYLOAD))
            return
        push = {"to": {"topic": TOPIC}, "biz": "bench", "payload": "x" * (PAYLOAD - 2)}
        self.control.request(
            "POST", "/v1/push", json.dumps(push), {"Authorization": "Bearer bench", "Content-Type": "application/json"}
        )
        answer = self.control.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"push refused: {answer.status} {body!r}")


def fan_out(server: Server, group: int, seconds: float) -> dict[str, float]:
    """One round: round trips of a probe while the group receives."""
    with child("swarm", server.wire, server.port, group, "subscribe") as swarm:
        with child("probe", server.wire, server.port, seconds) as probe:
            trigger = Trigger(server)
            assert probe.stdin is not None
            assert probe.stdout is not None
            before, fired = server.cpu(), 0
            probe.stdin.write("\n")
            probe.stdin.flush()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                trigger.fire()
                fired += 1
                time.sleep(INTERVAL)
            trips = json.loads(probe.stdout.readline())
        deadline = time.monotonic() + 10
        while (received := int(asked(swarm))) < fired * group and time.monotonic() < deadline:
            time.sleep(0.05)
        cpu = server.cpu() - before
    percentiles = statistics.quantiles(trips, n=100)
    return {
        "echo p50": statistics.median(trips),
        "echo p99": percentiles[98],
        "CPU per delivery, echoes included": cpu / (fired * group) * 1e6,
        "deliveries lost": float(fired * group - received),
    }


if __name__ == "__main__":
    main()

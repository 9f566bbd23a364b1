"""TLS: CPU of hand-shakes beside nginx, lateness under a storm of them, memory of idle connections, bytes, records.

usage: make bench-tls [JSON=path] [SEED=n]      bounds itself: five to eight minutes
"""

from __future__ import annotations

import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from loadtest.bench import tls_handshakes, tls_records
from loadtest.bench.report import Report, arguments
from loadtest.bench.servers import Unavailable
from loadtest.bench.tls_clients import Order
from loadtest.bench.tls_processes import Kind, again, client, holding, server_of, settled
from loadtest.bench.tls_servers import (
    MUTUAL,
    P256,
    RSA_2048,
    Certificates,
    NativeTlsGateway,
    Nginx,
    StockTwistedTls,
    TlsGateway,
    TlsServer,
    make_certificates,
)
from loadtest.bench.tls_storm import bound_to, processors, storm

GATEWAYS: tuple[type[TlsGateway], ...] = (TlsGateway, NativeTlsGateway)
BESIDE: tuple[type[TlsServer], ...] = (Nginx, *GATEWAYS)
GET = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
FULL, FULL_RSA, FULL_MUTUAL = "full, P-256", "full, RSA-2048", "mutual, P-256"
RESUMED, EARLY = "resumed by an ordinary ticket", "0-RTT by an ordinary ticket: a GET"
DEVICE, DEVICE_EARLY = "full, P-256: HELLO answered", "0-RTT by a ticket of WELCOME: HELLO answered"
LIMITS = {
    (FULL, "pure"): 1.6,
    (FULL, "native"): 1.4,
    (FULL_MUTUAL, "pure"): 1.0,
    (FULL_MUTUAL, "native"): 1.0,
}
IDLE_LIMITS = {"pure": 6.0, "native": 4.0}  # KiB
TICKET_LIMIT = 17.0  # bytes
TICKET = "identity of a ticket in WELCOME"
OPENSSL_SHARE = 15
"""One hand-shake in so many, where each is a process."""
REGISTER_READY = 21.0
"""Seconds after its first start from which a gateway takes early data: twice tls.replay_window, and one more."""
WARM_UP = 2
"""Turns before those that count; after them there are tickets for all that are to resume."""
EARLY_ROUNDS = 3
MOST_FAILED = 0.02


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--handshakes", type=int, default=1_500, help="of each kind and server")
    parser.add_argument("--turns", type=int, default=25, help="that they are made in; medians are shown")
    parser.add_argument("--idle", type=int, default=3_000, help="idle connections (as far as ulimit -n allows)")
    parser.add_argument("--seconds", type=float, default=40.0, help="of the storm of hand-shakes")
    options = parser.parse_args()
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    bench = Bench(options.handshakes, options.turns, min(options.idle, hard - 200), options.seconds)
    with tempfile.TemporaryDirectory(prefix="bench-tls-") as directory:
        bench.run(Path(directory))
    bench.report.print()
    if options.json:
        bench.report.write(options.json)


class Bench:
    """One run."""

    def __init__(self, handshakes: int, turns: int, idle: int, seconds: float) -> None:
        self.handshakes, self.turns, self.idle, self.seconds = handshakes, turns, idle, seconds
        self.report = Report("TLS")
        self.console = Console(stderr=True)
        self.missing: dict[str, str] = {}
        self.measured: dict[tuple[str, str], list[float]] = {}
        """By case and server: microseconds of a connection, one figure for each turn."""
        self.notes: dict[tuple[str, str], str] = {}
        """Why there is no such figure."""
        self.bytes = Report("bytes")
        """Rows that are told last."""

    def run(self, directory: Path) -> None:
        certificates = make_certificates(directory)
        self.cpu(directory, certificates)
        self.idle_connections(directory, certificates)
        for kind in GATEWAYS:
            if kind.name not in self.missing:
                self.storm(kind, directory, certificates)
        self.engines()

    def storm(self, kind: type[TlsGateway], directory: Path, certificates: Certificates) -> None:
        self.say(f"storm of {self.seconds:.0f} s: {kind.name}")
        ours, theirs = processors()
        with ExitStack() as running:
            with bound_to(ours):
                server = running.enter_context(server_of(kind, directory, certificates))
            with bound_to(theirs):
                storm(self.report, server, self.seconds)

    def say(self, what: str) -> None:
        self.console.print(f"{what} ...")

    # ------------------------------------------------------------------ hand-shakes of running servers

    def cpu(self, directory: Path, certificates: Certificates) -> None:
        """Microseconds of a server's CPU per connection: accepted, hand-shaken, closed in order. Servers on one processor,
        clients on the others."""
        device = {"chain": str(certificates.chain("device")), "key": str(certificates.key("device"))}
        cases: dict[str, tuple[str, dict[str, Any]]] = {
            FULL: (P256, {}),
            FULL_RSA: (RSA_2048, {}),
            FULL_MUTUAL: (MUTUAL, device),
            RESUMED: (P256, {"resume": True}),
            DEVICE: (P256, {"device": True, "alpn": "mmtp/1"}),
            DEVICE_EARLY: (P256, {"device": True, "alpn": "mmtp/1", "resume": True}),
        }
        measured, notes = self.measured, self.notes
        ours, theirs = processors()
        with ExitStack() as running:
            with bound_to(ours):
                servers = [
                    server for kind in BESIDE if (server := self.started(running, kind, directory, certificates))
                ]
            running.enter_context(bound_to(theirs))
            for server in servers:
                if isinstance(server, TlsGateway):
                    self.report.backends |= {f"{server.name}: {k}": v for k, v in server.backends().items()}
                elif isinstance(server, Nginx):
                    self.report.backends["nginx"] = server.version()
            time.sleep(REGISTER_READY)
            for case, (port, more) in cases.items():
                asked = [server for server in servers if not (more.get("device") and isinstance(server, Nginx))]
                self.by_turns(case, asked, port, more)
            for number in range(EARLY_ROUNDS):
                self.say(f"{EARLY}: {number + 1} of {EARLY_ROUNDS}")
                for server in servers:
                    spent, trouble = self.early(server, directory)
                    if trouble:
                        notes[EARLY, server.name] = trouble
                    else:
                        measured.setdefault((EARLY, server.name), []).append(spent)
        for case in (*cases, EARLY):
            for kind in BESIDE:
                key = case, kind.name
                if kind is Nginx and case in (DEVICE, DEVICE_EARLY):
                    continue
                value = statistics.median(measured[key]) if key in measured and key not in notes else None
                note = notes.get(key) or self.missing.get(kind.name, "")
                note = note if value is None else f"{1e6 / value:,.0f} per CPU second"
                self.report.add(f"hand-shake, {case}", kind.name, value, "us", note)
        self.report.relate(Nginx.name)
        for row in self.report.rows:
            # Each turn beside its neighbour: the machine is not as fast in one minute as in the next.
            case = row.case.removeprefix("hand-shake, ")
            pairs = zip(measured.get((case, row.who), ()), measured.get((case, Nginx.name), ()), strict=False)
            if row.ratio is not None:
                row.ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        for (case, who), limit in LIMITS.items():
            self.report.judge(f"hand-shake, {case}", who, limit)

    def by_turns(self, case: str, servers: list[TlsServer], port: str, more: dict[str, Any]) -> None:
        """The servers in turns, a fraction of a second each, so that whatever else the machine does meets them all."""
        orders = {server: Order(server.ports[port], count=self.handshakes // self.turns, **more) for server in servers}
        clients = {server: client(order) for server, order in orders.items()}
        for turn in range(-WARM_UP, self.turns):
            if turn % 10 == 0:
                self.say(f"{case}: turn {turn} of {self.turns}")
            for server, process in clients.items():
                key = case, server.name
                if key in self.notes:
                    continue
                before = server.cpu_of_all()
                tally = again(process)
                spent = server.cpu_of_all() - before
                if turn < 0:
                    continue
                trouble = what_is_wrong(orders[server], tally, orders[server].count)
                if trouble:
                    self.notes[key] = trouble
                    continue
                self.measured.setdefault(key, []).append(spent / tally["done"] * 1e6)
                self.flights(case, server.name, tally)
        for process in clients.values():
            process.communicate()

    def early(self, server: TlsServer, directory: Path) -> tuple[float, str]:
        """The same of `openssl s_client -early_data`, a process each; and what was wrong."""
        request, session = directory / "request", directory / "session"
        request.write_text(GET)
        program = shutil.which("openssl")
        if program is None:
            return 0.0, "skipped: no openssl"
        command = [program, "s_client", "-connect", f"127.0.0.1:{server.ports[P256]}", "-alpn", "http/1.1", "-ign_eof",
                   "-sess_out", session]  # fmt: skip
        subprocess.run(command, input=request.read_bytes(), capture_output=True, check=False)
        taken = 0
        count = max(10, self.handshakes // OPENSSL_SHARE)
        before = server.cpu_of_all()
        for _ in range(count):
            done = subprocess.run(
                [*command, "-sess_in", session, "-early_data", request], input=b"", capture_output=True, check=False
            )
            taken += b"Early data was accepted" in done.stdout and b"HTTP/1.1 " in done.stdout
        spent = (server.cpu_of_all() - before) / count * 1e6
        return spent, "" if taken >= 0.9 * count else f"early data not taken: {count - taken} of {count}"

    def flights(self, case: str, who: str, tally: dict[str, Any]) -> None:
        if tally["ticket"] and not any(row.case == TICKET for row in self.bytes.rows):
            self.bytes.add(TICKET, who, tally["ticket"], "bytes")
            self.bytes.judge(TICKET, who, TICKET_LIMIT, "value")
        for way in ("up", "down"):
            named = f"first flight {way}, {case}"
            if not any((row.case, row.who) == (named, who) for row in self.bytes.rows):
                self.bytes.add(named, who, tally[f"first_{way}"], "bytes")

    def started(self, running: ExitStack, kind: type[Kind], directory: Path, certificates: Certificates) -> Kind | None:
        self.say(f"starting {kind.name}")
        try:
            return running.enter_context(server_of(kind, directory, certificates))
        except Unavailable as why:
            self.missing[kind.name] = str(why)
            self.console.print(f"{kind.name}: {why}")
            return None

    # ------------------------------------------------------------------ memory

    def idle_connections(self, directory: Path, certificates: Certificates) -> None:
        """Resident KiB per connection that has made its hand-shake and says nothing."""
        case = "idle TLS connection"
        for kind in (StockTwistedTls, *GATEWAYS):
            if kind.name in self.missing:
                self.report.add(case, kind.name, None, "KiB", self.missing[kind.name])
                continue
            self.say(f"{self.idle:,} idle connections: {kind.name}")
            with ExitStack() as running:
                server = self.started(running, kind, directory, certificates)
                if server is None:
                    self.report.add(case, kind.name, None, "KiB", self.missing[kind.name])
                    continue
                # Before the measurement the first ones: tables, threads and caches are no cost of a connection.
                order = {"port": server.ports[P256], "alpn": "" if kind is StockTwistedTls else "mmtp/1"}
                with holding(Order(hold=100, **order)):
                    settled(server)
                    before = server.memory()
                    with holding(Order(hold=self.idle, **order)):
                        settled(server)
                        each = (server.memory() - before) / self.idle / 1024
            self.report.add(case, kind.name, each, "KiB", f"{self.idle:,} of them")
        for who, limit in IDLE_LIMITS.items():
            self.report.judge(case, who, limit, "value")

    # ------------------------------------------------------------------ in memory

    def engines(self) -> None:
        """The engines alone, without sockets, and the record layer."""
        self.report.rows += self.bytes.rows
        self.say("the engine alone")
        self.report.rows += tls_handshakes.rows()
        self.say("records")
        self.report.rows += tls_records.record_rows((0x1301,))
        self.report.rows += tls_records.weight_rows(self.idle)


def what_is_wrong(order: Order, tally: dict[str, Any], asked: int) -> str:
    """Why the figure would not be what it says; empty when nothing is."""
    failed = tally["failed"]
    if len(failed) > asked * MOST_FAILED:
        return f"failed: {failed[0]}"
    if order.resume and tally["resumed"] < 0.9 * tally["done"]:
        return f"not resumed: {tally['done'] - tally['resumed']} of {tally['done']}"
    if order.device and order.resume and tally["early"] < 0.9 * tally["done"]:
        return f"early data not taken: {tally['done'] - tally['early']} of {tally['done']}"
    if order.device and tally["answered"] < 0.9 * tally["done"]:
        return f"not answered: {tally['done'] - tally['answered']} of {tally['done']}"
    return ""


if __name__ == "__main__":
    main()

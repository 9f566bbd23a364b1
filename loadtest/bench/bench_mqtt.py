"""MQTT: fan-out, pairs, connects and idle connections on accessgw, mosquitto and amqtt.

usage: make bench-mqtt [JSON=path] [SEED=n]      bounds itself: about ten minutes; --quick: one
       python -m loadtest.bench.bench_mqtt [--quick] [--only CASE,...] [--servers NAME,...] [--rounds N] [--seconds S]

Each case starts its brokers and measures them in turn, several times; medians are shown, their range in the note. CPU
is user and system time of the broker's process, from /proc. The load comes from mqtt_load.c where there is gcc, from
its twin mqtt_load.py otherwise. Exit status 1: accessgw or mosquitto lost, doubled or reordered a message, or failed.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest.bench.mqtt_servers import PASSWORD, USER, Amqtt, Mosquitto, MqttGateway, MqttServer, Setup
from loadtest.bench.report import Report, arguments
from loadtest.bench.servers import TICK, Gateway, Unavailable

SERVERS: tuple[type[MqttServer], ...] = (Mosquitto, MqttGateway, Amqtt)
SPARE_DESCRIPTORS = 500
BUSY = 0.9  # share of a core past which the load generator may be what was measured
CROWDED = 0.2  # share of a core past which other processes of the machine are told of
NOT_DURABLE = "not durable per message: saved once a second"
NO_PASSWORD = "password not checked (PBKDF2 would outweigh the rest)"


@dataclass(frozen=True)
class Case:
    """One load, and what is told of it."""

    name: str
    title: str
    command: str
    load: Mapping[str, float]
    setup: Setup = field(default_factory=Setup)
    per: str = "delivery"
    latency: bool = False
    limit: float | None = None
    quick: bool = False
    amqtt: bool = False
    notes: Mapping[str, str] = field(default_factory=dict)


RULES, DURABLE = Setup(acl=True), Setup(acl=True, durable=True)
FAN_NOTES = {Mosquitto.name: "without ACL", MqttGateway.name: "ACL on"}
PAIR_NOTES = {Mosquitto.name: "ACL on", MqttGateway.name: "ACL on"}
DURABLE_NOTES = {Mosquitto.name: NOT_DURABLE, MqttGateway.name: "committed before it is acknowledged"}
CONNECT_NOTES = {Mosquitto.name: NO_PASSWORD, MqttGateway.name: "static token"}

CASES = (
    Case("fanout-q0", "fan-out 1,000, QoS 0, 1 in flight", "fanout", {"count": 1000}, latency=True, limit=1.0,
         quick=True, amqtt=True, notes=FAN_NOTES),
    Case("fanout-q0-10", "fan-out 1,000, QoS 0, 10 in flight", "fanout", {"count": 1000, "inflight": 10},
         latency=True, limit=1.0, quick=True, amqtt=True, notes=FAN_NOTES),
    Case("fanout-q1", "fan-out 1,000, QoS 1, 1 in flight", "fanout", {"count": 1000, "qos": 1}, latency=True,
         limit=1.0, quick=True, amqtt=True, notes=FAN_NOTES),
    Case("fanout-q1-10", "fan-out 1,000, QoS 1, 10 in flight", "fanout", {"count": 1000, "qos": 1, "inflight": 10},
         latency=True, limit=1.0, notes=FAN_NOTES),
    Case("fanout-5000", "fan-out 5,000, QoS 0, 1 in flight", "fanout", {"count": 5000}, latency=True, limit=1.0,
         notes=FAN_NOTES),
    Case("fanout-rate", "fan-out 1,000, QoS 0, 5 messages/s", "fanout", {"count": 1000, "rate": 5, "inflight": 10},
         latency=True, notes=FAN_NOTES),
    Case("pairs-q0", "1,000 pairs, QoS 0", "pairs", {"count": 1000}, RULES, per="message", quick=True,
         notes=PAIR_NOTES),
    Case("pairs-q1", "1,000 pairs, QoS 1", "pairs", {"count": 1000, "qos": 1}, RULES, per="message", limit=1.6,
         quick=True, notes=PAIR_NOTES),
    Case("pairs-q1-v5", "1,000 pairs, QoS 1, MQTT 5", "pairs", {"count": 1000, "qos": 1, "version": 5}, RULES,
         per="message", limit=1.6, notes=PAIR_NOTES),
    Case("pairs-q1-100", "100 pairs, QoS 1", "pairs", {"count": 100, "qos": 1}, RULES, per="message", limit=1.6,
         amqtt=True, notes=PAIR_NOTES),
    Case("pairs-q2", "200 pairs, QoS 2", "pairs", {"count": 200, "qos": 2}, RULES, per="message", notes=PAIR_NOTES),
    Case("rate-q0", "200 pairs, QoS 0, 2,000 messages/s", "pairs", {"count": 200, "rate": 2000, "inflight": 16}, RULES,
         per="message", latency=True, notes=PAIR_NOTES),
    Case("rate-q1", "200 pairs, QoS 1, 2,000 messages/s", "pairs",
         {"count": 200, "qos": 1, "rate": 2000, "inflight": 16}, RULES, per="message", latency=True, notes=PAIR_NOTES),
    Case("durable-q1", "200 pairs, QoS 1, persistent", "pairs", {"count": 200, "qos": 1, "clean": 0}, DURABLE,
         per="message", quick=True, notes=DURABLE_NOTES),
    Case("durable-q2", "200 pairs, QoS 2, persistent", "pairs", {"count": 200, "qos": 2, "clean": 0}, DURABLE,
         per="message", notes=DURABLE_NOTES),
    Case("durable-rate-q1", "200 pairs, QoS 1, persistent, 1,000 messages/s", "pairs",
         {"count": 200, "qos": 1, "clean": 0, "rate": 1000, "inflight": 16}, DURABLE, per="message", latency=True,
         notes=DURABLE_NOTES),
    Case("connect-4", "connect, MQTT 3.1.1", "connect", {"version": 4}, RULES, per="cycle", limit=2.0,
         quick=True, amqtt=True, notes=CONNECT_NOTES),
    Case("connect-5", "connect, MQTT 5", "connect", {"version": 5}, RULES, per="cycle", limit=2.0,
         quick=True, notes=CONNECT_NOTES),
    Case("idle", "memory per idle connection", "idle", {"count": 10_000}, RULES, limit=3000, quick=True,
         amqtt=True),
    Case("idle-subscribed", "memory per idle connection, subscribed", "idle",
         {"count": 10_000, "subscribe": 1}, RULES),
)  # fmt: skip


class LoadFailed(Exception):
    """The generator gave up, or messages were lost, doubled, reordered or altered."""


def main() -> None:
    options = parsed()
    # A bench that is told to end takes its brokers with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rounds = options.rounds or (1 if options.quick else 3)
    seconds = options.seconds or (0.5 if options.quick else 1.5)
    cases = chosen(options)
    chance = random.Random(options.seed)
    say = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=say
    )
    with tempfile.TemporaryDirectory(prefix="accessgw-bench-") as directory, progress:
        load, language = generator(Path(directory))
        report = Report(
            f"MQTT brokers on one machine; {rounds} alternated rounds of {seconds:g} s, load from {language}"
        )
        bar = progress.add_task("", total=len(cases) * rounds)
        failures = 0
        for case in cases:
            kinds = [kind for kind in SERVERS if takes_part(kind, case, options)]
            bench = Bench(case, kinds, load, language=language, quick=options.quick, descriptors=hard)
            for number in bench.rounds(rounds, seconds, chance):
                progress.update(bar, description=f"{case.name}, round {number + 1}", advance=1)
            bench.tell(report)
            failures += bench.failures
            report.backends.update(bench.backends)
        progress.update(bar, description="done", completed=len(cases) * rounds)
    peers = ", ".join(report.backends[name] for name in options.servers if name in report.backends)
    report.title += f"; beside {peers}" if peers else ""
    report.relate(Mosquitto.name)
    for case in cases:
        if case.limit is not None and MqttGateway.name in options.servers:
            of = "value" if case.command == "idle" else "ratio"
            report.judge(Bench.main_row(case), MqttGateway.name, case.limit, of)
    report.print()
    if options.json:
        report.write(options.json)
    sys.exit(1 if failures else 0)


def parsed() -> Any:
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under a minute: fewer cases, one short round")
    parser.add_argument("--only", default="", metavar="CASE,...", help=", ".join(case.name for case in CASES))
    parser.add_argument("--servers", default="", metavar="NAME,...", help=", ".join(kind.name for kind in SERVERS))
    parser.add_argument("--rounds", type=int, default=0, help="alternated rounds")
    parser.add_argument("--seconds", type=float, default=0.0, help="per broker and round")
    options = parser.parse_args()
    known = [kind.name for kind in SERVERS]
    everyone = known[:2] if options.quick else known  # amqtt alone would take half of the minute
    options.servers = options.servers.split(",") if options.servers else everyone
    for given, possible in ((options.servers, known), (options.only.split(","), [case.name for case in CASES])):
        wrong = [name for name in given if name and name not in possible]
        if wrong:
            parser.error(f"{wrong[0]!r}: expected one of {', '.join(possible)}")
    return options


def chosen(options: Any) -> list[Case]:
    if options.only:
        return [case for case in CASES if case.name in options.only.split(",")]
    return [case for case in CASES if case.quick or not options.quick]


def takes_part(kind: type[MqttServer], case: Case, options: Any) -> bool:
    return kind.name in options.servers and (kind is not Amqtt or case.amqtt)


def generator(directory: Path) -> tuple[list[str], str]:
    """The command of the load generator, and the language that it is written in."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return [sys.executable, "-m", "loadtest.bench.mqtt_load"], "Python, no gcc"
    program = directory / "mqtt_load"
    subprocess.run([compiler, "-O2", "-o", program, Path(__file__).with_name("mqtt_load.c")], check=True)
    return [str(program)], "C"


@contextmanager
def running(kind: type[MqttServer], setup: Setup) -> Iterator[MqttServer]:
    """A fresh broker, ended at exit."""
    with tempfile.TemporaryDirectory(prefix="accessgw-bench-") as directory:
        server = kind(Path(directory), setup)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def generated(load: Sequence[str], command: str, server: MqttServer, options: Mapping[str, object]) -> dict[str, Any]:
    """One run of the generator; raises LoadFailed."""
    given = {"port": server.port, "user": USER, "password": PASSWORD, "pids": ",".join(map(str, server.pids()))}
    words = [str(word) for name, value in {**given, **options}.items() for word in (f"--{name}", value)]
    try:
        done = subprocess.run([*load, command, *words], check=False, capture_output=True, text=True, timeout=180)
    except subprocess.TimeoutExpired:
        raise LoadFailed("no end within 180 s") from None
    if not done.stdout:
        raise LoadFailed((done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1])
    answer: dict[str, Any] = json.loads(done.stdout)
    if done.returncode:
        wrong = ("expected", "deliveries", "duplicates", "misordered", "altered")
        raise LoadFailed("wrong deliveries: " + ", ".join(f"{answer[key]} {key}" for key in wrong))
    return answer


class Others:
    """CPU that neither a broker nor its load took: of everything else on the machine."""

    def __init__(self, server: MqttServer) -> None:
        self.server = server
        self.began, self.seconds = time.monotonic(), self._seconds()

    def share(self) -> float:
        """In cores, since the beginning."""
        return (self._seconds() - self.seconds) / (time.monotonic() - self.began)

    def _seconds(self) -> float:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(
            int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        )
        ours = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return (user + nice + system + irq + softirq + steal) / TICK - ours - self.server.cpu()


class Bench:
    """One case on its brokers."""

    def __init__(
        self,
        case: Case,
        kinds: list[type[MqttServer]],
        load: list[str],
        *,
        language: str,
        quick: bool,
        descriptors: int,
    ) -> None:
        self.case, self.kinds, self.load, self.language = case, kinds, load, language
        self.answers: dict[str, list[dict[str, Any]]] = {kind.name: [] for kind in kinds}
        self.wrong: dict[str, str] = {}
        self.others = 0.0
        self.backends: dict[str, str] = {}
        self.failures = 0
        self.options = dict(case.load)
        self.limited = ""
        if case.command == "idle":
            wanted = 2000 if quick else self.options["count"]
            self.options["count"] = min(wanted, descriptors - SPARE_DESCRIPTORS)
            if self.options["count"] < wanted:
                self.limited = f"ulimit -n is {descriptors}"

    def rounds(self, count: int, seconds: float, chance: random.Random) -> Iterator[int]:
        """Measure; the brokers of a case live through all its rounds, and each waits while another is measured."""
        with ExitStack() as stack:
            servers: dict[type[MqttServer], MqttServer] = {}
            for kind in self.kinds:
                try:
                    server = servers[kind] = stack.enter_context(running(kind, self.case.setup))
                    self.backends |= server.backends() if isinstance(server, Gateway) else {kind.name: server.version()}
                except Unavailable as why:
                    self.wrong[kind.name] = str(why)
                    self.failures += kind is not Amqtt and not str(why).startswith("skipped")
            for number in range(1 if self.case.command == "idle" else count):
                for kind, server in servers.items():
                    # amqtt is there for orientation: one round. Memory is only fresh in the first round.
                    if kind.name not in self.wrong and (number == 0 or kind is not Amqtt):
                        self.measure(server, number, seconds, chance)
                yield number

    def measure(self, server: MqttServer, number: int, seconds: float, chance: random.Random) -> None:
        # Sessions of an earlier round may still be there: clients of each round have names of their own.
        prefix = f"r{number}-{chance.randrange(1 << 32):08x}"
        if "rate" in self.options:
            seconds *= 2  # few messages cost few ticks of the kernel's clock, 10 ms each
        options: dict[str, Any] = {**self.options, "prefix": prefix, "duration": seconds}
        if isinstance(server, Amqtt) and self.case.command == "idle":
            options["count"] = min(options["count"], 1000)
        others = Others(server)
        try:
            self.answers[server.name].append(generated(self.load, self.case.command, server, options))
        except LoadFailed as why:
            self.wrong[server.name] = f"FAILED: {why}"
            self.failures += not isinstance(server, Amqtt)
        self.others = max(self.others, others.share())

    @staticmethod
    def main_row(case: Case) -> str:
        return case.title if case.command == "idle" else f"{case.title}: CPU per {case.per}"

    def tell(self, report: Report) -> None:
        case = self.case
        if case.command == "idle":
            self._row(report, self.main_row(case), "B", lambda a: (a["memory_after"] - a["memory_before"]) / a["count"])
            return
        self._row(report, self.main_row(case), "us", lambda a: a["broker_cpu"] / handled(a) * 1e6)
        if "rate" not in case.load:
            unit = "1/s"
            plural = {"delivery": "deliveries", "message": "messages", "cycle": "cycles"}[case.per]
            self._row(
                report, f"{case.title}: {plural} per second", unit, lambda a: handled(a) / a["seconds"], bare=True
            )
        if case.latency:
            self._row(report, f"{case.title}: p50", "us", lambda a: a["p50"], bare=True)
            self._row(report, f"{case.title}: p99", "us", lambda a: a["p99"], bare=True)
        self._tell_load(report)

    def _row(self, report: Report, title: str, unit: str, value: Any, bare: bool = False) -> None:
        for kind in self.kinds:
            values = [value(answer) for answer in self.answers[kind.name]]
            notes = [] if bare else [self.case.notes.get(kind.name, ""), self.limited]
            if kind.name in self.wrong:
                values, notes = [], [] if bare else [self.wrong[kind.name]]
            elif len(values) > 1:
                notes.append(f"{min(values):,.2f} to {max(values):,.2f}")
            elif kind is Amqtt and self.case.command == "idle" and values:
                notes.append(f"{self.answers[kind.name][0]['count']:,} connections")
            note = "; ".join(filter(None, notes))
            report.add(title, kind.name, statistics.median(values) if values else None, unit, note)

    def _tell_load(self, report: Report) -> None:
        """The generator's own share of a core, so that a reader sees when it was the limit."""
        shares = {
            name: (
                statistics.median(answer["own_cpu"] / answer["seconds"] for answer in answers),
                statistics.median(answer["broker_cpu"] / answer["seconds"] for answer in answers),
            )
            for name, answers in self.answers.items()
            if answers
        }
        if not shares:
            return
        notes = [f"{name}: {own:.0%} of a core, broker {broker:.0%}" for name, (own, broker) in shares.items()]
        notes += [f"the load may be the limit of {name}" for name, (own, broker) in shares.items() if own > BUSY]
        withheld = {name: sum(a["withheld"] for a in answers) for name, answers in self.answers.items()}
        notes += [f"{name} lagged: {count} messages withheld" for name, count in withheld.items() if count]
        if self.others > CROWDED:
            notes.append(f"other processes took up to {self.others:.0%} of a core: read the ratios with care")
        highest = max(own for own, _broker in shares.values())
        report.add(f"{self.case.title}: load's CPU", f"load ({self.language})", highest * 100, "%", "; ".join(notes))


def handled(answer: Mapping[str, Any]) -> int:
    """Deliveries, or whole connects; 1 where there was none, so that the row shows what nothing cost."""
    count: int = answer["cycles"] if answer["command"] == "connect" else answer["deliveries"]
    return max(count, 1)


if __name__ == "__main__":
    main()

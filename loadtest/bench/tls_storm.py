"""How late the reactor is, and how long a call takes, while hand-shakes saturate a gateway: the storm of bench_tls."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from loadtest.bench.report import Report
from loadtest.bench.tls_clients import Order
from loadtest.bench.tls_processes import client, finished, go
from loadtest.bench.tls_servers import P256, TlsGateway

STORM_CLIENTS = 2
WARM_UP = 1.0  # seconds
CALLING = 15.0  # seconds
LATENESS_LIMIT = 2.0  # ms
LATE, IN_TIME = "reactor late under a storm", f"looks at most {LATENESS_LIMIT:g} ms late"


def storm(report: Report, server: TlsGateway, seconds: float) -> None:
    """Adds the rows of one gateway, which has just started: its lateness while nobody else wants the processors, then for
    CALLING seconds the round trips of calls. Their client only sleeps between them, and says by how much it overslept:
    what the machine itself is late by, when one process more than it has processors is at work."""
    quiet, _ = echoes(server, 3.0)
    order = Order(server.ports[P256], seconds=WARM_UP + seconds + CALLING + WARM_UP, width=64, idle=True)
    clients = [client(order) for _ in range(STORM_CLIENTS)]
    cpu = server.cpu_of_all()
    for process in clients:
        go(process)
    time.sleep(WARM_UP)
    before = lateness(server)
    time.sleep(seconds)
    after = lateness(server)
    loud, asleep = echoes(server, CALLING)
    tallies = [finished(process) for process in clients]
    cpu = server.cpu_of_all() - cpu
    made = sum(tally["done"] for tally in tallies)
    note = f"{made / order.seconds:,.0f} hand-shakes/s, {cpu / order.seconds * 100:.0f} % of a core"
    looks = {bound: after[bound] - before.get(bound, 0.0) for bound in after}
    who, total = server.name, max(looks.values())
    report.add(f"{LATE}, p50", who, quantile(looks, 0.5), "ms", "bucket's upper end")
    report.add(f"{LATE}, p99", who, quantile(looks, 0.99), "ms", note)
    report.judge(f"{LATE}, p99", who, LATENESS_LIMIT, "value")
    report.add(IN_TIME, who, looks[LATENESS_LIMIT] / total * 100 if total else None, "%", f"of {total:.0f}")
    bare = sum(one <= LATENESS_LIMIT * 1e3 for one in asleep) / len(asleep) * 100
    report.add(IN_TIME, f"bare process beside {who}", bare, "%", f"of {len(asleep):,}")
    report.add(f"{LATE}, p99", f"bare process beside {who}", ranked(asleep, 0.99) / 1e3, "ms", "with the calls")
    for name, trips in (("quiet", quiet), ("under a storm", loud)):
        report.add(f"call of gw.time, {name}, p50", who, ranked(trips, 0.5) / 1e3, "ms")
        report.add(f"call of gw.time, {name}, p99", who, ranked(trips, 0.99) / 1e3, "ms")


def processors() -> tuple[set[int], set[int]]:
    """For the gateway and for its clients. Where they share one, the scheduler gives the clients slices of 3 to 4 ms
    there, however idle their class: as clients on other machines never get them."""
    first, *others = sorted(os.sched_getaffinity(0))
    return ({first}, set(others)) if others else ({first}, {first})


@contextmanager
def bound_to(numbers: set[int]) -> Iterator[None]:
    """Processes that are started here run on these processors, and so does this one meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, numbers)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def ranked(figures: Sequence[float], share: float) -> float:
    return sorted(figures)[int(len(figures) * share)]


def echoes(server: TlsGateway, seconds: float) -> tuple[list[float], list[float]]:
    """Microseconds of calls of gw.time on a standing connection without TLS, and by how much pauses were too long."""
    command = [sys.executable, "-m", "loadtest.bench.probe", "mmtp", str(server.port), str(seconds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    said, _ = process.communicate("\n")
    trips, late = json.loads(said)
    return trips, late


def lateness(server: TlsGateway) -> dict[float, float]:
    """Upper bound in ms -> how many looks found the reactor no later, as its metrics say."""
    control = http.client.HTTPConnection("127.0.0.1", server.control_port, timeout=30)
    control.request("GET", "/metrics", headers={"Authorization": "Bearer bench"})
    text = control.getresponse().read().decode()
    control.close()
    found = {}
    for line in text.splitlines():
        if line.startswith("accessgw_reactor_lateness_seconds_bucket{"):
            bound = line.partition('le="')[2].partition('"')[0]
            found[float(bound.replace("+Inf", "inf")) * 1e3] = float(line.rpartition(" ")[2])
    return found


def quantile(looks: dict[float, float], share: float) -> float | None:
    """The bucket's upper bound below which this share of the looks lies."""
    total = max(looks.values(), default=0.0)
    reached: Callable[[float], bool] = lambda bound: looks[bound] >= share * total  # noqa: E731  # a name for the test
    return next((bound for bound in sorted(looks) if reached(bound)), None) if total else None

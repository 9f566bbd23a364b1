"""Durable appends per second and their delay, next to fdatasync of the same disk in the same run.

usage: make bench-store [JSON=path] [SEED=n]      bounds itself: about 30 seconds

The store is measured in a process of its own (`python -m accessgw.stores.probe`), as it is and with 2 and
10 ms added to every commit; once with many appends waiting, once with each waiting for the one before it. Then the same
for messages of MQTT, each published to one session and acknowledged, on this disk as it is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from rich.console import Console

from loadtest.bench.report import Report, arguments

DELAYS = (0.0, 2.0, 10.0)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--folder", default=".", help="on the disk to measure")
    parser.add_argument("--seconds", type=float, default=2.0, help="per measurement")
    parser.add_argument("--waiting", type=int, default=256, help="appends waiting at any time")
    parser.add_argument("--fsync-ms", type=float, action="append", help="added to every commit; repeat for several")
    options = parser.parse_args()
    say = Console(stderr=True)

    report = Report(
        "Durable appends and MQTT messages (50-600 B) to 10,000 streams or sessions, SQLite with group commit"
    )
    report.backends["store"] = "SQLite, write-ahead log, synchronous = FULL, one writer thread"
    many, single = f"{options.waiting} waiting", "one at a time"
    cases = [("appends", delay) for delay in options.fsync_ms or DELAYS] + [("mqtt", 0.0)]
    for what, delay in cases:
        name = {"appends": "appends", "mqtt": "mqtt publish"}[what]
        case = f"{delay:g} ms added to commits" if delay else "this disk"
        for who, waiting in ((many, options.waiting), (single, 1)):
            say.print(f"{name}, {case}, {who} ...")
            found = probe(what, options, waiting, delay)
            note = f"{found['puts_per_commit']:.0f} writes per commit of {found['commit_mean_ms']:.1f} ms"
            report.add(f"{name}, {case}", who, found["puts_per_second"], "puts/s", note)
            report.add(f"{name} p50, {case}", who, found["p50_ms"], "ms")
            report.add(f"{name} p99, {case}", who, found["p99_ms"], "ms")
            if who == single:
                for quantile in ("p50", "p99"):
                    synced = found[f"fdatasync_{quantile}_ms"]
                    report.add(
                        f"{name} {quantile}, {case}", "fdatasync of 4 KiB", synced, "ms", "without what was added"
                    )
    report.relate(single)
    report.print()
    if options.json:
        report.write(options.json)


def probe(what: str, options: argparse.Namespace, waiting: int, delay: float) -> dict[str, float]:
    command = [sys.executable, "-m", "accessgw.stores.probe", options.folder, "--what", what]
    command += ["--seconds", str(options.seconds), "--waiting", str(waiting)]
    command += ["--delay-ms", str(delay), "--seed", str(options.seed)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


if __name__ == "__main__":
    main()

"""Durable appends per second and their delay, next to fdatasync of the same disk in the same run.

usage: make bench-store [JSON=path] [SEED=n]      bounds itself: about 20 seconds

The store is measured in a process of its own (`python -m accessgw.stores.probe`), as it is and with 2 and
10 ms added to every commit; once with many appends waiting, once with each waiting for the one before it.
"""

from __future__ import annotations

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

    report = Report("Durable appends (50-600 B) to 10,000 device streams, SQLite with group commit")
    report.backends["store"] = "SQLite, write-ahead log, synchronous = FULL, one writer thread"
    many, single = f"{options.waiting} waiting", "one at a time"
    for delay in options.fsync_ms or DELAYS:
        case = f"{delay:g} ms added to commits" if delay else "this disk"
        for who, waiting in ((many, options.waiting), (single, 1)):
            say.print(f"{case}, {who} ...")
            found = probe(options.folder, options.seconds, waiting, delay, options.seed)
            note = f"{found['puts_per_commit']:.0f} puts per commit of {found['commit_mean_ms']:.1f} ms"
            report.add(f"appends, {case}", who, found["puts_per_second"], "puts/s", note)
            report.add(f"p50, {case}", who, found["p50_ms"], "ms")
            report.add(f"p99, {case}", who, found["p99_ms"], "ms")
            if who == single:
                report.add(
                    f"p50, {case}", "fdatasync of 4 KiB", found["fdatasync_p50_ms"], "ms", "without what was added"
                )
                report.add(
                    f"p99, {case}", "fdatasync of 4 KiB", found["fdatasync_p99_ms"], "ms", "without what was added"
                )
    report.relate(single)
    report.print()
    if options.json:
        report.write(options.json)


def probe(folder: str, seconds: float, waiting: int, delay: float, seed: int) -> dict[str, float]:
    command = [sys.executable, "-m", "accessgw.stores.probe", folder, "--seconds", str(seconds)]
    command += ["--waiting", str(waiting), "--delay-ms", str(delay), "--seed", str(seed)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


if __name__ == "__main__":
    main()

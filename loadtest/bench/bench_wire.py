"""Bytes on the wire: the same mobile sessions by MMTP and by real libraries of other protocols, and CPU per message.

usage: make bench-wire [JSON=path] [SEED=n]        bounds itself: about 20 seconds, and a minute more for the dictionaries of a seed, once
       python -m loadtest.bench.bench_wire --docs docs/ops      writes wire-bytes.md and wire-bytes.svg there

No sockets and no TLS. docs/ops/wire-bytes.md says what is compared.
"""

from __future__ import annotations

from pathlib import Path

from loadtest.bench.report import Report, arguments
from loadtest.corpus.controls import SESSIONS, outside
from loadtest.wire.dictionaries import USERS_SAMPLED
from loadtest.wire.measure import BEST, LIMITS, Figures, measure
from loadtest.wire.page import chart, page
from loadtest.wire.tally import CATEGORIES


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--sessions", type=int, default=SESSIONS, help="how many are spoken")
    parser.add_argument("--docs", default="", metavar="FOLDER", help="write the page and the chart there too")
    options = parser.parse_args()
    figures = measure(options.seed, options.sessions)
    report = tell(figures)
    report.print()
    for line in outside(figures.control):
        print("THE CORPUS DOES NOT COUNT: " + line)
    if options.json:
        report.write(options.json)
    if options.docs:
        folder = Path(options.docs)
        (folder / "wire-bytes.md").write_text(page(figures, USERS_SAMPLED))
        (folder / "wire-bytes.svg").write_text(chart(figures))


def tell(figures: Figures) -> Report:
    """The rows: per protocol and category, then the limits, then the control rows."""
    report = Report(f"Bytes on the wire, seed {figures.seed}")
    for category in CATEGORIES:
        for name, tally in figures.tallies.items():
            report.add(category, name, tally.bytes[category] / tally.sessions, "B per session")
    for name, tally in figures.tallies.items():
        report.add("session", name, tally.total / tally.sessions, "B")
    for name, why in figures.skipped.items():
        report.add("session", name, None, "B", why)
    report.relate(BEST)
    for name, tally in figures.tallies.items():
        report.add("TLS records", name, tally.records / tally.sessions, "per session", "one per write")
    for name, tally in figures.tallies.items():
        report.add("CPU per message", name, tally.cpu / tally.messages * 1e6, "us", "encode and decode")
    for name, value in figures.header_cpu.items():
        report.add("CPU of the headers of a request", name, value, "us", "encode and decode")
    for name, limit in LIMITS.items():
        report.add(name, "MMTP", figures.rows.get(name), "")
        report.judge(name, "MMTP", limit, "value")
    for name, value in figures.without_rule.items():
        report.add(name, "zstd's own trainer", value, "", "keeps no rule of users")
    for name, value in figures.control.items():
        report.add("control: " + name, "corpus", value, "")
    return report


if __name__ == "__main__":
    main()

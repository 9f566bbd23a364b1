"""The page of the documentation that tells a run: a table of bytes, the limits, and who wins what."""

from __future__ import annotations

from loadtest.corpus.controls import BOUNDS
from loadtest.wire.chart import bars
from loadtest.wire.measure import BEST, BODY_SESSIONS, COLD, LIMITS, OURS, OWN_LIMITS, WARM, WEBSOCKET, Figures
from loadtest.wire.tally import BODIES, CATEGORIES, RECORD

_HEAD = """# Bytes on the wire, beside other protocols

    make bench-wire            # JSON=path writes the rows, SEED=n makes other sessions
    make docs-wire             # writes this page and its chart again

The same made-up sessions of a phone (`loadtest/corpus`): 20 calls with 21 request headers, 100 pushes, 10 heartbeats;
JSON and protobuf, most of the text Chinese. Each protocol is spoken by a real library at both ends, without sockets;
whatever arrives is compared with what was sent. Figures are means of {count} sessions, both directions, seed {seed}.

![Bytes of one session by protocol](wire-bytes.svg)
"""

_PEERS = """
What is compared, and where a choice was ours it favours the peer:

- **HTTP/2 + gzip, SSE** (`h2`, `hpack`): gzip 6 for bodies of calls unless that is longer; pushes are server-sent events over
  the same connection in *one* gzip stream that is flushed per event, so that a push profits from those before it; *plain SSE* is
  the same with events as they are; protobuf in events is base64. No content-length, no acknowledgements.
- **gRPC, gzip** (`h2`): length-prefixed messages, each gzipped unless that is longer; pushes are one server stream.
- **MQTT 5** (`paho-mqtt`): PUBLISH with QoS 1 both ways, each topic named once and then by alias, two bytes of correlation data
  and no response topic; headers are user properties; bodies are raw, MQTT has no coding for them.
- **WebSocket, deflate** (`wsproto`): an envelope like JSON-RPC's with the headers in it, protobuf after it in binary messages;
  permessage-deflate keeps its 32 KiB window in both directions, which costs the server some 300 KiB of memory for each
  connection (zlib: 2^(15+2) + 2^(8+9) bytes to deflate, 2^15 to inflate, and some KiB), or with *no takeover* compresses
  each message alone, as servers with many idle connections do. Its headers and bodies are compressed together; what the
  bodies alone would take counts as bodies.
- **MMTP** (`protocols.mmtp`): *cold*, nothing known but the application table (or only the generic one), bodies by zstd without dictionary;
  *warm*, header states of an earlier connection and a dictionary of 8 KiB for each class of body, trained on the bodies of
  {training:,} other devices, one each (a quarter of the test's words not among them), by the gateway's own trainer, which lets
  nothing into a dictionary that was seen from fewer than 50 users; *history*, a push may also refer to the 4 KiB before it in its stream.
  Every push is acknowledged alone, since events are a second apart. Memory: no compression context per
  connection. Its hand-shake carries what the others have not: cursors of all streams, a key for short
  connections, time.

All libraries are Python, but for zlib and zstd; CPU is process time of both ends together.
Every protocol shows the same 120-byte credential once. Without TLS, whose records add {record} B each; the row *records* counts them
when each write is one.
"""


def chart(figures: Figures) -> str:
    """The chart as SVG."""
    rows = {
        name: {category: tally.bytes[category] / tally.sessions for category in CATEGORIES}
        for name, tally in figures.tallies.items()
    }
    return bars(
        "Bytes of one session: 20 calls, 100 pushes, 10 heartbeats",
        f"both directions, without TLS; means of {_count(figures)} sessions, seed {figures.seed}",
        rows,
        CATEGORIES,
        [name for name in rows if name.startswith(OURS)],
    )


def _count(figures: Figures) -> int:
    return figures.tallies[BEST].sessions


def page(figures: Figures, training: int) -> str:
    """The page as Markdown."""
    out = [_HEAD.format(count=_count(figures), seed=figures.seed), *_table(figures), "", *_winners(figures)]
    out += [_PEERS.format(training=training, record=RECORD), *_limits(figures), "", *_controls(figures)]
    return "\n".join(out) + "\n"


def _table(figures: Figures) -> list[str]:
    tallies = figures.tallies
    rows = ["| per session | " + " | ".join(tallies) + " |", "| --- |" + " --- |" * len(tallies)]

    def line(name: str, values: list[float], form: str) -> None:
        least = min(values)
        cells = [f"**{value:{form}}**" if value == least else f"{value:{form}}" for value in values]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")

    for category in CATEGORIES:
        line(f"{category}, B", [round(tally.bytes[category] / tally.sessions) for tally in tallies.values()], ",.0f")
    line("**total**, B", [round(tally.total / tally.sessions) for tally in tallies.values()], ",.0f")
    line("records", [round(tally.records / tally.sessions) for tally in tallies.values()], ",.0f")
    line(
        "total with TLS records, B",
        [round((tally.total + RECORD * tally.records) / tally.sessions) for tally in tallies.values()],
        ",.0f",
    )
    line("CPU per message, both ends, us", [tally.cpu / tally.messages * 1e6 for tally in tallies.values()], ".0f")
    rows += ["", "The least of each row is **bold**."]
    return rows


def _winners(figures: Figures) -> list[str]:
    """Where a peer is better than our best."""
    best, cold = figures.tallies[BEST], figures.tallies[COLD]
    peers = {name: tally for name, tally in figures.tallies.items() if not name.startswith(OURS)}
    beaten = []
    for category in CATEGORIES:
        name, tally = min(peers.items(), key=lambda pair: pair[1].bytes[category] / pair[1].sessions)
        theirs, ours = tally.bytes[category] / tally.sessions, best.bytes[category] / best.sessions
        if round(theirs) < round(ours):
            beaten.append(f"- {category}: {name} needs {theirs:,.0f} B, {BEST} {ours:,.0f} B.")
    name, tally = min(peers.items(), key=lambda pair: pair[1].records / pair[1].sessions)
    if tally.records / tally.sessions < best.records / best.sessions:
        beaten.append(
            f"- TLS records: {name} writes {tally.records / tally.sessions:.0f}, {BEST} {best.records / best.sessions:.0f}."
        )
    for name, tally in peers.items():
        if tally.total < cold.total and tally.sessions == cold.sessions:
            share = tally.total / cold.total
            beaten.append(
                f"- total, when MMTP begins cold: {name} needs {share:.2f} of {COLD}; it learns as the session goes on."
            )
    return ["**Where a peer wins**", "", *beaten] if beaten else ["No peer wins a category."]


def _limits(figures: Figures) -> list[str]:
    rows = [
        "## Limits",
        "",
        "Set by the project before, but for those that say *own*; `make bench-wire` checks them in every run.",
        "",
    ]
    rows += ["| what | measured | limit | |", "| --- | --- | --- | --- |"]
    for name, limit in LIMITS.items():
        value = figures.rows.get(name)
        if value is None:
            rows.append(f"| {name} | - | {limit:.2f} | not measured |")
        else:
            own = " (own)" if name in OWN_LIMITS else ""
            rows.append(f"| {name} | {value:.3g} | {limit:.3g}{own} | {'met' if value <= limit else '**MISSED**'} |")
    rows.append("")
    warm = figures.tallies[WARM]
    without = ", ".join(
        f"{warm.total / tally.total:.2f} of {name}"
        for name, tally in figures.tallies.items()
        if not name.startswith(OURS) and tally.total
    )
    if WEBSOCKET in figures.tallies:
        kept = figures.tallies[WEBSOCKET].bytes[BODIES]
        shares = (f"{mode} needs {figures.tallies[mode].bytes[BODIES] / kept:.2f}" for mode in (WARM, BEST))
        rows.append(
            "- The project's limit against WebSocket is taken as one against each message alone "
            "([why](../adr/0085-which-websocket-is-meant.md)); the limit with takeover holds what was reached. Of the bodies "
            f"that takeover makes, {', '.join(shares)}."
        )
    for name, value in figures.without_rule.items():
        rows.append(
            f"- {name}: {value:.3f} with dictionaries of zstd's own trainer, which keeps no rule of users, on the same bodies."
        )
    rows.append("")
    times = ", ".join(f"{name} {value:.1f} us" for name, value in figures.header_cpu.items())
    rows.append(
        f"Rows of bodies are of {BODY_SESSIONS} sessions. Session totals are those of *{BEST}*; *{WARM}* needs {without}. Header codecs, encode and decode of the 21 headers of a request: {times}."
    )
    return rows


def _controls(figures: Figures) -> list[str]:
    rows = [
        "## Control rows",
        "",
        "What ordinary codecs make of the sessions; a test holds them within these bounds for several seeds.",
        "",
    ]
    rows += ["| what | measured | bounds |", "| --- | --- | --- |"]
    return rows + [
        f"| {name} | {figures.control[name]:.4g} | {low:g} to {high:g} |" for name, (low, high) in BOUNDS.items()
    ]

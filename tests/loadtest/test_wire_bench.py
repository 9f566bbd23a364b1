"""Sizes of whole sessions are kept in tests/golden/wire_sessions.json; MMTP that needs more fails here.

After a wanted change: `python -m tests.loadtest.test_wire_bench` writes the file anew.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path

import pytest

from loadtest.bench.bench_wire import tell
from loadtest.corpus.sessions import Session, sessions
from loadtest.wire.chart import bars
from loadtest.wire.measure import (
    BEST,
    GRPC,
    HTTP2,
    HTTP2_PLAIN,
    LIMITS,
    MQTT5,
    OURS,
    WARM,
    WEBSOCKET,
    WEBSOCKET_ALONE,
    Figures,
    measure,
)
from loadtest.wire.page import chart, page
from loadtest.wire.tally import ACKS, BODIES, CATEGORIES, FRAMING, HEADERS, HEARTBEATS, Tally, speak, verify
from loadtest.wire.websocket import WebSocket

pytest.importorskip("h2")
pytest.importorskip("paho")
pytest.importorskip("wsproto")

GOLDEN = Path(__file__).parents[1] / "golden/wire_sessions.json"
SEED, COUNT = 4, 3
TOLERANCE = 0.01
"""Of bodies: another release of zstd trains and packs a little differently."""


def sizes(figures: Figures) -> dict[str, dict[str, int]]:
    return {name: tally.bytes for name, tally in figures.tallies.items() if name.startswith(OURS)}


@pytest.fixture(scope="module")
def figures() -> Figures:
    # The gateway's trainer takes half a minute; what it made is kept until it changes.
    return measure(SEED, COUNT)


def test_no_category_of_any_mode_has_grown_or_shrunk_unseen(figures: Figures) -> None:
    expected = json.loads(GOLDEN.read_text())
    found = sizes(figures)
    assert set(found) == set(expected)
    for name, categories in found.items():
        for category, size in categories.items():
            was = expected[name][category]
            # Lengths of bodies are framing, so it moves by some bytes with them.
            slack = {BODIES: TOLERANCE * was, FRAMING: 20}.get(category, 0)
            assert size <= was + slack, f"{name}, {category}: grown; see the first lines of this file"
            assert size >= was - slack, f"{name}, {category}: shrunk: keep it, write the golden file anew"


BYTES = [name for name in LIMITS if not name.startswith("CPU")]
"""CPU is the bench's business."""


@pytest.mark.parametrize("name", BYTES)
def test_limits_of_bytes_hold(figures: Figures, name: str) -> None:
    assert figures.rows[name] <= LIMITS[name]


def test_limits_of_bytes_hold_for_another_seed() -> None:
    rows = measure(SEED + 1, COUNT).rows
    assert {name: rows[name] for name in BYTES if rows[name] > LIMITS[name]} == {}


def test_what_takeover_adds_is_that_a_message_profits_from_those_before() -> None:
    """Both options of the extension, as wsproto negotiates them: the same push again is as long as before."""
    push = next(session.pushes[0] for session in sessions(SEED, 1))
    sizes: dict[bool, list[int]] = {}
    for takeover in (True, False):
        sizes[takeover] = []
        for count in (1, 2, 3):
            session = Session("d", "8", [push] * count)
            sizes[takeover].append(speak(partial(WebSocket, takeover=takeover), [session]).total)
    first, second, third = sizes[False]
    assert second - first == third - second > len(push.body) / 4
    first, second, third = sizes[True]
    assert third - second < len(push.body) / 4


def test_peers_pay_what_their_protocols_ask(figures: Figures) -> None:
    per_session = {
        name: {category: size / COUNT for category, size in tally.bytes.items()}
        for name, tally in figures.tallies.items()
    }
    assert {name: sizes[HEARTBEATS] for name, sizes in per_session.items() if not name.startswith(OURS)} == {
        HTTP2: 340,
        HTTP2_PLAIN: 340,
        GRPC: 340,
        MQTT5: 40,
        WEBSOCKET: 80,
        WEBSOCKET_ALONE: 80,
    }
    assert per_session[MQTT5][ACKS] == 4 * 140
    assert per_session[HTTP2][ACKS] < 60
    assert per_session[BEST][HEARTBEATS] == 10
    # MQTT has no coding for bodies: they are there byte by byte.
    assert per_session[MQTT5][BODIES] * COUNT == sum(
        len(body) for session in sessions(SEED, COUNT) for body in session.bodies
    )
    assert per_session[HTTP2][BODIES] < per_session[GRPC][BODIES] < per_session[MQTT5][BODIES]
    assert per_session[HTTP2_PLAIN][BODIES] > 2 * per_session[HTTP2][BODIES]
    assert per_session[WARM][HEADERS] < per_session[HTTP2][HEADERS] < per_session[MQTT5][HEADERS]


def test_every_message_is_counted_once(figures: Figures) -> None:
    assert {tally.messages for tally in figures.tallies.values()} == {COUNT * (20 * 2 + 100)}


def test_what_arrives_changed_is_told() -> None:
    session = next(sessions(SEED, 1))
    with pytest.raises(AssertionError, match="140 messages were sent, 0 arrived"):
        verify(session, [])

    class Liar:
        def __init__(self) -> None:
            self.arrived: list[tuple[list[tuple[str, str]], bytes]] = [([], b"")] * 140

        def open(self) -> None: ...
        def call(self, exchange: object) -> None: ...
        def push(self, push: object) -> None: ...
        def heartbeat(self) -> None: ...
        def close(self) -> None: ...

    with pytest.raises(AssertionError):
        speak(lambda session, tally: Liar(), [session])


def test_a_peer_whose_package_is_missing_is_told(figures: Figures) -> None:
    some = {name: tally for name, tally in figures.tallies.items() if name != MQTT5}
    rows = {name: value for name, value in figures.rows.items() if MQTT5 not in name}
    without = Figures(SEED, some, {MQTT5: "skipped: no package paho"}, rows, figures.control, figures.header_cpu)
    report = tell(without)
    assert [row.note for row in report.rows if row.value is None and row.who == MQTT5] == ["skipped: no package paho"]
    assert [row.met for row in report.rows if row.case == f"session against {MQTT5}"] == [None]
    assert "not measured" in page(without, 1)


def test_the_page_names_the_winners_and_every_limit(figures: Figures) -> None:
    text = page(figures, 160)
    for name in LIMITS:
        assert f"| {name} |" in text
    assert "**Where a peer wins**" in text
    assert f"- hand-shake: {MQTT5} needs" in text
    beaten = Figures(SEED, dict(figures.tallies), {}, {"heartbeat, B": 2.0}, figures.control, figures.header_cpu)
    beaten.tallies[GRPC] = Tally(dict.fromkeys(CATEGORIES, 0), sessions=COUNT, messages=1)
    assert f"- bodies: {GRPC} needs 0 B" in page(beaten, 160)
    assert "| heartbeat, B | 2 | 1 | **MISSED** |" in page(beaten, 160)


def test_the_chart_is_svg_whose_bars_are_as_long_as_their_bytes(figures: Figures) -> None:
    root = ET.fromstring(chart(figures))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    parts = dict.fromkeys(CATEGORIES, 100.0)
    twice = dict.fromkeys(CATEGORIES, 200.0)
    root = ET.fromstring(bars("t", "n", {"a & b": parts, "c": twice}, CATEGORIES, ["c"]))
    found = [float(rect.get("width") or 0) for rect in root.iter("{http://www.w3.org/2000/svg}rect")]
    legend, first, second = found[:6], found[6:12], found[12:]
    assert set(legend) == {12.0}
    assert sum(second) == pytest.approx(2 * sum(first), rel=0.01)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(sizes(measure(SEED, COUNT)), indent=2) + "\n")

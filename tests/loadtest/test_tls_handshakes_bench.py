"""The benchmark of hand-shakes measures what it says: every case, its flights, and a first flight that is small."""

from __future__ import annotations

from loadtest.bench import tls_handshakes


def test_every_case_is_measured_with_its_flights():
    rows = tls_handshakes.rows(handshakes=tls_handshakes.ROUNDS)
    named = {(row.case, row.who): row.value for row in rows}
    for case in tls_handshakes.cases():
        assert named[f"hand-shake, {case.name}", "engine"] > 0
        assert (f"hand-shake, {case.name}", "detached") in named or "stock" in case.name
    # 17 bytes of identity, 15 of early data: the first flight that the design asks for is at most 404 bytes.
    assert named["first flight up, 0-RTT, answered at once", "engine"] <= 404
    assert named["down, 0-RTT, answered at once", "engine"] < named["down, full, P-256", "engine"]

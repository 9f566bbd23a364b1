"""Gauges over all sessions are counted in slices, and again when time has passed."""

from __future__ import annotations

from twisted.internet.task import Clock

from accessgw.core.mqtt.gauges import AT_ONCE, INTERVAL, SessionGauges
from accessgw.core.mqtt.session import PUBACK, MqttSession
from accessgw.core.timers import TimingWheel
from accessgw.model.counters import MqttCounters


def test_what_is_in_flight_and_waits_is_counted_over_several_turns() -> None:
    clock = Clock()
    counters = MqttCounters()
    sessions = {f"c{number}": MqttSession(f"c{number}", None, "") for number in range(AT_ONCE + 1)}
    sessions["c0"].allocate(PUBACK)
    sessions[f"c{AT_ONCE}"].allocate(PUBACK)
    SessionGauges(sessions, lambda session: 2, counters, clock=clock, timers=TimingWheel(clock)).start()
    assert (counters.inflight, counters.queued) == (0, 0)
    clock.advance(0)
    assert (counters.inflight, counters.queued) == (2, 2 * (AT_ONCE + 1))
    del sessions["c0"]
    clock.pump([INTERVAL, 1.0, 0.0])
    assert (counters.inflight, counters.queued) == (1, 2 * AT_ONCE)

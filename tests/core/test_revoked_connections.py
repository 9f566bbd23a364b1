"""Which connections end when something was revoked, and that all are looked at although each turn takes only a few."""

from __future__ import annotations

import hashlib

from twisted.internet.task import Clock

from accessgw.core.revoked_connections import PER_TURN, RevokedConnections
from accessgw.model.counters import TlsCounters
from accessgw.model.identity import ConnectionInfo
from accessgw.model.reasons import CloseReason


class Revoked:
    """Revocations by hand."""

    def __init__(self):
        self.devices, self.fingerprints, self.listed, self.before = set(), set(), set(), 1000.0
        self.listeners = []

    def is_revoked(self, binding, issued):
        return issued <= self.before and (binding.device in self.devices or binding.fingerprint in self.fingerprints)

    def serial_is_revoked(self, certificate):
        return certificate in self.listed

    def on_change(self, listener):
        self.listeners.append(listener)

    def change(self):
        for listener in self.listeners:
            listener()


class Connection:
    def __init__(self, **info):
        self.info = ConnectionInfo(id=1, listener="tls", transport="tls", peer="::1", **{"accepted_at": 500.0, **info})
        self.closed = []

    def close(self, reason, detail=""):
        self.closed.append((reason, detail))


class Table(list):
    def snapshot(self):
        return list(self)


def house(*connections):
    clock, revoked, counters = Clock(), Revoked(), TlsCounters()
    RevokedConnections(clock, Table(connections), revoked, counters)
    return clock, revoked, counters


def with_certificate(der, **info):
    return Connection(certificate=der, fingerprint=hashlib.sha256(der).digest(), **info)


def test_a_revoked_device_is_closed_and_nobody_else():
    bad, good, unknown = Connection(device="bad"), Connection(device="good"), Connection()
    _, revoked, counters = house(bad, good, unknown)
    revoked.devices.add("bad")
    revoked.devices.add("")  # nobody
    revoked.change()
    assert bad.closed == [(CloseReason.REVOKED, "the device, or its certificate, was revoked")]
    assert not good.closed and not unknown.closed
    assert counters.revoked_closed == 1


def test_what_was_proved_after_the_revocation_counts():
    again = Connection(device="bad", accepted_at=1001.0)
    old_ticket = Connection(device="bad", accepted_at=1001.0, proved_at=900.0)
    _, revoked, _ = house(again, old_ticket)
    revoked.devices.add("bad")
    revoked.change()
    assert not again.closed and old_ticket.closed


def test_certificates_by_list_and_by_fingerprint():
    listed, known, ticket = (
        with_certificate(b"a"),
        with_certificate(b"b"),
        Connection(fingerprint=b"f", proved_at=900.0),
    )
    free = with_certificate(b"c", device="d")
    _, revoked, _ = house(listed, known, ticket, free)
    revoked.listed.add(b"a")
    revoked.fingerprints |= {hashlib.sha256(b"b").digest(), b"f"}
    revoked.change()
    assert listed.closed == [(CloseReason.REVOKED, "a revocation list names the client certificate")]
    assert known.closed and ticket.closed and not free.closed


def test_many_are_looked_at_over_several_turns():
    many = [Connection(device="bad") for _ in range(10 * PER_TURN + 1)]
    clock, revoked, counters = house(*many)
    revoked.devices.add("bad")
    revoked.change()
    assert counters.revoked_closed == PER_TURN
    for _ in range(10):
        clock.advance(0)
    assert counters.revoked_closed == len(many) and not clock.getDelayedCalls()


def test_a_change_in_between_begins_anew():
    many = [Connection(device=str(number)) for number in range(3 * PER_TURN)]
    clock, revoked, _ = house(*many)
    revoked.change()
    revoked.devices |= {"0", str(3 * PER_TURN - 1)}
    revoked.change()
    for _ in range(5):
        clock.advance(0)
    assert [one.info.device for one in many if one.closed] == ["0", str(3 * PER_TURN - 1)]
    assert not clock.getDelayedCalls()

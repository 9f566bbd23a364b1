"""Which connections end when something was revoked, and that all are looked at although each turn takes only a few."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from accessgw.core.revoked_connections import PER_GLANCE, SLICE, RevokedConnections
from accessgw.model.counters import TlsCounters
from accessgw.model.identity import ConnectionInfo
from accessgw.model.reasons import CloseReason
from accessgw.transports.services import PAGE_BITS, OpenConnections

LOCKED_OUT = "the device was revoked"
REVOKED = "its certificate was revoked"
LISTED = "a revocation list names the client certificate, or a CA above it"
NEVER_SEEN = "a revocation list changed, and the certificate behind the ticket is on it or was not seen here"
CA = ("issuer of the ca", b"\x01")


class Revoked:
    """Revocations by hand."""

    def __init__(self):
        self.devices, self.fingerprints, self.listed, self.before = set(), set(), set(), 1000.0
        self.void = set()
        """Fingerprints of certificates whose tickets are void by the lists."""
        self.listeners = []

    def is_revoked(self, binding, issued):
        return issued <= self.before and binding.fingerprint in self.void

    def is_locked_out(self, device, fingerprint, since):
        return since <= self.before and (device in self.devices or fingerprint in self.fingerprints)

    def are_listed(self, serials):
        return not self.listed.isdisjoint(serials)

    def on_change(self, listener):
        self.listeners.append(listener)

    def change(self):
        for listener in self.listeners:
            listener()


class Connection:
    def __init__(self, **info):
        self.info = ConnectionInfo(id=0, listener="tls", transport="tls", peer="::1", **{"accepted_at": 500.0, **info})
        self.closed = []

    def close(self, reason, detail=""):
        self.closed.append((reason, detail))


class Ticking(Clock):
    """Each look at it takes a part of a slice, so that a slice has PER_TURN connections where none is closed."""

    def __init__(self, looks=4):
        super().__init__()
        self.step = SLICE / (looks - 0.5)

    def seconds(self):
        self.shown = getattr(self, "shown", 0.0) + self.step
        return self.shown


PER_TURN = 4 * PER_GLANCE


def house(*connections, clock=None):
    clock, revoked, counters, table = clock or Clock(), Revoked(), TlsCounters(), OpenConnections()
    for one in connections:
        accept(table, one)
    RevokedConnections(clock, table, revoked, counters)
    return clock, revoked, counters, table


def accept(table, connection):
    connection.info.id = table.next_id()
    table.add(connection)


def serial(number):
    return "issuer", number.to_bytes(20, "big")


def with_certificate(number, *above, **info):
    return Connection(serials=(serial(number), *above), fingerprint=b"of %d" % number, **info)


def devices(count):
    return [Connection(device=str(number)) for number in range(count)]


def turn(clock):
    """Run what is due, once."""
    (call,) = clock.getDelayedCalls()
    function = call.func
    call.cancel()
    function()


def rest(clock):
    turns = 0
    while clock.getDelayedCalls():
        turn(clock)
        turns += 1
    return turns


def closed(connections):
    return [one.info.device for one in connections if one.closed]


def test_a_revoked_device_is_closed_and_nobody_else():
    bad, good, unknown = Connection(device="bad"), Connection(device="good"), Connection()
    _, revoked, counters, _ = house(bad, good, unknown)
    revoked.devices.add("bad")
    revoked.devices.add("")  # nobody
    revoked.change()
    assert bad.closed == [(CloseReason.REVOKED, LOCKED_OUT)]
    assert not good.closed and not unknown.closed
    assert counters.revoked_closed == 1


def test_what_was_proved_after_the_revocation_counts():
    again = Connection(device="bad", accepted_at=1001.0)
    old_ticket = Connection(device="bad", accepted_at=1001.0, proved_at=900.0)
    _, revoked, _, _ = house(again, old_ticket)
    revoked.devices.add("bad")
    revoked.change()
    assert not again.closed and old_ticket.closed


def test_certificates_by_list_and_by_fingerprint():
    listed, known, free = with_certificate(1), with_certificate(2), with_certificate(3, device="d")
    ticket = Connection(fingerprint=b"f", proved_at=900.0)
    _, revoked, _, _ = house(listed, known, ticket, free)
    revoked.listed.add(serial(1))
    revoked.fingerprints |= {b"of 2", b"f"}
    revoked.change()
    assert listed.closed == [(CloseReason.REVOKED, LISTED)]
    assert known.closed == ticket.closed == [(CloseReason.REVOKED, REVOKED)]
    assert not free.closed


def test_a_ca_in_between_takes_along_what_stands_on_it():
    below = [with_certificate(number, CA) for number in range(3)]
    later = with_certificate(4, CA, accepted_at=2000.0)  # the list does not say since when
    others = [with_certificate(5), with_certificate(6, ("issuer of the ca", b"\x02"))]
    _, revoked, counters, _ = house(*below, later, *others)
    revoked.listed.add(CA)
    revoked.change()
    assert all(one.closed == [(CloseReason.REVOKED, LISTED)] for one in (*below, later))
    assert not any(one.closed for one in others) and counters.revoked_closed == 4


def test_a_ticket_of_a_certificate_that_was_never_seen_is_void_and_what_is_known_is_not():
    unseen = Connection(device="a", fingerprint=b"a", proved_at=900.0)
    seen = Connection(device="b", fingerprint=b"b", proved_at=900.0, serials=(serial(1),))
    full = with_certificate(2)
    younger = Connection(device="c", fingerprint=b"a", proved_at=1001.0)
    _, revoked, _, _ = house(unseen, seen, full, younger)
    revoked.void |= {b"a", b"b", b"of 2"}  # as if all were forgotten: 65,536 others came since
    revoked.change()
    assert unseen.closed == [(CloseReason.REVOKED, NEVER_SEEN)]
    assert not seen.closed and not full.closed and not younger.closed


def test_many_are_looked_at_over_several_turns():
    many = devices(10 * PER_TURN + 1)
    clock, revoked, counters, _ = house(*many, clock=Ticking())
    looked = []
    revoked.is_locked_out = lambda device, fingerprint, since: looked.append(device)
    revoked.change()
    assert len(looked) == PER_TURN
    turn(clock)
    assert len(looked) == 2 * PER_TURN
    assert rest(clock) == 9
    assert looked == [one.info.device for one in reversed(many)]  # the youngest first
    assert counters.revoked_closed == 0


def test_closing_is_work_too():
    many = devices(100)
    clock, revoked, counters, _ = house(*many, clock=Ticking())
    revoked.devices |= {one.info.device for one in many}
    revoked.change()
    assert counters.revoked_closed == 4
    assert rest(clock) == 24
    assert all(len(one.closed) == 1 for one in many)


def test_a_clock_that_is_put_back_ends_the_slice():
    clock, revoked, _, _ = house(*devices(10 * PER_GLANCE), clock=Ticking(looks=1000))
    clock.step = -1.0
    looked = []
    revoked.is_locked_out = lambda device, fingerprint, since: looked.append(device)
    revoked.change()
    assert len(looked) == PER_GLANCE
    assert rest(clock) == 9


def test_a_change_in_between_reaches_those_that_were_passed():
    many = devices(3 * PER_TURN)
    clock, revoked, _, _ = house(*many, clock=Ticking())
    revoked.change()
    bad = ["0", str(3 * PER_TURN - 1)]
    revoked.devices.update(bad)
    revoked.change()
    assert rest(clock) <= 6
    assert closed(many) == bad


def test_changes_that_come_faster_than_rounds_end_leave_nobody_out():
    many = devices(10 * PER_TURN)
    clock, revoked, _, _ = house(*many, clock=Ticking())
    looked = set()
    revoked.is_locked_out = lambda device, fingerprint, since: looked.add(device)
    revoked.change()
    for _ in range(9):
        revoked.change()
        turn(clock)
    assert len(looked) == len(many)
    rest(clock)


def test_those_that_come_and_go_meanwhile():
    many = devices(5 << PAGE_BITS)
    clock, revoked, _, table = house(*many, clock=Ticking())
    revoked.change()
    for _ in range(6):  # on the second page
        turn(clock)
    for gone in many[7 : (3 << PAGE_BITS) + 7]:  # most of those that wait have ended
        table.discard(gone)
    young = Connection(device="young")
    accept(table, young)
    bad = ["0", str((5 << PAGE_BITS) - 1), "young"]
    revoked.devices.update(bad)
    revoked.change()
    rest(clock)
    assert closed([*many, young]) == bad


def test_one_that_cannot_be_closed_does_not_keep_the_others():
    many = devices(3)
    clock, revoked, _, _ = house(*many)
    revoked.devices |= {"0", "1", "2"}

    def close(reason, detail=""):
        raise OSError("no such descriptor")

    many[1].close = close
    with pytest.raises(OSError, match="no such descriptor"):
        revoked.change()
    rest(clock)
    assert closed(many) == ["0", "2"]
    del many[1].close
    revoked.change()
    rest(clock)
    assert closed(many) == ["0", "1", "2"]

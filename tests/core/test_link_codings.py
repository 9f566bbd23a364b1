"""Header states and tables on connections of the MMTP binding, with the real client side."""

from __future__ import annotations

import pytest

from accessgw.core.codings import FIND_TIMEOUT
from accessgw.model.mmtp_settings import MmtpSettings
from accessgw.model.reasons import CloseReason
from protocols.mmtp import events
from protocols.mmtp.handshake import DOWN_ACCEPTED, UP_ACCEPTED
from protocols.mmtp.statuses import Status
from tests.core.coding_world import GENERIC, CodedDevice, CodingWorld, Memory, accepted, dictionary, table, tables_of

BOTH = UP_ACCEPTED | DOWN_ACCEPTED

# -------------------------------------------------------------------- header states


def before_a_restart(world: CodingWorld) -> Memory:
    """What a device keeps that was connected to the process before this one."""
    memory = Memory()
    first = world.coded(memory)
    first.pay()
    first.lose()
    world.restart()
    return memory


def test_a_connection_goes_on_where_the_last_one_ended() -> None:
    world = CodingWorld()
    memory = Memory()
    first = world.coded(memory)
    assert accepted(first) == UP_ACCEPTED
    sizes = [first.pay() for _ in range(3)]
    assert memory.up is not None and memory.down is not None
    first.lose()
    again = world.coded(memory)
    assert accepted(again) == BOTH
    assert again.pay() <= sizes[-1]
    assert world.header_store.loads == 0
    assert world.header_counters.resumed == 2

    again.lose()
    world.restart()
    third = world.coded(memory)
    assert accepted(third) == BOTH
    third.pay()
    assert world.header_store.loads == 1


def test_calls_before_welcome_wait_for_the_store_and_keep_their_order() -> None:
    world = CodingWorld()
    memory = before_a_restart(world)
    world.header_store.hold = True
    device = world.coded(memory)
    for number in range(3):
        device.call("pay", b"%d" % number)
    assert not device.take(events.WelcomeReceived)
    assert len(world.upstreams.exchanges) == 1
    world.header_store.let_go()
    assert accepted(device) == BOTH
    assert [exchange.request.body for exchange in world.upstreams.exchanges[1:]] == [b"0", b"1", b"2"]


def test_a_store_that_does_not_answer_costs_a_round_trip() -> None:
    world = CodingWorld()
    memory = before_a_restart(world)
    world.header_store.hold = True
    device = world.coded(memory)
    number = device.call("pay")
    world.clock.pump([0.25] * int(4 * FIND_TIMEOUT + 2))
    assert accepted(device) == 0
    assert [(e.call, e.status) for e in device.take(events.CallReset)] == [(number, Status.STATE_MISS)]
    device.pay()
    world.header_store.let_go()  # too late, and harmless
    device.pay()


@pytest.mark.parametrize("end", ["lost", "replaced", "revoked"])
def test_a_connection_that_ends_while_the_store_is_read(end: str) -> None:
    world = CodingWorld()
    memory = before_a_restart(world)
    world.header_store.hold = True
    device = world.coded(memory)
    if end == "lost":
        device.lose()
        assert world.sessions.registry.connected == 0
    elif end == "replaced":
        world.header_store.hold = False
        newer = world.coded(Memory())
        assert accepted(newer) == UP_ACCEPTED
        assert device.connection.closed is CloseReason.REPLACED
    else:
        assert world.sessions.revoke("d1")
        assert device.connection.closed is CloseReason.REVOKED
    world.header_store.let_go()
    assert not device.take(events.WelcomeReceived)
    assert device.binding.session is None


def test_only_the_connection_in_force_keeps_its_checkpoints() -> None:
    world = CodingWorld()
    memory = Memory()
    old = world.coded(memory)
    old.pay()
    (committed, codings, binding) = world.header_counters.committed, old.binding._codings, old.binding
    assert committed == 2
    taken = events.CheckpointTaken(events.UP, 9, memory.up.state)
    codings.handle(taken)
    assert world.header_counters.committed == 3
    newer = world.coded(memory)
    assert binding.session is newer.binding.session
    codings.handle(taken)
    assert world.header_counters.committed == 3


def test_blocks_that_cannot_be_read_after_welcome_end_the_connection() -> None:
    world = CodingWorld()
    world.authenticator.hold = True
    device = CodedDevice(world, Memory()).hello()
    device.binding.data_received(b"\x30\x03\x02\xff\xff")
    world.authenticator.let_go()
    device.listen()
    assert device.take(events.WelcomeReceived)
    assert [e.goaway.status for e in device.take(events.GoawayReceived)] == [Status.COMPRESSION]
    assert device.connection.closed is CloseReason.PROTOCOL_ERROR


def test_a_gateway_without_profile_d_speaks_h() -> None:
    world = CodingWorld(mmtp=MmtpSettings(templates=False), dictionaries_enabled=False)
    device = world.coded(Memory())
    number = device.call("pay", b"{}")
    (welcomed,) = device.take(events.WelcomeReceived)
    assert welcomed.welcome.capabilities == {"zstd"}
    assert welcomed.welcome.table is None
    assert device.binding._codings is None
    world.upstreams.last.answer(200, b"x")
    assert [one.call for one in device.take(events.ResponseReceived)] == [number]


def test_a_device_without_capabilities_notices_nothing() -> None:
    world = CodingWorld(tables=(table(1),))
    world.dictionaries.put_in_force(dictionary(1, "qpay"))
    device = world.device(app="shop")
    plain = CodingWorld().device(app="shop")
    plain.gateway.services.codings = None
    for one in (device, plain):
        one.call("gw.time")
        assert one.take(events.ResponseReceived)
    assert device.binding._codings is None
    assert [len(part) for part in device.connection.written] == [len(part) for part in plain.connection.written]


# -------------------------------------------------------------------- tables


def test_a_device_with_an_older_table_gets_the_new_one() -> None:
    world = CodingWorld(tables=(table(1), table(2)))
    memory = Memory(table(1))
    device = world.coded(memory)
    assert accepted(device) == UP_ACCEPTED
    device.pay()
    device.settle()
    assert memory.table == table(2)
    assert (world.coding_counters.tables_offered, world.coding_counters.tables_held) == (1, 1)
    device.lose()
    again = world.coded(memory)
    assert accepted(again) == UP_ACCEPTED
    again.settle()
    assert world.coding_counters.tables_offered == 1


def test_a_table_that_is_not_listed_any_more_is_unknown() -> None:
    world = CodingWorld(tables=(table(2),))
    memory = Memory(table(1))
    world.authenticator.hold = True
    device = world.coded(memory)
    number = device.call("pay")
    world.authenticator.let_go()
    assert accepted(device) == 0
    assert [(e.call, e.status) for e in device.take(events.CallReset)] == [(number, Status.STATE_MISS)]
    device.pay()
    assert world.coding_counters.unknown_tables == 1
    device.settle()
    assert memory.table == table(2)


def test_a_reload_offers_its_tables_to_those_who_are_connected() -> None:
    world = CodingWorld()
    memory = Memory()
    device = world.coded(memory)
    stranger = world.coded(Memory(), device="d2", app="other")
    world.codings.replace_tables(tables_of(table(3)))
    device.settle()
    stranger.settle()
    assert memory.table == table(3)
    assert stranger.memory.table == GENERIC


# -------------------------------------------------------------------- idle connections


def test_header_codecs_of_an_idle_connection_are_put_away() -> None:
    world = CodingWorld(mmtp=MmtpSettings(rest_after=10.0))
    device = world.coded(Memory())
    sizes = [device.pay() for _ in range(4)]
    wire = device.binding.wire
    assert not wire.rests
    world.clock.pump([0.25] * 41)
    assert not wire.rests  # it was used in that time
    world.clock.pump([0.25] * 42)
    assert wire.rests
    assert world.coding_counters.rested == 1
    codings = device.binding._codings
    assert codings._timer is None
    assert device.pay() <= sizes[0]
    assert not wire.rests
    world.clock.pump([0.25] * 84)
    assert wire.rests
    device.pay()
    device.lose()
    assert codings._timer is None


# -------------------------------------------------------------------- tracing


def test_a_trace_shows_table_and_dict_frames() -> None:
    world = CodingWorld(tables=(table(1),))
    seen: list[dict[str, object]] = []
    world.tracing.watch("d1", seen.append)
    device = world.coded(Memory())
    world.dictionaries.put_in_force(dictionary(1, "qpay"))
    device.settle()
    device.pay()
    shown = {(e["frame"], e["direction"], e["what"]) for e in seen if e.get("frame") in ("table", "dict")}
    assert shown == {
        ("table", "out", "offer"),
        ("table", "out", "chunk"),
        ("table", "in", "have"),
        ("dict", "out", "offer"),
        ("dict", "out", "chunk"),
        ("dict", "in", "have"),
        ("dict", "out", "use"),
        ("table", "in", "checkpoint"),
        ("table", "out", "checkpoint_ack"),
        ("table", "out", "checkpoint"),
        ("table", "in", "checkpoint_ack"),
    }
    out = {
        (e["frame"], e["what"]): e.get("id", e.get("number"))
        for e in seen
        if e.get("direction") == "out" and "what" in e
    }
    assert out["dict", "use"] == 1
    assert out["table", "checkpoint_ack"] == 1
    assert out["table", "offer"] == table(1).id

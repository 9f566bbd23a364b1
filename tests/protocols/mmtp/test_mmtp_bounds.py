"""What a peer could make grow, or count beyond what can be said: bounded, whatever it sends."""

from __future__ import annotations

import tracemalloc

import pytest

from protocols.errors import LocalError, RemoteError
from protocols.mmtp import Connection, Hello, Limits, Role, Status, StreamCursor, Welcome, encode_push
from protocols.mmtp import events as ev
from protocols.mmtp.acks import Acknowledger
from protocols.mmtp.bodies import EXPLICIT
from protocols.mmtp.bundles import Bundle, ClassesInUse
from protocols.mmtp.device_exchange import HeaderMemory
from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.frames import RANGES, FrameType, TableKind, encode_ack, encode_frame, encode_reset
from protocols.mmtp.gateway_exchange import FoundStates
from protocols.mmtp.headers import HeaderCodec, check_operation
from protocols.mmtp.mini import MAX_MINI, MiniParts
from protocols.mmtp.profiles import Checkpoint
from protocols.mmtp.pushes import MAX_PASSED, PushFrame, PushSender
from protocols.mmtp.settings import DEFAULT_LIMITS
from protocols.mmtp.short import ShortResponse, decode_short_response, encode_short_response
from protocols.mmtp.tables import GENERIC, AppTable, TableName
from protocols.mmtp.template_encoder import TemplateEncoder
from protocols.mmtp.unacknowledged import MAX_RANGES
from protocols.mmtp.varint import MAX_VARINT, encode_varint

PROFILE_D = frozenset(("template",))
CURSOR = StreamCursor("user", "u1", "news", 1, 0)


def opened(memory: HeaderMemory, found: FoundStates) -> tuple[Connection, Connection]:
    device = Connection(Role.CLIENT, limits=Limits(), now=0.0)
    gateway = Connection(Role.SERVER, limits=Limits(), now=0.0)
    device.send_hello(Hello("d1", capabilities=PROFILE_D), memory)
    gateway.receive(device.to_send(0.0), 0.0)
    gateway.send_welcome(Welcome(), found)
    talk(device, gateway)
    return device, gateway


def talk(device: Connection, gateway: Connection) -> list[ev.Event]:
    """Everything arrives; the events of both."""
    events: list[ev.Event] = []
    while True:
        up, down = device.to_send(1.0), gateway.to_send(1.0)
        if not up and not down:
            return events
        gateway.receive(up, 1.0)
        device.receive(down, 1.0)
        events += [*device.events(), *gateway.events()]


# --- bodies


def test_a_mini_in_tiny_parts_takes_no_more_memory_than_its_bytes() -> None:
    size = MAX_MINI - 2
    whole: list[bytes] = []
    parts = MiniParts(lambda body: whole.append(body) or body)
    tracemalloc.start()
    try:
        for place in range(0, size, 2):
            parts.feed(bytes((place & 255, place >> 8 & 255)), False)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * MAX_MINI
    parts.feed(b"", True)
    assert [len(body) for body in whole] == [size]
    with pytest.raises(RemoteError):
        parts.feed(bytes(MAX_MINI), False)


def test_pushes_of_a_short_response_share_the_room_of_all_bodies() -> None:
    body = bytes(60_000)
    limits = Limits(max_body=64 * 1024)
    room = 16 * limits.max_body

    def answer(pushes: int) -> bytes:
        return encode_short_response(
            ShortResponse(pushes=[ev.PushReceived(0, "user", "u1", "news", 1, n + 1, body) for n in range(pushes)]),
            zstd=True,
        )

    fit = room // len(body)
    assert len(answer(fit + 1)) < 10_000
    assert len(decode_short_response(answer(fit), limits, zstd=True).pushes) == fit
    with pytest.raises(RemoteError) as caught:
        decode_short_response(answer(fit + 1), limits, zstd=True)
    assert caught.value.code == Status.COMPRESSION


@pytest.mark.parametrize("second", [encode_reset(3, 8), encode_frame(FrameType.RESPONSE, 0, b"\3\0\0")])
def test_a_short_response_answers_a_call_once(second: bytes) -> None:
    """So there are as many answers as calls at most, however small their frames are."""
    head = encode_short_response(ShortResponse())
    first = encode_frame(FrameType.RESPONSE, 0, b"\3\0\0")
    assert [answer.index for answer in decode_short_response(head + first, DEFAULT_LIMITS).answers] == [3]
    with pytest.raises(RemoteError) as caught:
        decode_short_response(head + first + second, DEFAULT_LIMITS)
    assert caught.value.code == Status.PROTOCOL


# --- acknowledgements


def test_a_device_that_never_acknowledges_the_oldest_push_does_not_make_the_gateway_remember_without_end() -> None:
    sender = PushSender()
    sender.announce(1, CURSOR)
    seq = 0

    def push() -> bool:
        return sender.offer(PushFrame(1, seq + 1, b"", 1, seq), DEFAULT_LIMITS)

    window = DEFAULT_LIMITS.push_window
    while push():
        seq += 1
        if seq > 1:
            place = encode_varint(seq - 1)
            assert sender.acked_ranges(place + encode_varint(1), 0, len(place) + 1) == [seq - 1]
    assert seq == window + MAX_PASSED
    assert not sender.room(1, DEFAULT_LIMITS)
    assert sender.acked(1) == [0]
    assert push()


def test_a_device_of_ours_takes_what_its_gateway_may_send() -> None:
    acknowledger = Acknowledger()
    for index in range(2 * MAX_PASSED):
        acknowledger.came(index, 1, DEFAULT_LIMITS)
        if index:
            acknowledger.processed_out_of_order([index])
    assert acknowledger.processed_out_of_order([0])


def test_ranges_are_not_read_beyond_their_number() -> None:
    """The first too many ends it: what follows is not even looked at."""
    gateway = Connection(Role.SERVER, limits=Limits(), now=0.0)
    device = Connection(Role.CLIENT, limits=Limits(), now=0.0)
    device.send_hello(Hello("d1"))
    gateway.receive(device.to_send(0.0), 0.0)
    gateway.send_welcome(Welcome())
    with pytest.raises(RemoteError, match=f"1..{MAX_RANGES} ranges"):
        gateway.receive(encode_frame(FrameType.ACK, RANGES, b"\1\1" * (MAX_RANGES + 1) + b"\xff" * 11), 1.0)


def test_an_acknowledgement_of_what_was_never_sent_ends_the_connection() -> None:
    gateway = Connection(Role.SERVER, limits=Limits(), now=0.0)
    device = Connection(Role.CLIENT, limits=Limits(), now=0.0)
    device.send_hello(Hello("d1"))
    gateway.receive(device.to_send(0.0), 0.0)
    gateway.send_welcome(Welcome())
    gateway.introduce_stream(1, CURSOR)
    gateway.send_push(1, 1, encode_push(1, b"x", coding=EXPLICIT), 1, "t")
    with pytest.raises(RemoteError) as caught:
        gateway.receive(encode_ack(1 << 31), 1.0)
    assert caught.value.code == Status.PROTOCOL


# --- header states


def test_no_checkpoint_follows_the_last_number() -> None:
    """Numbers are the peer's word: a gateway that finds states by their digest alone could be told any."""
    encoder = TemplateEncoder(GENERIC)
    encoder.encode([("content-type", "text/plain")])
    state = encoder.checkpoint()
    memory = HeaderMemory(GENERIC, None, Checkpoint(MAX_VARINT, state))
    device, gateway = opened(memory, FoundStates(GENERIC, None, state))
    for call in range(3):
        device.request("pay", [("x-a", "1")], b"")
        talk(device, gateway)
        gateway.respond(call, 0, [("content-type", "text/plain"), (f"x-{call}", "new")], b"")
        events = talk(device, gateway)
        assert not [event for event in events if isinstance(event, ev.CheckpointTaken) and event.direction == ev.DOWN]
    assert not device.closed and not gateway.closed


def test_a_table_that_the_device_begins_with_is_not_fetched_again() -> None:
    table = AppTable(7, 1, (TableName("x-os"),))
    device, gateway = opened(HeaderMemory(table), FoundStates(table))
    gateway.offer_table(table)
    sent = gateway.to_send(1.0)
    device.receive(sent, 1.0)
    assert not device.events()  # it has it, and its states stay
    assert device.to_send(1.0) == encode_frame(FrameType.TABLE, TableKind.HAVE, encode_varint(7) + table.digest)


def test_a_table_that_came_is_not_fetched_again_until_it_is_retired() -> None:
    table = AppTable(7, 1, (TableName("x-os"),))
    device, gateway = opened(HeaderMemory(), FoundStates())
    gateway.offer_table(table)
    assert ev.TableReceived(table) in talk(device, gateway)
    gateway.offer_table(table)
    assert talk(device, gateway) == [ev.TableHeld(7)]
    gateway.retire_table(7)
    gateway.offer_table(table)
    assert talk(device, gateway) == [ev.TableRetired(7), ev.TableReceived(table), ev.TableHeld(7)]


def test_the_first_table_is_fetched_again_when_another_came_meanwhile() -> None:
    first, second = AppTable(7, 1, (TableName("x-os"),)), AppTable(8, 1, (TableName("x-app"),))
    device, gateway = opened(HeaderMemory(first), FoundStates(first))
    for table in (second, first):
        gateway.offer_table(table)
        assert talk(device, gateway) == [ev.TableReceived(table), ev.TableHeld(table.id)]


# --- classes


def test_connections_on_which_the_classes_mean_the_same_share_their_map() -> None:
    bundle = Bundle(Dictionary(id, b"content " * 8, (f"qapp{id}*", f"papp{id}")) for id in range(1, 65))
    newer = Dictionary(99, b"another " * 8, ("qapp1*",))
    first = ClassesInUse(bundle)
    first.use(newer)
    tracemalloc.start()
    try:
        others = [ClassesInUse(bundle) for _ in range(100)]
        for other in others:
            other.use(newer)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 100 * 200
    assert all(other.classes is first.classes for other in others)
    others[0].drop("qapp1*")
    assert others[0].for_class("q", "app1.x") is None
    assert others[1].for_class("q", "app1.x") is newer
    assert ClassesInUse(bundle).for_class("q", "app1.x") is bundle.by_id[1]


def test_a_bundle_and_classes_that_came_to_it_are_the_same() -> None:
    old, new = Dictionary(1, b"content " * 8, ("qpay",)), Dictionary(2, b"another " * 8, ("qpay",))
    classes = ClassesInUse(Bundle([old]))
    classes.use(new)
    assert classes.classes is Bundle([new]).classes


# --- our own side


@pytest.mark.parametrize("operation, headers", [("pay", [("a", "\ud800")]), ("pay\ud800", [])])
def test_what_is_no_unicode_text_is_refused_before_it_is_coded(operation: str, headers: list[tuple[str, str]]) -> None:
    codec = HeaderCodec()
    with pytest.raises(LocalError):
        codec.encode(operation, headers, DEFAULT_LIMITS, DEFAULT_LIMITS)
    with pytest.raises(LocalError):
        check_operation("\ud800")

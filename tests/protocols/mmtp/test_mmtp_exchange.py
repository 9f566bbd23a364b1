"""Header states, tables, dictionaries and history on a connection: limits, hostile bytes, and what must not happen."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalError, RemoteError
from protocols.mmtp import Connection, Hello, Limits, Role, Status, StreamCursor, Welcome, encode_push
from protocols.mmtp import events as ev
from protocols.mmtp.bundles import Bundle
from protocols.mmtp.device_exchange import HeaderMemory
from protocols.mmtp.dict_frames import DictKind, DictOffer, encode_have, encode_offer, encode_use, encode_want
from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.frames import FrameType, TableKind, encode_frame, encode_window
from protocols.mmtp.gateway_exchange import FoundStates
from protocols.mmtp.handshake import NamedStates
from protocols.mmtp.profiles import CHECKPOINT_BLOCKS, EARLY_CHECKPOINTS, Checkpoint
from protocols.mmtp.shared_bodies import SharedBody
from protocols.mmtp.tables import GENERIC, AppTable, TableName
from protocols.mmtp.transfers import CHUNK
from protocols.mmtp.varint import encode_varint
from tests.protocols.mmtp.dialogue import split_frames

CAPABILITIES = frozenset(("zstd", "template", "dict", "history"))
HEADERS = [("content-type", "application/json"), ("x-os", "ios")]
BODY = b'{"account":"2088001","amount":"99.50"}'
DICTIONARY = Dictionary(5, b'{"account":"2088002","amount":"12.50"}', ("q*", "apay", "pnews"))


def sides(capabilities: frozenset[str] = CAPABILITIES) -> tuple[Connection, Connection]:
    device = Connection(Role.CLIENT, limits=Limits(), now=0.0)
    device.send_hello(Hello("d1", capabilities=capabilities), HeaderMemory() if "template" in capabilities else None)
    return device, Connection(Role.SERVER, limits=Limits(), now=0.0)


def talk(device: Connection, gateway: Connection) -> tuple[list[Any], list[Any]]:
    """Everything arrives; the events of both."""
    at_device: list[Any] = []
    at_gateway: list[Any] = []
    while True:
        up, down = device.to_send(1.0), gateway.to_send(1.0)
        if not up and not down:
            return at_device, at_gateway
        gateway.receive(up, 1.0)
        device.receive(down, 1.0)
        at_device += device.events()
        at_gateway += gateway.events()


def opened(capabilities: frozenset[str] = CAPABILITIES) -> tuple[Connection, Connection]:
    device, gateway = sides(capabilities)
    gateway.receive(device.to_send(0.0), 0.0)
    gateway.send_welcome(Welcome(), FoundStates())
    talk(device, gateway)
    return device, gateway


def with_dictionary() -> tuple[Connection, Connection]:
    device, gateway = opened()
    gateway.offer_dictionary(DICTIONARY)
    talk(device, gateway)
    gateway.use_dictionary(5)
    talk(device, gateway)
    return device, gateway


def table(kind: TableKind, payload: bytes) -> bytes:
    return encode_frame(FrameType.TABLE, kind, payload)


def dictionary(kind: DictKind, payload: bytes) -> bytes:
    return encode_frame(FrameType.DICT, kind, payload)


def refused(side: Connection, data: bytes) -> Status:
    with pytest.raises(RemoteError) as caught:
        side.receive(data, 1.0)
    assert side.closed
    return Status(caught.value.code)


# --- the hand-shake


def test_a_gateway_without_the_capability_refuses_the_calls_and_goes_on_in_profile_h() -> None:
    device, gateway = sides()
    device.request("pay", HEADERS, b"1")
    gateway.receive(device.to_send(0.0), 0.0)
    gateway.send_welcome(Welcome())
    at_device, _ = talk(device, gateway)
    assert ev.CallReset(0, Status.STATE_MISS) in at_device
    device.request("pay", HEADERS, b"1", call_id=0)
    _, at_gateway = talk(device, gateway)
    assert [event.headers for event in at_gateway] == [HEADERS]
    gateway.respond(1, 0, HEADERS, b"")
    at_device, _ = talk(device, gateway)
    assert at_device[0].headers == HEADERS


def test_a_device_without_states_starts_after_welcome() -> None:
    device = Connection(Role.CLIENT, limits=Limits(), now=0.0)
    gateway = Connection(Role.SERVER, limits=Limits(), now=0.0)
    device.send_hello(Hello("d1", capabilities=frozenset(("template",))))
    device.request("pay", HEADERS, b"1")
    gateway.receive(device.to_send(0.0), 0.0)
    assert len(gateway.events()) == 2
    gateway.send_welcome(Welcome(), FoundStates())
    talk(device, gateway)
    device.request("pay", HEADERS, b"2")
    first = device.to_send(0.0)
    gateway.receive(first, 0.0)
    assert gateway.events()[0].headers == HEADERS
    talk(device, gateway)
    device.request("pay", HEADERS, b"3")
    assert len(device.to_send(0.0)) < 8


def test_held_requests_are_bounded_and_given_up_in_order() -> None:
    device, gateway = sides()
    gateway.receive(device.to_send(0.0), 0.0)
    gateway.events()
    block = encode_frame(FrameType.REQUEST, 0, encode_varint(30_000) + b"\x80" + b"x" * 29_999)
    for _ in range(20):
        gateway.receive(block, 0.0)
        gateway.receive(encode_frame(FrameType.RESET, 0, b"\0\x0c"), 0.0)
    sent = [frame[0] >> 4 for frame in split_frames(gateway.to_send(0.0))]
    assert sent == [FrameType.RESET] * 20
    gateway.send_welcome(Welcome(), FoundStates())
    welcome, *rest = split_frames(gateway.to_send(0.0))
    assert welcome[0] >> 4 == FrameType.WELCOME
    assert not rest
    assert gateway.open_calls() == 0


def test_bytes_that_are_found_wrong_at_welcome_close_the_connection() -> None:
    device, gateway = sides()
    gateway.receive(device.to_send(0.0), 0.0)
    gateway.receive(encode_frame(FrameType.REQUEST, 0, b"\x01\x7f"), 0.0)
    gateway.send_welcome(Welcome(), FoundStates())
    assert gateway.closed
    assert gateway.closing_status == Status.COMPRESSION


def test_a_state_with_another_digest_is_not_resumed() -> None:
    device, gateway = opened()
    device.request("pay", HEADERS, b"")
    events = [event for event in talk(device, gateway)[0] if isinstance(event, ev.CheckpointAcked)]
    state = events[0].state
    other = Connection(Role.SERVER, limits=Limits(), now=0.0)
    again = Connection(Role.CLIENT, limits=Limits(), now=0.0)
    again.send_hello(Hello("d1", capabilities=CAPABILITIES), HeaderMemory(GENERIC, Checkpoint(1, state)))
    other.receive(again.to_send(0.0), 0.0)
    device.request("list", [], b"")
    newer = next(event for event in device.events() if isinstance(event, ev.CheckpointTaken)).state
    other.send_welcome(Welcome(), FoundStates(up=newer))
    again.receive(other.to_send(0.0), 0.0)
    assert again.events()[0].welcome.accepted == 0


@pytest.mark.parametrize(
    "welcome",
    [
        Welcome(capabilities=frozenset(("template",)), table=(9, b"12345678")),
        Welcome(capabilities=frozenset(("template",)), table=(1, b"12345678")),
        Welcome(capabilities=frozenset(("template",)), table=(1, GENERIC.digest), accepted=2),
        Welcome(capabilities=frozenset(("dict",)), bundle=b"12345678"),
    ],
)
def test_a_welcome_that_grants_what_was_not_named(welcome: Welcome) -> None:
    from protocols.mmtp.handshake import encode_welcome

    device, _ = sides()
    device.to_send(0.0)
    assert refused(device, encode_frame(FrameType.WELCOME, 0, encode_welcome(welcome))) is Status.PROTOCOL


def test_states_and_bundles_need_their_capability() -> None:
    device = Connection(Role.CLIENT, limits=Limits(), now=0.0)
    with pytest.raises(LocalError):
        device.send_hello(Hello("d1"), HeaderMemory())
    with pytest.raises(LocalError):
        device.send_hello(Hello("d1"), None, Bundle([DICTIONARY]))


# --- checkpoints


def test_checkpoints_are_rare() -> None:
    device, gateway = opened()
    made = 0
    for number in range(2000):
        device.request("pay", [("x-page", str(number)), (f"x-{number % 40}", "1")], b"")
        at_device, at_gateway = talk(device, gateway)
        made += sum(isinstance(event, ev.CheckpointAcked) for event in at_device)
        for event in at_gateway:
            if isinstance(event, ev.RequestReceived):
                gateway.respond(event.call, 0, [], b"")
    talk(device, gateway)
    assert EARLY_CHECKPOINTS < made <= EARLY_CHECKPOINTS + 2000 // CHECKPOINT_BLOCKS


def test_a_busy_connection_is_no_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.mmtp.exchange.FREE_FRAMES", 0)
    device, gateway = opened()
    for number in range(CHECKPOINT_BLOCKS * (Limits().control_frame_burst + 40)):
        device.request("pay", [(f"x-{number % 40}", str(number // 40))], b"")
        gateway.receive(device.to_send(1.0), 1.0)
        gateway.events()
        gateway.respond(number, 0, [(f"x-{number % 40}", str(number // 40))], b"")
        device.receive(gateway.to_send(1.0), 1.0)
        device.events()
    assert not device.closed
    assert not gateway.closed


@pytest.mark.parametrize(
    "frame",
    [
        table(TableKind.CHECKPOINT, b"\x02"),
        table(TableKind.CHECKPOINT, b"\x01\x00"),
        table(TableKind.CHECKPOINT_ACK, b"\x01"),
        table(TableKind.START, b"\x01"),
        table(TableKind.START, b"\x00"),
        table(TableKind.OFFER, b"\x09"),
        table(TableKind.CHUNK, b"\x09"),
        table(TableKind.HAVE, b"\x09\x01"),
        dictionary(DictKind.USE, encode_use(9)),
        dictionary(DictKind.OFFER, b"\x09"),
        dictionary(DictKind.WANT, b"\x00"),
        dictionary(DictKind.HAVE, encode_have(9, b"")),
    ],
    ids=lambda frame: frame.hex(),
)
def test_frames_that_a_gateway_does_not_take(frame: bytes) -> None:
    _, gateway = opened()
    assert refused(gateway, frame) is Status.PROTOCOL


@pytest.mark.parametrize(
    "frame",
    [
        table(TableKind.WANT, b"\x09"),
        table(TableKind.START, b"\x01"),
        table(TableKind.OFFER, b"\x09" + b"12345678" + encode_varint(65537)),
        dictionary(DictKind.USE, encode_use(9)),
        dictionary(DictKind.WANT, encode_want(9)),
        dictionary(DictKind.OFFER, b"\x09\x01\x08" + b"12345678" + b"\x03\x01\x00\x07\x01\x09"),
    ],
    ids=lambda frame: frame.hex(),
)
def test_frames_that_a_device_does_not_take(frame: bytes) -> None:
    device, _ = opened()
    assert refused(device, frame) is Status.PROTOCOL


def test_a_flood_of_exchanges_is_stopped() -> None:
    for flood in (dictionary(DictKind.WANT, encode_want(9)), table(TableKind.WANT, b"\x09")):
        _, gateway = opened()
        assert refused(gateway, flood * 1300) is Status.OVERLOAD
    device, gateway = opened()
    with pytest.raises(RemoteError) as caught:
        for number in range(1, 1300):
            device.request("a", [(f"x-{number}", "1")], b"")
            block = b"".join(frame for frame in split_frames(device.to_send(0.0)) if frame[0] >> 4 == FrameType.REQUEST)
            gateway.receive(block + table(TableKind.CHECKPOINT, encode_varint(number)), 1.0)
            gateway.reset(number - 1, Status.OVERLOAD)
            device.receive(gateway.to_send(1.0)[-4:], 1.0)
    assert caught.value.code == Status.OVERLOAD


# --- tables and dictionaries


def test_chunks_leave_one_at_a_time_behind_everything_else() -> None:
    device, gateway = opened()
    names = tuple(TableName(f"x-name-of-many-{number:04d}") for number in range(1000))
    gateway.offer_table(AppTable(9, 1, names))
    device.receive(gateway.to_send(1.0), 1.0)
    gateway.receive(device.to_send(1.0), 1.0)
    device.request("pay", HEADERS, b"")
    gateway.receive(device.to_send(1.0), 1.0)
    gateway.events()
    gateway.respond(0, 0, [], b"ok")
    sent = gateway.to_send(1.0)
    frames = [frame[0] >> 4 for frame in split_frames(sent)]
    assert frames[-3:] == [FrameType.RESPONSE, FrameType.TABLE, FrameType.PING]
    assert CHUNK < len(sent) < CHUNK + 64
    assert gateway.to_send(1.0) == b""
    gateway.ping()
    device.receive(sent + gateway.to_send(1.0), 1.0)
    at_device, at_gateway = talk(device, gateway)
    assert any(isinstance(event, ev.TableReceived) for event in at_device)
    assert sum(isinstance(event, ev.PongReceived) for event in at_gateway) == 1, "only the answer to our own ping"


def test_a_device_takes_no_more_than_it_has_room_for_whatever_offers_say() -> None:
    """A hostile gateway: small contents of large transfers, and sizes that grow with a second offer."""
    device, gateway = opened()
    gateway.to_send(1.0)
    device.take_offers(dictionary_bytes=100_000, tables=True)

    def offered(id: int, size: int, packed: int) -> bool:
        offer = DictOffer(id, bytes(8), size, packed, ("q*",))
        device.receive(dictionary(DictKind.OFFER, encode_offer(offer)), 1.0)
        return device.to_send(1.0) != b""

    assert [offered(id, 8, 60_000) for id in (1, 2, 3)] == [True, False, False]
    assert [offered(id, 8, 30) for id in (4, 5)] == [True, True]
    assert [offered(id, 65_000, 30) for id in (4, 5)] == [False, False]
    assert offered(1, 65_000, 65_000)  # in the place of the first offer of it
    assert not offered(6, 40_000, 40_000)


def test_an_offer_is_sent_once_however_often_it_is_wanted() -> None:
    _, gateway = opened()
    gateway.offer_dictionary(DICTIONARY)
    gateway.to_send(0.0)
    want = dictionary(DictKind.WANT, encode_want(5))
    gateway.receive(want * 10, 1.0)
    chunks = list(split_frames(gateway.to_send(1.0)))
    gateway.receive(want * 10, 1.0)
    assert len(chunks) == 1
    assert gateway.to_send(1.0) == b""


def test_bodies_of_a_secret_operation_are_raw() -> None:
    device, gateway = with_dictionary()
    for secret, coding in ((False, 1), (True, 0)):
        number = device.request("pay", [], BODY, secret=secret)
        request = next(frame for frame in split_frames(device.to_send(1.0)) if frame[0] >> 4 == FrameType.REQUEST)
        gateway.receive(request, 1.0)
        gateway.respond(number, 0, [], BODY, secret=secret)
        response = gateway.to_send(1.0)
        assert (request[0] >> 1 & 3, response[0] >> 1 & 3) == (coding, coding)


def test_a_mini_that_credit_cuts_is_joined() -> None:
    device, gateway = with_dictionary()
    gateway.update_settings({10: 5})
    talk(device, gateway)
    device.request("pay", [], BODY)
    _, events = talk(device, gateway)
    body = b""
    while True:
        for event in events:
            if isinstance(event, ev.RequestReceived | ev.DataReceived):
                body += event.body if isinstance(event, ev.RequestReceived) else event.data
                gateway.consumed(event.call, event.wire_size)
        if body:
            break
        events = talk(device, gateway)[1]
    assert body == BODY


def test_a_push_is_compressed_once_for_all_that_have_the_dictionary() -> None:
    _, first = with_dictionary()
    device, second = with_dictionary()
    assert first.push_dictionary("news") is second.push_dictionary("news") is DICTIONARY
    assert first.push_dictionary("orders") is None
    frame = encode_push(1, BODY, dictionary=DICTIONARY)
    assert len(frame) < len(BODY)
    for gateway in (first, second):
        gateway.introduce_stream(1, StreamCursor("topic", "t", "news", 1, 0))
        gateway.send_push(1, 1, frame, len(BODY), "token")
    at_device, _ = talk(device, second)
    assert at_device[0].body == BODY


def test_streams_with_history_take_bodies_and_no_frames() -> None:
    device, gateway = opened()
    gateway.introduce_stream(1, StreamCursor("user", "u", "news", 1, 0), history=100)
    with pytest.raises(LocalError):
        gateway.send_push(1, 1, encode_push(1, BODY), len(BODY), 1)
    assert gateway.offer_body(1, 1, SharedBody(BODY), 1)
    gateway.introduce_stream(2, StreamCursor("user", "u", "other", 1, 0))
    with pytest.raises(LocalError):
        gateway.offer_body(2, 1, SharedBody(BODY), 1)
    assert talk(device, gateway)[0][0].body == BODY


def test_histories_of_a_connection_are_bounded() -> None:
    device, gateway = opened()
    for alias in range(70):
        gateway.introduce_stream(alias, StreamCursor("user", str(alias), "news", 1, 0), history=4096)
    assert sum(gateway.stream_has_history(alias) for alias in range(70)) == 64
    talk(device, gateway)


def test_a_device_that_takes_none_of_it_is_left_alone() -> None:
    device, gateway = opened(frozenset(("zstd",)))
    for offer in (lambda: gateway.offer_dictionary(DICTIONARY), lambda: gateway.offer_table(GENERIC)):
        with pytest.raises(LocalError):
            offer()
    gateway.introduce_stream(1, StreamCursor("user", "u", "news", 1, 0), history=100)
    assert not gateway.stream_has_history(1)
    assert gateway.push_dictionary("news") is None
    for side in (device, gateway):
        assert side._receiver.exchange is None
        assert side._wire.uses is None


def test_an_idle_connection_that_uses_profile_d_is_small() -> None:
    _, gateway = opened()
    exchange = gateway._receiver.exchange
    assert exchange is not None
    assert sys.getsizeof(exchange) + sys.getsizeof(gateway._wire.headers) < 320


# --- any bytes


FRAMES = st.one_of(
    st.builds(table, st.sampled_from(list(TableKind)), st.binary(max_size=40)),
    st.builds(dictionary, st.sampled_from(list(DictKind)), st.binary(max_size=40)),
    st.builds(
        lambda kind, number, rest: table(kind, encode_varint(number) + rest),
        st.sampled_from(list(TableKind)),
        st.integers(0, 9),
        st.sampled_from([b"", GENERIC.digest, GENERIC.digest + b"\x10", b"\0abc"]),
    ),
    st.builds(
        lambda kind, number, rest: dictionary(kind, encode_varint(number) + rest),
        st.sampled_from(list(DictKind)),
        st.integers(0, 9),
        st.sampled_from([b"", DICTIONARY.digest, b"\x05", b"\0" * 30, b"qpay"]),
    ),
    st.builds(
        lambda flags, payload: encode_frame(FrameType.REQUEST, flags, payload),
        st.integers(0, 7),
        st.binary(max_size=40),
    ),
)


@given(st.lists(FRAMES, max_size=12), st.booleans(), st.integers(1, 50))
@settings(max_examples=300, deadline=None)
def test_any_frames_raise_only_remote_errors(frames: list[bytes], at_gateway: bool, step: int) -> None:
    device, gateway = with_dictionary()
    side = gateway if at_gateway else device
    data = b"".join(frames)
    try:
        for start in range(0, len(data), step):
            side.receive(data[start : start + step], 1.0)
    except RemoteError:
        assert side.closed
    side.to_send(1.0)
    side.events()


@given(st.lists(FRAMES, max_size=12), st.integers(0, 3), st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_any_frames_before_welcome_raise_only_remote_errors(frames: list[bytes], up: int, down: int) -> None:
    from protocols.mmtp.handshake import encode_hello

    gateway = Connection(Role.SERVER, limits=Limits(), now=0.0)
    named = NamedStates(1, GENERIC.digest, up, b"12345678", down, b"12345678")
    hello = Hello("d1", capabilities=CAPABILITIES, headers=named, bundle=b"12345678")
    gateway.receive(encode_frame(FrameType.HELLO, 0, encode_hello(hello)), 0.0)
    try:
        for frame in frames:
            gateway.receive(frame, 1.0)
        gateway.send_welcome(Welcome(), FoundStates())
    except RemoteError:
        assert gateway.closed
    gateway.to_send(1.0)
    gateway.events()


def test_credit_for_a_call_that_waits_for_welcome_waits_with_it() -> None:
    device, gateway = sides()
    device.request("pay", HEADERS, BODY)
    gateway.receive(device.to_send(0.0) + encode_window(2, 200_000), 0.0)
    gateway.send_welcome(Welcome(), FoundStates())
    _, at_gateway = talk(device, gateway)
    (request,) = [event for event in at_gateway if isinstance(event, ev.RequestReceived)]
    gateway.respond(request.call, 0, [], bytes(100_000), more=True)
    assert gateway.unsent(request.call) == 0  # more than the call's window was at first

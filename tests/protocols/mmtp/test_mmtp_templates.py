"""Profile D of header blocks: round trips, equal states on both sides, sizes, and what hostile blocks come to."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import LocalError, RemoteError
from protocols.mmtp.statuses import Status
from protocols.mmtp.tables import AppTable, TableName, ValueType
from protocols.mmtp.template_state import MAX_TEMPLATE_FIELDS
from protocols.mmtp.templates import MAX_STATE, MAX_TEMPLATES, TemplateDecoder, TemplateEncoder, decode_state

MAX_HEADERS = 65536
MAX_FIELDS = 64
OPERATIONS = tuple(
    f"com.example.{name}" for name in ("pay.create", "pay.confirm", "bill.list", "feed.list", "log.send")
)
TABLE = AppTable(
    7,
    3,
    (
        TableName(":op", ValueType.ENUM, OPERATIONS),
        TableName("content-type", ValueType.ENUM, ("application/json", "application/protobuf", "纯文本")),
        *(TableName(name) for name in ["method", "scheme", "host", "path", "app-id", "workspace", "platform"]),
        *(TableName(name) for name in ["app-version", "did", "model"]),
        *(TableName(name) for name in ["user-agent", "accept-language", "network", "session-hint", "zone"]),
        *(TableName(name, ValueType.UINT) for name in ["version", "retryable", "status", "result", "length"]),
        *(TableName(name, ValueType.TIME) for name in ("ts", "server-time")),
        *(TableName(name, ValueType.HEX) for name in ("trace", "sign", "device-token")),
    ),
    (("method", "POST"), ("scheme", "https"), ("host", "gw.example.com"), ("path", "/gw.htm"),
     ("app-id", "APP4021517"), ("workspace", "prod"), ("version", "2"), ("platform", "ANDROID"),
     ("accept-language", "zh-Hans"), ("network", "4G"), ("status", "200")),
)  # fmt: skip

Fields = list[tuple[str, str]]


class Pair:
    """An encoder and its decoder, whose states must never differ."""

    def __init__(self, table: AppTable = TABLE) -> None:
        self.table = table
        self.encoder = TemplateEncoder(table)
        self.decoder = TemplateDecoder(table)

    def send(self, fields: Fields) -> bytes:
        block = self.encoder.encode(fields, MAX_HEADERS, 1000)
        assert self.decoder.decode(block, MAX_HEADERS, 1000) == fields
        return block

    def same_state(self) -> bytes:
        ours, theirs = self.encoder.checkpoint(), self.decoder.checkpoint()
        assert ours.encoded == theirs.encoded
        assert ours.digest == theirs.digest == hashlib.sha256(ours.encoded).digest()[:8]
        return ours.encoded

    def resume(self) -> None:
        state = decode_state(self.same_state(), self.table)
        self.encoder = TemplateEncoder.resumed(self.table, state)
        self.decoder = TemplateDecoder.resumed(self.table, state)


class Device:
    """Headers of one made-up device, of the sizes that large mobile apps have."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        self.did = "".join(self.random.choices(alphabet, k=32))
        self.hint = "".join(self.random.choices(alphabet, k=72))
        self.now = 1_718_000_000_000

    def hex(self) -> str:
        return f"{self.random.getrandbits(128):032x}"

    def request(self) -> Fields:
        self.now += int(self.random.expovariate(1 / 4000)) + 40
        return [
            (":op", self.random.choice(OPERATIONS)), ("method", "POST"), ("scheme", "https"),
            ("host", "gw.example.com"), ("path", "/gw.htm"),
            ("content-type", "application/protobuf" if self.random.random() < 0.36 else "application/json"),
            ("app-id", "APP4021517"), ("workspace", "prod"), ("version", "2"), ("platform", "ANDROID"),
            ("app-version", "10.5.20.8000"), ("did", self.did), ("model", "HONOR-100"),
            ("user-agent", "ExampleWallet/10.5.20.8000 (HONOR-100; Android 14; zh; Scale/3.0)"),
            ("accept-language", "zh-Hans"), ("network", "4G"), ("session-hint", self.hint), ("ts", str(self.now)),
            ("trace", self.hex()), ("sign", self.hex()), ("retryable", "0" if self.random.random() < 0.14 else "1"),
        ]  # fmt: skip

    def response(self) -> Fields:
        return [
            ("status", "200"), ("result", "1000" if self.random.random() < 0.96 else "2000"),
            ("content-type", "application/protobuf" if self.random.random() < 0.36 else "application/json"),
            ("server-time", str(self.now + self.random.randrange(20, 300))), ("zone", "gz07"), ("trace", self.hex()),
            ("length", str(self.random.randrange(40, 5000))),
        ]  # fmt: skip


NAMES = st.sampled_from([entry.name for entry in TABLE.names[1:]] + ["x-new", "x-other", "cookie", "x-user-token"])
VALUES = st.one_of(
    st.sampled_from(
        ["POST", "200", "", "0", "00", "1", "18446744073709551614", "18446744073709551615", "abcd", "ABCD"]
    ),
    st.sampled_from(
        ["9007199254740991", "9007199254740992", "1718000000000", "纯文本", "application/json", "+1", "１"]
    ),
    st.text(st.characters(exclude_characters="\0\r\n", exclude_categories=("Cs",)), max_size=20),
    st.binary(min_size=1, max_size=20).map(bytes.hex),
    st.integers(0, 1 << 64).map(str),
)
FIELD = st.tuples(NAMES, VALUES)
OPERATION = st.sampled_from([*OPERATIONS, "other.operation"]).map(lambda value: [(":op", value)])
LISTS = st.tuples(st.one_of(st.just([]), OPERATION), st.lists(FIELD, max_size=9)).map(lambda parts: parts[0] + parts[1])


@st.composite
def streams(draw: st.DrawFn) -> list[Fields]:
    """Lists of which many share their names, with some of the values changed."""
    shapes = draw(st.lists(LISTS, min_size=1, max_size=4))
    stream = []
    for _ in range(draw(st.integers(1, 14))):
        fields = list(draw(st.sampled_from(shapes)))
        for place in draw(st.lists(st.integers(0, max(len(fields) - 1, 0)), max_size=4)):
            if fields:
                fields[place] = (fields[place][0], draw(VALUES))
        stream.append(fields)
    return stream


@settings(max_examples=150, deadline=None)
@given(streams(), st.integers(0, 14))
def test_lists_come_out_as_they_went_in_and_the_states_stay_equal(stream: list[Fields], resume_at: int) -> None:
    pair = Pair()
    for number, fields in enumerate(stream):
        if number == resume_at:
            pair.resume()
        before = pair.same_state()
        pair.send(fields)
        after_changed = pair.encoder.changed
        after = pair.same_state()
        if not after_changed:
            assert templates_of(after) == templates_of(before)


def templates_of(encoded: bytes) -> bytes:
    state = decode_state(encoded, TABLE)
    state.time = 0
    state._encoded = None
    return state.encoded


@settings(max_examples=200, deadline=None)
@given(streams(), st.data())
def test_hostile_blocks_raise_only_compression_errors_and_leave_the_state(
    stream: list[Fields], data: st.DataObject
) -> None:
    pair = Pair()
    block = b""
    for fields in stream:
        block = pair.send(fields)
    how = data.draw(st.sampled_from(("random", "cut", "changed", "longer")))
    if how == "random":
        hostile = data.draw(st.binary(max_size=60))
    elif how == "cut":
        hostile = block[: data.draw(st.integers(0, len(block)))]
    elif how == "longer":
        hostile = block + data.draw(st.binary(min_size=1, max_size=5))
    else:
        changed = bytearray(block)
        for _ in range(data.draw(st.integers(1, 3)) if changed else 0):
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
        hostile = bytes(changed)
    before = pair.decoder.checkpoint().encoded
    try:
        fields = pair.decoder.decode(hostile, 300, 8)
    except RemoteError as error:
        assert error.code == Status.COMPRESSION
        assert pair.decoder.checkpoint().encoded == before
    else:
        assert len(fields) <= 8
        assert sum(len(name) + len(value.encode()) + 32 for name, value in fields) <= 300
        assert all("\0" not in value and "\n" not in value and "\r" not in value for _, value in fields)
        state = pair.decoder.checkpoint()
        assert decode_state(state.encoded, TABLE).encoded == state.encoded


@settings(max_examples=200, deadline=None)
@given(streams(), st.data())
def test_hostile_states_raise_only_compression_errors(stream: list[Fields], data: st.DataObject) -> None:
    pair = Pair()
    for fields in stream:
        pair.send(fields)
    encoded = bytearray(pair.same_state())
    for _ in range(data.draw(st.integers(0, 3))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    del encoded[data.draw(st.integers(0, 2 * len(encoded))) :]
    try:
        state = decode_state(bytes(encoded), TABLE)
    except RemoteError as error:
        assert error.code == Status.COMPRESSION
        return
    for template in state.templates:
        assert all(value is None for name, value in template.fields if name in ("cookie", "x-user-token"))
    state._encoded = None
    assert state.encoded == encoded


def test_requests_take_at_most_220_bytes_first_and_42_then_also_resumed() -> None:
    first, later, resumed = [], [], []
    for seed in range(40):
        device, pair = Device(seed), Pair()
        first.append(len(pair.send(device.request())))
        later += [len(pair.send(device.request())) for _ in range(19)]
        pair.resume()
        resumed += [len(pair.send(device.request())) for _ in range(5)]
        assert len(pair.same_state()) <= 600
    assert sum(first) / len(first) <= 220
    assert max(first) <= 225
    assert sum(later) / len(later) <= 38.6
    assert sum(resumed) / len(resumed) <= 38.6


def test_responses_take_at_most_50_bytes_first_and_24_then() -> None:
    first, later = [], []
    for seed in range(40):
        device, pair = Device(seed), Pair()
        first.append(len(pair.send(device.response())))
        later += [len(pair.send(device.response())) for _ in range(19)]
    assert max(first) <= 50
    assert sum(later) / len(later) <= 24


def test_a_second_shape_is_copied_from_the_first() -> None:
    device, pair = Device(1), Pair()
    for _ in range(5):
        pair.send(device.request())
    fields = device.request()
    fields.insert(12, ("x-unit-hint", "GZ07"))
    assert len(pair.send(fields)) <= 70
    fields = device.request()
    fields.insert(12, ("x-unit-hint", "GZ07"))
    assert len(pair.send(fields)) <= 42


def test_a_field_that_changes_becomes_a_hole_and_one_that_settles_is_fixed_again() -> None:
    pair = Pair()
    sizes = [len(pair.send([("method", "GET"), ("x-thing", f"some text, number {n}")])) for n in range(6)]
    assert max(sizes[2:]) < sizes[1]
    sizes = [len(pair.send([("method", "GET"), ("x-thing", "some text that stays as it is")])) for n in range(8)]
    assert sizes[-1] == 1


def test_a_field_that_rarely_changes_stays_fixed() -> None:
    pair = Pair()
    for n in range(40):
        size = len(pair.send([("network", "WIFI" if n % 10 == 5 else "5G"), ("zone", "gz07")]))
        assert size == 1 or n == 0 or n % 10 in (5, 6)


def test_hex_values_of_another_size_are_sent_with_their_sizes_until_they_stay() -> None:
    pair = Pair()
    pair.send([("trace", "00" * 16)])
    pair.send([("trace", "01" * 16)])
    assert len(pair.send([("trace", "02" * 16)])) == 17
    assert len(pair.send([("trace", "03" * 8)])) == 10
    assert len(pair.send([("trace", "04" * 8)])) == 11
    assert len(pair.send([("trace", "05" * 8)])) == 9
    assert len(pair.send([("trace", "NO HEX")])) > 5
    assert len(pair.send([("trace", "06" * 8)])) == 9


def test_a_steady_list_is_one_byte_and_an_empty_one_none() -> None:
    pair = Pair()
    pair.send([("zone", "gz07")])
    assert pair.encoder.changed
    state = pair.same_state()
    assert pair.send([("zone", "gz07")]) == b"\0"
    assert pair.send([]) == b""
    assert not pair.encoder.changed
    assert pair.same_state() == state


def test_templates_are_replaced_when_there_are_more_than_there_is_room_for() -> None:
    pair = Pair()
    for n in range(MAX_TEMPLATES + 8):
        pair.send([("method", "GET"), (f"x-header-{n}", "value")])
        pair.send([("method", "GET")])
        pair.same_state()
    state = pair.encoder.checkpoint()
    assert len(state.templates) == MAX_TEMPLATES
    assert pair.send([("method", "GET")]) == bytes((state.templates[1].slot << 2,))


def test_the_weight_of_all_templates_is_bounded() -> None:
    pair = Pair()
    for n in range(40):
        pair.send([(f"x-header-{n}", f"{n}" + "v" * 500)])
        assert sum(template.weight for template in pair.encoder.checkpoint().templates) <= MAX_STATE
        pair.same_state()
    for n in range(12):
        fields = [(f"x-{m}", "w" * 400 if m == n else "") for m in range(12)]
        pair.send(fields)
        assert sum(template.weight for template in pair.encoder.checkpoint().templates) <= MAX_STATE
        pair.same_state()


def test_what_no_template_can_hold_is_sent_and_not_kept() -> None:
    pair = Pair()
    state = pair.same_state()
    assert pair.send([(f"x-{n}", "v" * 500) for n in range(12)])[0] == 0xC0
    pair.send([("zone", "z")] * (MAX_TEMPLATE_FIELDS + 1))
    assert not pair.encoder.changed
    assert pair.same_state() == state


def test_large_values_wait_as_holes_until_they_repeat() -> None:
    pair = Pair()
    sizes = [len(pair.send([("x-large", "Q" * 1000)])) for _ in range(6)]
    assert sizes[0] > 700
    assert sizes[-1] == 1


def test_credentials_are_never_in_the_state() -> None:
    pair = Pair()
    for _ in range(6):
        pair.send([("zone", "gz07"), ("authorization", "Bearer secret-one"), ("device-token", "ab" * 16)])
        encoded = pair.same_state()
        assert b"secret" not in encoded
        assert b"\xab\xab" not in encoded
        assert b"abab" not in encoded


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (bytes((0x80, 3, 12)) + b"cookie" + bytes((2,)) + b"x", "a credential made part of a template"),
        (bytes((0x80, 3, 12)) + b"Cookie" + bytes((2,)) + b"x", "expected a lower-case name"),
        (bytes((0x80, 3, 0, 2)) + b"x", "expected a lower-case name"),
        (bytes((0x80, 3, 2)) + b"a" + bytes((2,)) + b"\n", "NUL, CR or LF"),
        (bytes((0x80, 3, 2)) + b"a" + bytes((2,)) + b"\xff", "UnicodeDecodeError"),
        (bytes((0x80, 3, 2)) + b"a" + bytes((3,)) + b"\xff", "HPACKDecodingError"),
        (bytes((0x80, 3, 2)) + b"a" + bytes((20,)) + b"x", "expected at most 1 bytes"),
        (bytes((0x80, 0x81, 0x80, 0)), "not in its shortest form"),
        (bytes((0x80,)), "without fields"),
        (bytes((0x80, 0x80)), "cut off"),
        (bytes((0xA0, 1)), "expected a full block"),
        (bytes((0xC1, 1)), "expected a full block"),
        (bytes((0xE0, 0x80, 1)), "no template 0 to drop"),
        (bytes((0xE0,)), "no template 0 to drop"),
        (bytes((0,)), "no template 0"),
        (bytes((0x80, 11, 1)), "no template 0"),
        (bytes((0x80, 0xFD, 0x7F)), "pairs"),
        (bytes((0x80, 0xFC, 0x7F)), "names"),
        (bytes((0x80, 1)) * 1, ""),
        (bytes((0x80, 1, 0, 2)) + b"x", "only first"),
        (bytes((0x80, 2, 99)), "enum"),
        (bytes((0x80, 23 << 2 | 2, 2)), "time"),
    ],
)  # fmt: skip
def test_malformed_first_blocks(block: bytes, why: str) -> None:
    decoder = TemplateDecoder(TABLE)
    if not why:
        assert decoder.decode(block, MAX_HEADERS, MAX_FIELDS) == [("method", "POST")]
        return
    with pytest.raises(RemoteError, match=why) as caught:
        decoder.decode(block, MAX_HEADERS, MAX_FIELDS)
    assert caught.value.code == Status.COMPRESSION
    assert decoder.checkpoint().encoded == TemplateDecoder(TABLE).checkpoint().encoded


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (bytes((1, 1 << 2, 2)) + b"x", "a credential made part of a template"),
        (bytes((1, 5 << 2, 2)) + b"x", "expected one of 3 fields"),
        (bytes((1, 2, 2)) + b"x", "cut off"),
        (bytes((0, 2)) + b"x", "expected 19 bytes"),
        (bytes((0,)), "cut off"),
        (bytes((0, 2)) + b"x" + bytes(17), "expected 19 bytes"),
        (bytes((2, 2)) + b"x" + bytes((1,)), "hex: expected"),
    ],
)
def test_malformed_later_blocks(block: bytes, why: str) -> None:
    decoder = TemplateDecoder(TABLE)
    fields = [("zone", "z"), ("cookie", "c"), ("trace", "00" * 16)]
    encoder = TemplateEncoder(TABLE)
    decoder.decode(encoder.encode(fields), MAX_HEADERS, MAX_FIELDS)
    changed = [("zone", "z"), ("cookie", "c"), ("trace", "01" * 16)]
    decoder.decode(encoder.encode(changed), MAX_HEADERS, MAX_FIELDS)
    before = decoder.checkpoint().encoded
    with pytest.raises(RemoteError, match=why) as caught:
        decoder.decode(block, MAX_HEADERS, MAX_FIELDS)
    assert caught.value.code == Status.COMPRESSION
    assert decoder.checkpoint().encoded == before


def test_the_decoder_holds_to_its_bounds() -> None:
    encoder, decoder = TemplateEncoder(TABLE), TemplateDecoder(TABLE)
    fields = [("zone", "v" * 100), ("method", "POST")]
    block = encoder.encode(fields)
    for max_headers, max_fields in ((20, 64), (173, 64), (174, 1)):
        with pytest.raises(RemoteError) as caught:
            decoder.decode(block, max_headers, max_fields)
        assert caught.value.code == Status.COMPRESSION
    assert decoder.decode(block, 178, 2) == fields
    block = encoder.encode(fields)
    for max_headers, max_fields in ((177, 64), (178, 1)):
        with pytest.raises(RemoteError):
            decoder.decode(block, max_headers, max_fields)
    assert decoder.decode(block, 178, 2) == fields


@pytest.mark.parametrize(
    "fields",
    [
        [("Zone", "x")], [("", "x")], [("zone", "a\nb")], [("zone", "a\0")], [("zone", "\ud800")],
        [("zone", "x"), (":op", "x")], [(":path", "/")], [("trace", "12\r")], [("zone", "x" * 70000)],
        [("zone", "x")] * 65,
    ],
)  # fmt: skip
def test_what_cannot_be_sent_leaves_the_encoder_as_it_was(fields: Fields) -> None:
    pair = Pair()
    usual = [("zone", "gz07"), ("trace", "00" * 16), ("ts", "1")]
    pair.send(usual)
    state = pair.same_state()
    with pytest.raises(LocalError):
        pair.encoder.encode(fields, MAX_HEADERS, MAX_FIELDS)
    for value in ("a\nb", "\ud800", "x" * 70000):
        for place in range(3):
            changed = list(usual)
            changed[place] = (changed[place][0], value)
            with pytest.raises(LocalError):
                pair.encoder.encode(changed, MAX_HEADERS, MAX_FIELDS)
    assert not pair.encoder.changed
    assert pair.same_state() == state
    assert len(pair.send(usual)) < 24


def test_a_state_of_another_table_is_not_resumed() -> None:
    state = Pair().encoder.checkpoint()
    other = AppTable(8, 1, TABLE.names)
    for cls in (TemplateEncoder, TemplateDecoder):
        with pytest.raises(LocalError):
            cls.resumed(other, state)

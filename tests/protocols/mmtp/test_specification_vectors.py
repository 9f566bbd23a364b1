"""Executes every vector of docs/spec/mmtp.md.

Its header blocks are examples of one encoder's choice, that of the package hpack: with it the bytes are compared, with
libnghttp2, where it is installed, what they mean.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from protocols.errors import RemoteError
from protocols.mmtp import (
    Connection,
    Goaway,
    Hello,
    Limits,
    Retry,
    Role,
    Status,
    StreamCursor,
    Welcome,
    hpack_backends,
    http_from_status,
    retry_of,
    status_from_http,
)
from protocols.mmtp.bodies import Declined, StreamDecompressor, begin
from protocols.mmtp.fields import sized
from protocols.mmtp.frames import FrameType
from protocols.mmtp.handshake import decode_goaway
from protocols.mmtp.hpack_backends import get_backend
from protocols.mmtp.settings import ALLOWED, DEFAULTS
from protocols.mmtp.settings import NAMES as SETTING_NAMES
from protocols.mmtp.short import (
    ShortCall,
    ShortRequest,
    ShortResponse,
    decode_short_request,
    decode_short_response,
    encode_short_request,
    encode_short_response,
    verify_tag,
)
from protocols.mmtp.state import CALL, CallInput, CallState
from protocols.mmtp.varint import decode_varint, encode_varint
from tests.protocols.mmtp.dialogue import SPECIFICATION, Player, blocks, split_frames

DIALOGUES = blocks("dialogue")
PURE = get_backend("hpack")


def has_nghttp2() -> bool:
    try:
        get_backend("nghttp2")
    except ImportError:
        return False
    return True


needs_nghttp2 = pytest.mark.skipif(not has_nghttp2(), reason="libnghttp2 is not installed")
BACKENDS = [pytest.param("hpack"), pytest.param("nghttp2", marks=needs_nghttp2)]


@pytest.fixture(autouse=True, params=["hpack", "nghttp2"])
def encodes_as_the_specification_does(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of the vectors are the package hpack's, since an encoder may choose; every decoder has to read them."""
    try:
        decoder = hpack_backends.get_backend(request.param).make_decoder
    except ImportError:
        pytest.skip("libnghttp2 is not there")
    encoder = hpack_backends.get_backend("hpack").make_encoder
    monkeypatch.setattr(hpack_backends, "_chosen", hpack_backends.Backend("vectors", encoder, decoder))


def name_of(dialogue: str) -> str:
    return dialogue.splitlines()[0].removeprefix("name:").strip()


def lines_of(kind: str) -> list[str]:
    return [line for block in blocks(kind) for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("dialogue", DIALOGUES, ids=name_of)
def test_dialogue(dialogue: str) -> None:
    Player().play(dialogue)


@pytest.mark.parametrize("dialogue", DIALOGUES, ids=name_of)
def test_dialogue_that_arrives_byte_by_byte(dialogue: str) -> None:
    Player(step=1).play(dialogue)


@needs_nghttp2
@pytest.mark.parametrize("step", [1 << 30, 1])
@pytest.mark.parametrize("as_written", [True, False], ids=["its bytes", "our bytes"])
@pytest.mark.parametrize("dialogue", DIALOGUES, ids=name_of)
def test_dialogue_means_the_same_with_libnghttp2(dialogue: str, as_written: bool, step: int) -> None:
    Player(step, hpack="nghttp2", as_written=as_written).play(dialogue)


@needs_nghttp2
def test_a_changed_dialogue_fails_with_libnghttp2() -> None:
    dialogue = next(d for d in DIALOGUES if name_of(d) == "a call and its answer")
    for old, new in (('"body": "paid", "wire', '"body": "pain", "wire'), ("C> 80", "C> 90"), ("C> 3", "C> 4")):
        assert old in dialogue
        for as_written in (True, False):
            with pytest.raises(AssertionError):
                Player(hpack="nghttp2", as_written=as_written).play(dialogue.replace(old, new))


def test_the_four_crossings_are_there() -> None:
    names = " ".join(name_of(dialogue) for dialogue in DIALOGUES)
    assert all(f"crossing {number}" in names for number in (1, 2, 3, 4))


def test_a_changed_dialogue_fails() -> None:
    dialogue = next(d for d in DIALOGUES if name_of(d) == "a call and its answer")
    for old, new in (('"body": "paid", "wire', '"body": "pain", "wire'), ("C> 80", "C> 81"), ("S> 4012", "S> 4013")):
        assert old in dialogue
        with pytest.raises(AssertionError):
            Player().play(dialogue.replace(old, new))


@pytest.mark.parametrize("line", lines_of("varint"))
def test_varint(line: str) -> None:
    number, coded = line.split()
    assert encode_varint(int(number)).hex() == coded
    assert decode_varint(bytes.fromhex(coded), 0, len(coded) // 2) == (int(number), len(coded) // 2)


def gateway(where: str) -> Connection:
    connection = Connection(Role.SERVER, limits=Limits(), now=0.0)
    if where == "open":
        connection.receive(bytes.fromhex("800701010103026431"), 0.0)
        connection.send_welcome(Welcome())
        assert connection.to_send(0.0).hex() == "9000"
    return connection


@pytest.mark.parametrize("line", lines_of("malformed"), ids=lambda line: line.partition("#")[2].strip())
def test_malformed_input(line: str) -> None:
    words, _, _ = line.partition("#")
    where, status, coded = words.split(maxsplit=2)
    data = bytes.fromhex(coded)
    for step in (len(data), 1):
        connection = gateway(where)
        with pytest.raises(RemoteError) as caught:
            for start in range(0, len(data), step):
                connection.receive(data[start : start + step], 0.0)
        assert Status(caught.value.code).name == status
        last = list(split_frames(connection.to_send(0.0)))[-1]
        assert last[0] >> 4 == FrameType.GOAWAY
        assert decode_goaway(last, 2, len(last)).status == caught.value.code
        assert connection.closed
        connection.receive(data, 0.0)
        connection.go_away(Goaway())
        assert connection.to_send(0.0) == b""


def outcome(body: bytes, split: int | None) -> str:
    try:
        if split is None:
            expanded, _ = begin(2, body, False, True, Limits())
        else:
            stream = StreamDecompressor(Limits())
            expanded = stream.feed(body[:split], False) + stream.feed(body[split:], True)
    except RemoteError as error:
        return Status(error.code).name
    except Declined:
        return "DICTIONARY_MISS"
    assert expanded == b"a" * 300
    return "ok"


@pytest.mark.parametrize("line", lines_of("bodies"), ids=lambda line: line.partition("#")[2].strip())
def test_bodies(line: str) -> None:
    expected, _, coded = line.partition("#")[0].strip().partition(" ")
    body = bytes.fromhex(coded)
    assert outcome(body, None) == expected
    for split in range(len(body) + 1):
        assert outcome(body, split) == expected, f"split at {split}"


SHORT: dict[str, dict[str, Any]] = {vector["name"]: vector for vector in map(json.loads, lines_of("short"))}


def calls_of(vector: dict[str, Any]) -> list[ShortCall]:
    return [
        ShortCall(
            c["call_id"],
            c["operation"],
            [(n, v) for n, v in c["headers"]],
            c["body"].encode(),
            c["resent"],
            c["timeout"],
        )
        for c in vector["calls"]
    ]


def test_short_request_with_a_session() -> None:
    vector = SHORT["request with a session"]
    key = bytes.fromhex(vector["mac_key"])
    cursors = [StreamCursor(*cursor) for cursor in vector["cursors"]]
    request = ShortRequest(
        vector["session"], vector["counter"], vector["time"], None, cursors, vector["max_pushes"], calls_of(vector)
    )
    coded = encode_short_request(request, mac_key=key, listener=vector["listener"], hpack=PURE)
    assert coded.hex() == vector["hex"]
    decoded = decode_short_request(bytes.fromhex(vector["hex"]), Limits())
    assert (decoded.content.hex(), decoded.tag.hex()) == (vector["content"], vector["tag"])
    assert verify_tag(decoded, key, vector["listener"])
    decoded.content, decoded.tag = b"", b""
    assert decoded == request
    before = sized(vector["listener"].lower().encode()) + sized(vector["session"].encode())
    assert vector["tag_input_before_digest"].startswith(before.hex())


@pytest.mark.parametrize("hpack", BACKENDS)
@pytest.mark.parametrize("name", ["request with a session", "request with HELLO"])
def test_a_short_request_means_the_same_whoever_codes_it(name: str, hpack: str) -> None:
    vector = SHORT[name]
    key, listener = bytes.fromhex(vector.get("mac_key", "")), vector.get("listener", "")
    written = decode_short_request(bytes.fromhex(vector["hex"]), Limits())
    coded = encode_short_request(written, mac_key=key, listener=listener, hpack=get_backend(hpack))
    decoded = decode_short_request(coded, Limits())
    if written.hello is None:
        assert verify_tag(decoded, key, listener)
    for one in (written, decoded):
        one.content = one.tag = b""
    assert decoded == written


@pytest.mark.parametrize("hpack", BACKENDS)
@pytest.mark.parametrize("name", ["response", "session unknown"])
def test_a_short_response_means_the_same_whoever_codes_it(name: str, hpack: str) -> None:
    written = decode_short_response(bytes.fromhex(SHORT[name]["hex"]), Limits())
    assert decode_short_response(encode_short_response(written, hpack=get_backend(hpack)), Limits()) == written


def test_short_request_with_hello() -> None:
    vector = SHORT["request with HELLO"]
    decoded = decode_short_request(bytes.fromhex(vector["hex"]), Limits())
    assert decoded.hello == Hello(
        vector["device"], token=vector["token"], cursors=[StreamCursor("user", "u1", "orders", 1, 42)]
    )
    assert decoded.calls == calls_of(vector)
    assert decoded.max_pushes == vector["max_pushes"]
    assert encode_short_request(decoded, hpack=PURE).hex() == vector["hex"]


@pytest.mark.parametrize("name", ["response", "session unknown"])
def test_short_response(name: str) -> None:
    vector = SHORT[name]
    decoded: ShortResponse = decode_short_response(bytes.fromhex(vector["hex"]), Limits())
    assert decoded.status == vector["status"]
    assert decoded.time == vector["time"]
    assert decoded.more_pushes == vector["more_pushes"]
    assert [
        {
            "index": a.index,
            "status": a.status,
            "headers": [list(h) for h in a.headers],
            "body": a.body.decode(),
            "reset": a.reset,
        }
        for a in decoded.answers
    ] == vector["answers"]
    assert [[p.scope, p.id, p.biz, p.epoch, p.seq, p.body.decode()] for p in decoded.pushes] == vector["pushes"]
    assert (decoded.welcome.session if decoded.welcome else "") == vector.get("session", "")
    assert encode_short_response(decoded, hpack=PURE).hex() == vector["hex"]


def rows_after(heading: str, columns: tuple[str, ...]) -> list[list[str]]:
    """The rows of the first table with these columns below a heading of the specification."""
    lines = SPECIFICATION.read_text().partition(heading)[2].splitlines()
    head = "| " + " | ".join(columns) + " |"
    rows: list[list[str]] = []
    for line in lines[lines.index(head) + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


INPUTS: dict[str, tuple[CallInput, ...]] = {
    "DATA with *more* from the device": (CallInput.UP_MORE,),
    "DATA or RESET from the device": (CallInput.UP_LAST, CallInput.CANCEL),
    "RESET from the device": (CallInput.CANCEL,),
    "RESPONSE with *more*": (CallInput.RESPONSE_MORE,),
    "RESPONSE": (CallInput.RESPONSE_LAST,),
    "DATA with *more* from the gateway": (CallInput.DOWN_MORE,),
    "DATA from the gateway": (CallInput.DOWN_LAST,),
    "RESET from the gateway": (CallInput.RESET,),
}


def test_the_table_of_call_states_is_the_code_s() -> None:
    stated: dict[tuple[CallState, CallInput], CallState] = {}
    for states, frame, following in rows_after("### 6.2", ("state", "frame", "next")):
        if frame not in INPUTS or states.startswith(("(none)", "`ended`")):
            continue
        names = [name.strip(" `") for name in states.split(",")]
        if states == "any but `ended`":
            names = [state.name.lower() for state in CallState if state is not CallState.ENDED]
        for name in names:
            state = CallState[name.upper()]
            for entry in INPUTS[frame]:
                stated[state, entry] = state if following == "same" else CallState[following.strip("`").upper()]
    assert stated == CALL


def test_the_table_of_statuses_is_the_code_s() -> None:
    rows = rows_after("### 11.2", ("status", "name", "meaning", "retry"))
    named = {int(number): (name, retry) for number, name, _, retry in rows if number.isdigit()}
    assert {status.value: status.name for status in Status} == {number: name for number, (name, _) in named.items()}
    for number, (_, retry) in named.items():
        expected = {"h": Retry.YES, "e": Retry.ELSEWHERE}.get(retry[0], Retry.NO)
        assert retry_of(number) is expected, number
    assert retry_of(404) is Retry.NO


def test_the_tables_of_http_statuses_are_the_code_s() -> None:
    mapped: dict[int, int] = {}
    for http, status in rows_after("### 11.3", ("HTTP", "status")):
        if http[0].isdigit() and ".." not in http:
            mapped |= {int(number): int(status.split()[0]) for number in http.split(",")}
    for http_status in range(300, 600):
        assert status_from_http(http_status) == mapped.get(http_status, http_status)
    assert status_from_http(200) == status_from_http(299) == Status.OK
    for row in rows_after("### 11.3", ("status", "HTTP", "status", "HTTP", "status", "HTTP")):
        for status, http in zip(row[::2], row[1::2], strict=True):
            if status.isdigit():
                assert http_from_status(int(status)) == int(http)
    assert (http_from_status(404), http_from_status(64), http_from_status(600)) == (404, 500, 500)


def test_the_table_of_settings_is_the_code_s() -> None:
    rows = rows_after("## 5. SETTINGS", ("id", "name", "default", "allowed", "meaning"))
    stated = {
        int(key): (name, int(default), tuple(map(int, allowed.split("..")))) for key, name, default, allowed, _ in rows
    }
    assert stated == {key: (SETTING_NAMES[key], DEFAULTS[key], ALLOWED[key]) for key in ALLOWED}
    for key, (name, default, _) in stated.items():
        assert getattr(Limits(), name) == default, key

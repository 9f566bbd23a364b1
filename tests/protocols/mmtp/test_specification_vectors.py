"""Executes every vector of docs/spec/mmtp.md."""

from __future__ import annotations

import json
from typing import Any

import pytest

from protocols.errors import RemoteError
from protocols.mmtp import Connection, Goaway, Hello, Limits, Role, Status, StreamCursor, Welcome
from protocols.mmtp.bodies import Declined, StreamDecompressor, begin
from protocols.mmtp.fields import sized
from protocols.mmtp.frames import FrameType
from protocols.mmtp.handshake import decode_goaway
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
from protocols.mmtp.varint import decode_varint, encode_varint
from tests.protocols.mmtp.dialogue import Player, blocks, split_frames

DIALOGUES = blocks("dialogue")


def name_of(dialogue: str) -> str:
    return dialogue.splitlines()[0].removeprefix("name:").strip()


def lines_of(kind: str) -> list[str]:
    return [line for block in blocks(kind) for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("dialogue", DIALOGUES, ids=name_of)
def test_dialogue(dialogue: str) -> None:
    Player().play(dialogue)


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
    assert encode_short_request(request, mac_key=key, listener=vector["listener"]).hex() == vector["hex"]
    decoded = decode_short_request(bytes.fromhex(vector["hex"]), Limits())
    assert (decoded.content.hex(), decoded.tag.hex()) == (vector["content"], vector["tag"])
    assert verify_tag(decoded, key, vector["listener"])
    decoded.content, decoded.tag = b"", b""
    assert decoded == request
    before = sized(vector["listener"].lower().encode()) + sized(vector["session"].encode())
    assert vector["tag_input_before_digest"].startswith(before.hex())


def test_short_request_with_hello() -> None:
    vector = SHORT["request with HELLO"]
    decoded = decode_short_request(bytes.fromhex(vector["hex"]), Limits())
    assert decoded.hello == Hello(
        vector["device"], token=vector["token"], cursors=[StreamCursor("user", "u1", "orders", 1, 42)]
    )
    assert decoded.calls == calls_of(vector)
    assert decoded.max_pushes == vector["max_pushes"]
    assert encode_short_request(decoded).hex() == vector["hex"]


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
    assert encode_short_response(decoded).hex() == vector["hex"]

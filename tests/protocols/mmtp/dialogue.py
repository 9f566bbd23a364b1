"""Plays the dialogues of docs/spec/mmtp.md between two connections, byte for byte.

The notation is explained in the specification, section 16. `fill` writes the `?` of a new dialogue. Header blocks of
profile H are those of the package hpack there; with another encoder frames that have one may differ in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from protocols.errors import RemoteError
from protocols.mmtp import Connection, Goaway, Hello, Limits, Role, Status, StreamCursor, Welcome, encode_push
from protocols.mmtp.bundles import Bundle
from protocols.mmtp.device_exchange import HeaderMemory
from protocols.mmtp.dictionaries import Dictionary
from protocols.mmtp.events import DOWN, UP, CheckpointAcked, CheckpointTaken, DictionaryReceived, PushesAcked
from protocols.mmtp.frames import INCOMPLETE, FrameType, cut
from protocols.mmtp.gateway_exchange import FoundStates
from protocols.mmtp.hpack_backends import get_backend
from protocols.mmtp.profiles import Checkpoint
from protocols.mmtp.shared_bodies import SharedBody
from protocols.mmtp.tables import GENERIC, AppTable, TableName, ValueType
from protocols.mmtp.templates import TemplateState
from protocols.mmtp.tickets import DeviceTicket, GrantedTickets, ShownCertificate

SPECIFICATION = Path(__file__).parents[3] / "docs/spec/mmtp.md"


def blocks(kind: str, text: str | None = None) -> list[str]:
    """The contents of all fenced blocks of this kind."""
    found: list[str] = []
    inside: list[str] | None = None
    for line in (text if text is not None else SPECIFICATION.read_text()).splitlines():
        if inside is None:
            if line.strip() == f"```{kind}":
                inside = []
        elif line.startswith("```"):
            found.append("\n".join(inside))
            inside = None
        else:
            inside.append(line)
    return found


def split_frames(data: bytes) -> Iterator[bytes]:
    """The frames of whole bytes, one by one."""
    pos = 0
    while pos < len(data):
        start, stop, _ = cut(data, pos, len(data), 1 << 30)
        assert start != INCOMPLETE
        yield data[pos:stop]
        pos = stop


WITH_BLOCKS = frozenset((FrameType.REQUEST, FrameType.RESPONSE))


def first_of(sent: bytes, expected: bytes) -> int:
    """How much of `sent` are the frames `expected`, but for header blocks, which another encoder may code otherwise."""
    size = 0
    left = split_frames(sent)
    for frame in split_frames(expected):
        got = next(left, b"")
        size += len(got)
        assert got == frame or (got and got[0] == frame[0] and got[0] >> 4 in WITH_BLOCKS), f"sends {sent.hex()}"
    return size


def plain(value: Any) -> Any:
    """A value as the dialogues write it: JSON without what is empty, bytes as text or hex."""
    if isinstance(value, bytes):
        try:
            text = value.decode()
        except UnicodeDecodeError:
            return {"hex": value.hex()}
        if not text.isprintable():
            return {"hex": value.hex()}
        return (
            text if len(text) <= 64 else {"repeated": text[0], "times": len(text)} if set(text) == {text[0]} else text
        )
    if isinstance(value, TemplateState):
        return value.digest.hex()
    if isinstance(value, Dictionary | AppTable):
        return {"id": value.id, "digest": value.digest.hex()}
    if isinstance(value, frozenset):
        return sorted(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if getattr(value, f.name) not in EMPTY}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


EMPTY: tuple[Any, ...] = (None, "", b"", 0, False, [], {}, frozenset())


def event_as_json(event: Any) -> dict[str, Any]:
    """An event as the dialogues write it."""
    if isinstance(event, PushesAcked):
        return {"event": "PushesAcked", "tokens": event.tokens}
    return json.loads(json.dumps({"event": type(event).__name__, **plain(event)}))


def body_of(value: Any) -> bytes:
    if isinstance(value, dict):
        return value["repeated"].encode() * value["times"] if "repeated" in value else bytes.fromhex(value["hex"])
    return str(value).encode()


ACTIONS = frozenset(
    [
        "hello",
        "welcome",
        "restart",
        "settings",
        "request",
        "respond",
        "data",
        "reset",
        "consumed",
        "ping",
        "goaway",
        "announce",
        "push",
        "ack",
        "wait",
        "ack_ranges",
        "know_dictionary",
        "know_table",
        "reconnect",
        "offer_dictionary",
        "use_dictionary",
        "drop_class",
        "retire_dictionary",
        "offer_table",
    ]
)


class Player:
    """Two connections with the bytes between them."""

    def __init__(self, step: int = 1 << 30, *, hpack: str = "hpack", as_written: bool = True) -> None:
        """Bytes are delivered `step` at a time: those of the dialogue if `as_written`, else those that were sent, which
        with another encoder than hpack are only the same in what they mean."""
        self.piece = step
        self.hpack = get_backend(hpack)
        self.exact = hpack == "hpack"
        self.as_written = as_written
        self.sides = {"C": self.connection(Role.CLIENT, 0.0), "S": self.connection(Role.SERVER, 0.0)}
        self.unread = {"C": b"", "S": b""}
        """Sent and not yet mentioned."""
        self.flying = {"C": b"", "S": b""}
        """Mentioned and not yet delivered."""
        self.pending: list[Any] = []
        self.error: int | None = None
        self.now = 1.0
        self.tables = {GENERIC.id: GENERIC}
        self.dictionaries: dict[int, Dictionary] = {}
        self.states: dict[str, Checkpoint] = {}
        """What the device has of each direction."""

    def connection(self, role: Role, now: float) -> Connection:
        return Connection(role, limits=Limits(), now=now, hpack=self.hpack)

    def play(self, text: str, *, fill: bool = False) -> str:
        """Raises AssertionError at the first difference; returns the text, with its `?` filled in."""
        lines: list[str] = []
        for number, line in enumerate(text.splitlines()):
            words, _, _ = line.partition("#")
            try:
                lines.extend(self.step(words.strip(), line, fill))
            except AssertionError as error:
                raise AssertionError(f"line {number + 1}: {line}\n{error}") from error
        assert not self.pending, f"events not mentioned: {self.pending}"
        for side, connection in self.sides.items():
            left = self.unread[side] + connection.to_send(self.now)
            assert not left, f"{side} also sends {left.hex()}"
        return "\n".join(lines)

    def step(self, words: str, line: str, fill: bool) -> list[str]:
        if not words or words.startswith("name:"):
            return [line]
        verb, _, rest = words.partition(" ")
        rest = rest.strip()
        if verb in ("C", "S"):
            self.act(verb, rest)
        elif verb in ("C>", "S>"):
            side = verb[0]
            if fill and rest == "?":
                sent = self.sides[side].to_send(self.now)
                self.flying[side] += sent
                comment = line[line.index("#") :] if "#" in line else ""
                filled = [f"{verb} {frame.hex()}" for frame in split_frames(sent)]
                return [*filled[:-1], f"{filled[-1]}   {comment}".rstrip()]
            expected = bytes.fromhex(rest)
            sent = self.unread[side] or self.sides[side].to_send(self.now)
            size = len(expected) if self.exact else first_of(sent, expected)
            assert expected and (not self.exact or sent.startswith(expected)), f"{side} sends {sent.hex()}"
            self.unread[side] = sent[size:]
            self.flying[side] += expected if self.as_written else sent[:size]
        elif verb in (">S", ">C"):
            self.deliver(verb[1])
        elif verb in ("S=", "C="):
            if fill and rest == "?":
                filled = [f"{verb} {json.dumps(event, ensure_ascii=False)}" for event in self.pending]
                self.pending = []
                return filled
            assert self.pending, "no further event"
            got = self.pending.pop(0)
            assert got == json.loads(rest), f"got {json.dumps(got)}"
        elif verb in ("S!", "C!"):
            got_error = Status(self.error).name if self.error is not None else "no error"
            if fill and rest == "?":
                rest = got_error
                line = f"{verb} {rest}"
            assert got_error == rest, f"got {got_error}"
            self.error = None
        else:
            raise AssertionError(f"not a step: {words}")
        return [line]

    def deliver(self, side: str) -> None:
        other = "C" if side == "S" else "S"
        assert not self.pending, f"events not mentioned: {self.pending}"
        assert not self.unread[other], f"{other} also sends {self.unread[other].hex()}"
        data, self.flying[other] = self.flying[other], b""
        assert data, "nothing to deliver"
        connection = self.sides[side]
        try:
            for start in range(0, len(data), self.piece):
                connection.receive(data[start : start + self.piece], self.now)
        except RemoteError as error:
            self.error = error.code
        events = connection.events()
        if side == "C":
            for event in events:
                self.remember(event)
        self.pending = [event_as_json(event) for event in events]

    def remember(self, event: Any) -> None:
        if isinstance(event, CheckpointAcked) or (isinstance(event, CheckpointTaken) and event.direction == DOWN):
            self.states[event.direction] = Checkpoint(event.number, event.state)
        elif isinstance(event, DictionaryReceived):
            self.dictionaries[event.dictionary.id] = event.dictionary

    def act(self, side: str, words: str) -> None:
        verb, _, rest = words.partition(" ")
        if verb == "raw":
            self.flying[side] += bytes.fromhex(rest)
            return
        arguments: dict[str, Any] = json.loads(rest) if rest else {}
        if verb not in ACTIONS:
            raise AssertionError(f"no such action: {verb}")
        getattr(self, verb)(self.sides[side], **arguments)
        self.pending += [event_as_json(event) for event in self.sides[side].events()]

    # --- what a side can do, by the names of the specification

    def hello(
        self,
        side: Connection,
        cursors: Any = (),
        capabilities: Any = (),
        table: int = 0,
        bundle: Any = None,
        **rest: Any,
    ) -> None:
        rest["settings"] = {int(key): value for key, value in rest.get("settings", {}).items()}
        if "certificate" in rest:
            rest["certificate"] = ShownCertificate(bytes.fromhex(rest["certificate"][0]), rest["certificate"][1])
        side.send_hello(
            Hello(cursors=[StreamCursor(**c) for c in cursors], capabilities=frozenset(capabilities), **rest),
            HeaderMemory(self.tables[table], self.states.get(UP), self.states.get(DOWN)) if table else None,
            self.bundle(bundle),
        )

    def bundle(self, ids: Any) -> Bundle | None:
        return None if ids is None else Bundle(self.dictionaries[id] for id in ids)

    def welcome(self, side: Connection, found: Any = None, bundle: Any = None, **rest: Any) -> None:
        rest["mac_key"] = bytes.fromhex(rest.get("mac_key", ""))
        rest["settings"] = {int(key): value for key, value in rest.get("settings", {}).items()}
        if "tickets" in rest:
            lifetime, early, *tickets = rest["tickets"]
            keys = tuple(DeviceTicket(bytes.fromhex(identity), bytes.fromhex(key)) for identity, key in tickets)
            rest["tickets"] = GrantedTickets(lifetime, early, keys)
        states = {way: self.states[way].state for way in found or () if way in (UP, DOWN)}
        tables = [self.tables[entry] for entry in found or () if entry in self.tables]
        side.send_welcome(
            Welcome(**rest),
            None if found is None else FoundStates(tables[0] if tables else None, **states),
            self.bundle(bundle),
        )

    def know_dictionary(self, side: Connection, id: int, content: str, classes: list[str]) -> None:
        self.dictionaries[id] = Dictionary(id, content.encode(), classes)

    def know_table(self, side: Connection, id: int, version: int, names: list[list[Any]]) -> None:
        self.tables[id] = AppTable(id, version, tuple(TableName(name, ValueType(type_)) for name, type_ in names))

    def reconnect(self, side: Connection) -> None:
        self.sides = {"C": self.connection(Role.CLIENT, self.now), "S": self.connection(Role.SERVER, self.now)}
        self.flying = {"C": b"", "S": b""}

    def offer_dictionary(self, side: Connection, id: int, base: int = 0) -> None:
        side.offer_dictionary(self.dictionaries[id], self.dictionaries[base] if base else None)

    def use_dictionary(self, side: Connection, id: int) -> None:
        side.use_dictionary(id)

    def drop_class(self, side: Connection, name: str) -> None:
        side.drop_class(name)

    def retire_dictionary(self, side: Connection, id: int) -> None:
        side.retire_dictionary(id)

    def offer_table(self, side: Connection, id: int) -> None:
        side.offer_table(self.tables[id])

    def restart(self, side: Connection) -> None:
        self.sides["C"] = self.connection(Role.CLIENT, self.now)
        self.flying["C"] = b""

    def settings(self, side: Connection, **rest: int) -> None:
        side.update_settings({int(key): value for key, value in rest.items()})

    def request(self, side: Connection, operation: str, headers: Any = (), body: Any = "", **rest: Any) -> None:
        side.request(operation, [(n, v) for n, v in headers], body_of(body), **rest)

    def respond(
        self, side: Connection, call: int, status: int = 0, headers: Any = (), body: Any = "", **rest: Any
    ) -> None:
        side.respond(call, status, [(n, v) for n, v in headers], body_of(body), **rest)

    def data(self, side: Connection, call: int, data: Any = "", more: bool = False) -> None:
        side.send_data(call, body_of(data), more)

    def reset(self, side: Connection, call: int, status: int) -> None:
        side.reset(call, status)

    def consumed(self, side: Connection, call: int, size: int) -> None:
        side.consumed(call, size)

    def ping(self, side: Connection, answer: bool = False) -> None:
        side.ping(answer)

    def goaway(self, side: Connection, **rest: Any) -> None:
        side.go_away(Goaway(**rest))

    def announce(self, side: Connection, alias: int, note: str = "", history: int = 0, **cursor: Any) -> None:
        side.note_stream(StreamCursor(**cursor), alias, note, history=history)

    def push(self, side: Connection, alias: int, seq: int, body: Any, **rest: Any) -> None:
        data = body_of(body)
        if side.stream_has_history(alias):
            assert side.offer_body(alias, seq, SharedBody(data), seq, **rest)
            return
        if "biz" in rest:
            rest["dictionary"] = side.push_dictionary(rest.pop("biz"))
        side.send_push(alias, seq, encode_push(alias, data, **rest), len(data), seq)

    def ack(self, side: Connection, count: int) -> None:
        side.ack(count)

    def wait(self, side: Connection, seconds: float) -> None:
        self.now += seconds
        side.handle_timer(self.now)

    def ack_ranges(self, side: Connection, indexes: list[int]) -> None:
        side.ack_ranges(indexes)

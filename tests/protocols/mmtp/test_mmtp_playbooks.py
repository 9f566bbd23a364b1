"""Playbooks: dialogues in two columns, the device on the left and the gateway on the right.

`->` the left side does something, and the right side sees that; `<-` the other way round. `~>` and `<~` send without
arriving yet: the bytes arrive with the next arrow of that direction. Several events are separated by `;`, `-` is none.
"""

from __future__ import annotations

import re
import shlex

import pytest

from protocols.mmtp import Connection, Goaway, Hello, Limits, Role, Status, StreamCursor, Welcome, encode_push
from protocols.mmtp import events as wire
from protocols.mmtp.settings import NAMES

NUMBERS = {name: key for key, name in NAMES.items()}
LINE = re.compile(r"(?P<left>.*?)\s*(?P<arrow>->|<-|~>|<~)\s*(?P<right>.*)")


def do(side: Connection, words: str) -> None:
    verb, *rest = shlex.split(words)
    more = rest[-1:] == ["more"]
    values = rest[: len(rest) - more]
    match verb, values:
        case "hello", [*chosen]:
            side.send_hello(Hello("d1", settings=settings_of(chosen)))
        case "welcome", [*chosen]:
            side.send_welcome(Welcome(settings=settings_of(chosen)))
        case "refuse", [status]:
            side.send_welcome(Welcome(Status[status.upper()]))
        case "settings", [*chosen]:
            side.update_settings(settings_of(chosen))
        case "request", [operation, body]:
            side.request(operation, [], body.encode(), more=more)
        case "respond", [call, status, body]:
            side.respond(int(call), Status[status.upper()], [], body.encode(), more=more)
        case "data", [call, body]:
            side.send_data(int(call), body.encode(), more)
        case "reset", [call, status]:
            side.reset(int(call), Status[status.upper()])
        case "take", [call, size]:
            side.consumed(int(call), int(size))
        case "announce", [alias, name, after, *note]:
            side.note_stream(StreamCursor("topic", name, "b", 1, int(after)), int(alias), *note or [""])
        case "push", [alias, seq, body]:
            side.send_push(int(alias), int(seq), encode_push(int(alias), body.encode()), len(body), f"#{seq}")
        case "ack", [count]:
            side.ack(int(count))
        case "ack_only", [*indexes]:
            side.ack_ranges([int(index) for index in indexes])
        case "ping", []:
            side.ping()
        case "goaway", [status]:
            side.go_away(Goaway(Status[status.upper()]))
        case "consumes", []:
            pass
        case _:
            raise AssertionError(f"no such action: {words}")


def settings_of(words: list[str]) -> dict[int, int]:
    return {NUMBERS[name]: int(value) for name, _, value in (word.partition("=") for word in words)}


def body(data: bytes, more: bool) -> str:
    return f"'{data.decode()}'" + (" more" if more else "")


def seen(event: wire.Event) -> str:
    match event:
        case wire.HelloReceived(hello):
            return f"hello {hello.device}"
        case wire.WelcomeReceived(welcome):
            return f"welcome {Status(welcome.result).name.lower()}"
        case wire.RequestReceived():
            return f"call {event.call} {event.operation} {body(event.body, event.more)}"
        case wire.ResponseReceived():
            return f"answer {event.call} {Status(event.status).name.lower()} {body(event.body, event.more)}"
        case wire.DataReceived():
            return f"data {event.call} {body(event.data, event.more)}"
        case wire.CallReset():
            return f"reset {event.call} {Status(event.status).name.lower()}"
        case wire.CallDrained():
            return f"drained {event.call}"
        case wire.PushReceived():
            return f"push {event.id} {event.seq} '{event.body.decode()}'"
        case wire.StreamNoted():
            return f"{event.note} {event.id} {event.floor}"
        case wire.PushesAcked():
            return f"acked {' '.join(event.tokens)}"
        case wire.GoawayReceived(goaway):
            return f"goaway {Status(goaway.status).name.lower()} after {goaway.last_call}"
        case _:
            return type(event).__name__.removesuffix("Received").lower()


PLAYBOOKS = {
    "calls may be sent before WELCOME and are answered after it": """
        hello                                   -> hello d1
        request pay one                         -> call 0 pay 'one'
        welcome ok                              <- welcome
        answer 0 ok 'paid'                      <- respond 0 ok paid
    """,
    "a refused hand-shake ends everything": """
        hello                                   -> hello d1
        request pay one                         -> call 0 pay 'one'
        welcome auth                            <- refuse auth
        request pay two                         -> -
    """,
    "an early answer stops an upload that waits for credit": """
        hello                                   -> hello d1
        welcome ok                              <- welcome call_window=4
        request up 0123456789                   -> call 0 up '0123' more
        answer 0 forbidden ''                   <- respond 0 forbidden ''
        request up ab                           -> call 1 up 'ab'
        answer 1 ok ''                          <- respond 1 ok ''
    """,
    "credit lets an upload go on, piece by piece": """
        hello                                   -> hello d1
        welcome ok                              <- welcome call_window=4
        request up 0123456789                   -> call 0 up '0123' more
        -                                       <- take 0 4
        consumes                                -> data 0 '4567' more
        drained 0                               <- take 0 4
        consumes                                -> data 0 '89'
        answer 0 ok 'thanks'                    <- respond 0 ok thanks
    """,
    "an answer waits for the device's credit": """
        hello call_window=3                     -> hello d1
        request feed ''                         -> call 0 feed ''
        welcome ok                              <- welcome
        answer 0 ok 'abc' more                  <- respond 0 ok abcdef
        take 0 3                                -> drained 0
        data 0 'def'                            <- consumes
    """,
    "settings open a closed window": """
        hello call_window=0                     -> hello d1
        request feed ''                         -> call 0 feed ''
        welcome ok                              <- welcome
        answer 0 ok '' more                     <- respond 0 ok abc
        settings call_window=10                 -> drained 0
        data 0 'abc'                            <- consumes
    """,
    "a cancel that crosses the answer changes nothing": """
        hello                                   -> hello d1
        welcome ok                              <- welcome
        request a ''                            -> call 0 a ''
        reset 0 cancelled                       ~>
                                                <~ respond 0 ok done
        consumes                                -> -
        answer 0 ok 'done'                      <- consumes
    """,
    "a cancelled stream still has one last frame": """
        hello                                   -> hello d1
        welcome ok                              <- welcome
        request a x more                        -> call 0 a 'x' more
        answer 0 ok 'y' more                    <- respond 0 ok y more
        reset 0 cancelled                       -> reset 0 cancelled
        data 0 'z'                              <- data 0 z
        request b ''                            -> call 1 b ''
    """,
    "draining: calls taken are finished, later ones are refused": """
        hello                                   -> hello d1
        welcome ok                              <- welcome
        request a ''                            -> call 0 a ''
                                                <~ goaway draining
        request b ''                            -> -
        goaway draining after 0; reset 1 draining <- consumes
        answer 0 ok 'done'                      <- respond 0 ok done
        goaway ok                               -> goaway ok after -1
    """,
    "pushes are acknowledged in order or not": """
        hello                                   -> hello d1
        welcome ok                              <- welcome
        -                                       <- announce 9 sport 4
        push sport 5 'a'                        <- push 9 5 a
        push sport 6 'b'                        <- push 9 6 b
        push sport 7 'c'                        <- push 9 7 c
        ack_only 1                              -> acked #6
        ack 2                                   ~>
        ping                                    -> ping; acked #5 #7
        pong; truncated sport 20                <- announce 9 sport 20 truncated
        push sport 21 'd'                       <- push 9 21 d
    """,
}


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_playbook(name: str) -> None:
    play(PLAYBOOKS[name])


def play(script: str) -> None:
    device = Connection(Role.CLIENT, limits=Limits(), now=0.0)
    gateway = Connection(Role.SERVER, limits=Limits(), now=0.0)
    flying = {device: b"", gateway: b""}
    for line in filter(None, map(str.strip, script.splitlines())):
        parsed = LINE.fullmatch(line)
        assert parsed, line
        left, arrow, right = parsed["left"], parsed["arrow"], parsed["right"]
        doer, watcher, action, expected = (
            (device, gateway, left, right) if ">" in arrow else (gateway, device, right, left)
        )
        do(doer, action)
        own = [seen(event) for event in doer.events()]
        assert not own, f"{line}\n{own} at the side that acts"
        flying[doer] += doer.to_send(0.0)
        if "~" in arrow:
            continue
        data, flying[doer] = flying[doer], b""
        watcher.receive(data, 0.0)
        got = "; ".join(seen(event) for event in watcher.events()) or "-"
        assert got == expected, f"{line}\nsaw {got}"
        settle(doer, watcher, flying)


def settle(doer: Connection, watcher: Connection, flying: dict[Connection, bytes]) -> None:
    """Acknowledged settings go back at once: they are no part of the plot."""
    if not flying[watcher]:
        answer = watcher.to_send(0.0)
        if answer == b"\xa1\x00":
            doer.receive(answer, 0.0)
        else:
            flying[watcher] = answer


def test_a_wrong_playbook_fails() -> None:
    script = PLAYBOOKS["calls may be sent before WELCOME and are answered after it"]
    with pytest.raises(AssertionError):
        play(script.replace("'paid'", "'unpaid'"))

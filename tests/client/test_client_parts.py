"""The small parts of the client: back-off, round trip, heartbeat, addresses, files, inbox, arguments."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from accessgw.client.addresses import Address, AddressBook, parse
from accessgw.client.backoff import Backoff
from accessgw.client.calls import OpenCall
from accessgw.client.cli import make_client, make_parser
from accessgw.client.cursors import Memory, StateFile
from accessgw.client.heartbeat import Heartbeat
from accessgw.client.inbox import Inbox
from accessgw.client.model import CallFailed, Push, Reply, status_name
from accessgw.client.payloads import encode_payload, header_list, topic_list
from accessgw.client.rtt import RoundTrip, unacknowledged
from accessgw.client.settings import ClientSettings, addresses_of
from accessgw.client.short import ShortConnections
from accessgw.client.trace import FrameTrace, describe
from protocols.mmtp.dict_frames import DictKind, DictOffer, encode_offer
from protocols.mmtp.frames import CODING_SHIFT, FrameType, TableKind
from protocols.mmtp.handshake import Hello, StreamCursor, Welcome


def test_backoff_doubles_to_its_cap_and_starts_again_after_a_stable_connection() -> None:
    backoff = Backoff(lambda: 1.0, initial=1.0, cap=10.0, stable=5.0)
    assert [backoff.next() for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    backoff.up(0.0)
    backoff.down(1.0)
    assert backoff.next() == 10.0, "one second is not stable"
    backoff.up(0.0)
    backoff.down(6.0)
    assert backoff.next() == 1.0


def test_backoff_is_full_jitter_and_respects_the_gateway() -> None:
    backoff = Backoff(lambda: 0.0)
    assert backoff.next() == 0.0
    assert backoff.next(at_least=7.0) == 7.0


def test_round_trip_follows_rfc_6298() -> None:
    rtt = RoundTrip()
    assert rtt.suspect_after == pytest.approx(2 * 0.5 + 0.15)
    rtt.observe(0.2)
    assert (rtt.smoothed, rtt.variation) == (0.2, 0.1)
    rtt.observe(0.4)
    assert rtt.smoothed == pytest.approx(0.225)
    assert rtt.variation == pytest.approx(0.125)
    assert rtt.probe_after == pytest.approx(0.225 + 4 * 0.125)
    assert rtt.inspect_after == pytest.approx(0.6)


def info(*, retransmits: int = 0, unacked: int = 0, sent_ms: int = 0, ack_ms: int = 0) -> bytes:
    fields = [0, 0, 0, 0, unacked, 0, 0, 0, 0, sent_ms, 0, 0, ack_ms]
    return struct.pack("8B13I", 1, 0, retransmits, 0, 0, 0, 0, 0, *fields)


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        (info(unacked=1, sent_ms=600, ack_ms=700), True),
        (info(unacked=0, sent_ms=600, ack_ms=700), False),
        (info(unacked=1, sent_ms=600, ack_ms=100), False),
        (info(unacked=1, sent_ms=10, ack_ms=700), False),
        (info(unacked=1, sent_ms=10, ack_ms=700, retransmits=2), True),
        (b"", False),
    ],
)
def test_what_tcp_info_says(data: bytes, verdict: bool) -> None:
    assert unacknowledged(data, 0.5) is verdict


def test_heartbeats_find_the_longest_interval_that_a_path_allows() -> None:
    heartbeat = Heartbeat()
    heartbeat.hint(60.0, 600.0)
    limit = 170.0
    for _ in range(20):
        if heartbeat.interval <= limit:
            heartbeat.answered()
        else:
            heartbeat.failed()
    assert 0.85 * limit < heartbeat.interval <= limit
    good, bad = heartbeat.learned()
    assert good <= limit < bad
    again = Heartbeat(good, bad)
    again.hint(60.0, 600.0)
    assert again.interval == 60.0
    assert Heartbeat(good, bad).interval == 0.0, "none before the gateway has spoken"


def test_heartbeats_never_pass_the_gateways_idle_timeout() -> None:
    heartbeat = Heartbeat()
    heartbeat.hint(60.0, 100.0)
    for _ in range(20):
        heartbeat.answered()
    assert heartbeat.interval == pytest.approx(80.0)
    short = Heartbeat()
    short.hint(0.0, 5.0)
    assert short.interval == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mmtps://gw:7443", Address("mmtps", "gw", 7443)),
        ("mmtps://gw", Address("mmtps", "gw", 7443)),
        ("mmtp://[::1]:7080/", Address("mmtp", "::1", 7080)),
        ("https://gw", Address("https", "gw", 7443)),
        ("wss://gw", Address("wss", "gw", 7443, path="/mmtp")),
        ("ws://gw:80/edge/mmtp", Address("ws", "gw", 80, path="/edge/mmtp")),
    ],
)
def test_urls(url: str, expected: Address) -> None:
    assert parse(url) == expected
    assert parse(str(parse(url))) == expected


@pytest.mark.parametrize(
    "url",
    [
        "gw:7443",
        "ftp://gw",
        "mmtps://",
        "mmtps://gw/path",
        "mmtps://gw:99999",
        "mmtps://u@gw",
        "wss://gw/?a=b",
        "wss://gw/a b",
    ],
)
def test_bad_urls_say_what_was_expected(url: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse(url)


def test_short_connections_share_the_tls_port() -> None:
    long, short = addresses_of(["mmtps://gw:1"])
    assert [str(a) for a in long + short] == ["mmtps://gw:1", "https://gw:1"]
    long, short = addresses_of(["mmtp://gw:1"])
    assert short == ()
    long, short = addresses_of(["mmtp://gw:1"], "http://gw:2")
    assert [str(a) for a in short] == ["http://gw:2"]
    long, short = addresses_of(["https://gw:1"])
    assert long == ()


def test_the_address_book_prefers_learns_and_demotes() -> None:
    book = AddressBook([parse("mmtps://a.example:1"), parse("mmtps://b.example:1")])
    book.learn(["c.example:2", "10.0.0.9:3", "nonsense:port"], 60.0, now=0.0)
    assert [a.authority for a in book.order(1.0)] == ["a.example:1", "b.example:1", "c.example:2", "10.0.0.9:3"]
    assert book.order(1.0)[3].name == "a.example", "a certificate names hosts, not addresses"
    assert book.order(1.0)[2].name == "c.example"
    book.failed(book.order(1.0)[0])
    assert [a.authority for a in book.order(61.0)] == ["b.example:1", "a.example:1"]
    book.prefer("d.example:4")
    assert next(iter(book.order(61.0))).authority == "d.example:4"
    assert next(iter(book.order(61.0))).authority == "b.example:1", "preferred once"


def test_the_state_file_comes_back_as_it_was(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "state", "手机/1")
    assert file.load() == Memory()
    memory = Memory(7, [StreamCursor("user", "王", "chat", 3, 2**60)], {9: (30.0, 60.0)})
    file.store(memory)
    assert file.load() == memory
    assert [path.name for path in (tmp_path / "state").iterdir()] == [file.path.name]
    assert StateFile(tmp_path / "state", "手机_1").path != file.path


def test_a_disk_that_is_full_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = StateFile(tmp_path, "d")
    file.store(Memory(boot=1))

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        file.store(Memory(boot=2))
    assert file.load().boot == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("text", ["", "{}", "[]", json.dumps({"version": 2}), '{"version":1,"boot":1,"cursors":[[1]]}'])
def test_a_damaged_state_file_is_named(tmp_path: Path, text: str) -> None:
    file = StateFile(tmp_path, "d")
    file.path.write_text(text)
    with pytest.raises(ValueError, match=r"\.json"):
        file.load()


def push(biz: str, seq: int) -> Push:
    return Push("device", "d", biz, 1, seq, b"")


def test_the_inbox_gives_each_push_to_one_taker() -> None:
    given: list[tuple[str, int]] = []

    def give(waiter: str, p: Push) -> bool:
        if waiter == "cancelled":
            return False
        given.append((waiter, p.seq))
        return True

    inbox: Inbox[str] = Inbox(give, lambda biz, n: None)
    inbox.wait("a", "cancelled")
    inbox.wait("a", "wants a")
    inbox.wait(None, "wants any")
    assert inbox.put(push("a", 1))
    assert inbox.put(push("a", 2))
    assert not inbox.put(push("b", 3))
    assert not inbox.put(push("a", 4))
    assert given == [("wants a", 1), ("wants any", 2)]
    assert [p.seq for p in iter(lambda: inbox.take(None), None)] == [3, 4]
    inbox.wait("a", "gone")
    inbox.forget("a", "gone")
    assert not inbox.put(push("a", 5))


def test_the_inbox_says_when_nobody_takes() -> None:
    notes: list[tuple[str, int]] = []
    inbox: Inbox[str] = Inbox(lambda waiter, p: True, lambda biz, n: notes.append((biz, n)))
    inbox.claim("b")
    for n in range(100):
        inbox.put(push("a", n))
        inbox.put(push("b", n))
    assert notes == [("a", 32)]


def test_payloads_and_headers() -> None:
    assert encode_payload({"a": "你好"}, False) == ('{"a":"你好"}'.encode(), "application/json")
    assert encode_payload(b"x", True) == (b"x", "")
    assert encode_payload(None, False) == (b"", "")
    with pytest.raises(TypeError, match="expected bytes"):
        encode_payload("x", True)
    assert header_list({"X-A": "1"}, "application/json") == [("content-type", "application/json"), ("x-a", "1")]
    assert header_list([("Content-Type", "a/b")], "application/json") == [("content-type", "a/b")]
    with pytest.raises(ValueError, match="names of topics"):
        topic_list(())


def test_failures_say_what_happened() -> None:
    reply = Reply(19, [("message", "no endpoint")], b"", "long")
    failure = CallFailed(19, "no endpoint", reply)
    assert str(failure) == "upstream_unavailable: no endpoint"
    assert (status_name(404), status_name(30)) == ("application 404", "status 30")


def test_frames_are_traced_across_any_split_and_tell_no_secrets() -> None:
    stream = b"\x80\x09\x03\x02d1\x05\x03abc" + b"\x01" + b"\x20\x05" + b"\x51\x03\x00hi"
    whole = FrameTrace().lines("send", stream)
    trace = FrameTrace()
    pieces = [line for i in range(len(stream)) for line in trace.lines("send", stream[i : i + 1])]
    assert whole == pieces
    assert [line.split()[1] for line in whole] == ["HELLO", "PING", "ACK", "DATA"]
    assert "61 62 63" not in "".join(whole)


def test_tables_and_dictionaries_are_traced_in_words() -> None:
    digest = bytes(range(8))
    offer = DictOffer(3, digest, 252, 90, ("q*", "aorders.get"), 2, 40)
    frames = [
        (TableKind.OFFER, b"\x07" + digest + b"\x10", "offer table 7 0001020304050607, 16 bytes"),
        (TableKind.WANT, b"\x07", "want table 7"),
        (TableKind.CHUNK, b"\x07\x02abc", "chunk of table 7: bytes 2 to 5"),
        (TableKind.HAVE, b"\x07" + digest, "have table 7 0001020304050607"),
        (TableKind.RETIRE, b"\x07", "retire table 7"),
        (TableKind.START, b"\x01", "start of table 1, from the empty state"),
        (TableKind.START, b"\x00", "start of profile H"),
        (TableKind.CHECKPOINT, b"\x09", "checkpoint 9"),
        (TableKind.CHECKPOINT_ACK, b"\x09", "acknowledges checkpoint 9"),
    ]
    for kind, payload, text in frames:
        assert describe(FrameType.TABLE << 4 | kind, payload, 20) == f"TABLE  {text}  20 B"
    dictionary = [
        (
            DictKind.OFFER,
            encode_offer(offer),
            "offer dictionary 3 0001020304050607 for q* aorders.get, 252 bytes, 90 packed, 40 as a delta to 2",
        ),
        (DictKind.WANT, b"\x03\x02", "want dictionary 3 as a delta to 2"),
        (DictKind.CHUNK, b"\x03\x00abc", "chunk of dictionary 3: bytes 0 to 3"),
        (DictKind.HAVE, b"\x03" + digest, "have dictionary 3 0001020304050607"),
        (DictKind.RETIRE, b"\x03", "retire dictionary 3"),
        (DictKind.USE, b"\x03", "use dictionary 3"),
        (DictKind.USE, b"\x00q*", "use no dictionary for q*"),
    ]
    for dict_kind, payload, text in dictionary:
        assert describe(FrameType.DICT << 4 | dict_kind, payload, 9) == f"DICT  {text}  9 B"
    assert describe(FrameType.RESPONSE << 4 | 1 << CODING_SHIFT, b"\x00", 3) == "RESPONSE  mini  3 B  00"


@pytest.mark.parametrize("frame", [FrameType.TABLE, FrameType.DICT])
@pytest.mark.parametrize("payload", [b"", b"\x00", b"\xff", b"\x07\x01", b"\x07\xff", b"\x00\xff", b"\x03\x01\xff"])
def test_malformed_tables_and_dictionaries_are_traced_like_other_frames(frame: FrameType, payload: bytes) -> None:
    for flags in range(16):
        assert describe(frame << 4 | flags, payload, 9).startswith(f"{frame.name}  ")


def test_the_command_line_chooses_profile_and_dictionaries() -> None:
    parse_args = make_parser().parse_args
    usual = make_client(parse_args(["call", "echo"])).core.settings
    assert (usual.templates, usual.dictionaries, usual.history) == (True, True, True)
    args = parse_args(["--no-dictionaries", "call", "echo", "--profile", "h"])
    without = make_client(args).core.settings
    assert (without.templates, without.dictionaries, without.history) == (False, False, False)


def test_importing_the_package_pulls_nothing() -> None:
    code = (
        "import sys, accessgw.client\n"
        "assert not [m for m in sys.modules if m.startswith(('twisted', 'asyncio', 'protocols'))]\n"
        "import accessgw.client.aio\n"
        "assert 'twisted' not in sys.modules\n"
        "from accessgw.client import Client, CallFailed\n"
        "assert 'twisted.internet.reactor' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_body_of_a_secret_call_is_raw_in_short_connections() -> None:
    shorts = ShortConnections(ClientSettings(*addresses_of(["https://gw.example"]), "d1"))
    shorts.adopt(Welcome(session="s", mac_key=bytes(32), capabilities=frozenset({"zstd"})))
    body = b'{"pin":"1234"}' * 50

    def posted(secret: bool) -> bytes:
        call = OpenCall(1, "pay", [], body, idempotent=False, created=0.0, deadline=9.0, secret=secret)
        return shorts.request(
            1, call, 7, hello=lambda: Hello("d1"), cursors=list, time=1.7e9, timeout=9.0, age=0.0
        ).body

    assert body in posted(secret=True)
    assert body not in posted(secret=False)

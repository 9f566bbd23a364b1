"""The made-up sessions are mobile traffic by the control rows, for any seed;
training has not seen the test's devices."""

from __future__ import annotations

import json

import pytest

from loadtest.corpus.controls import BOUNDS, SESSIONS, controls, outside
from loadtest.corpus.devices import JSON, OPERATION
from loadtest.corpus.fields import Cents, Digest, Fields, as_it_is, renamed, to_json, to_protobuf, with_underscores
from loadtest.corpus.sessions import Heartbeat, Session, sessions
from loadtest.corpus.vocabulary import Vocabulary

SEEDS = (1, 2, 3, 7, 1234, 20_261_121, 2**31 - 1)
CREDENTIALS = {"authorization", "cookie", "set-cookie", "proxy-authorization"}


@pytest.fixture(scope="module")
def some() -> list[Session]:
    return list(sessions(5, SESSIONS))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_control_rows_hold_for_every_seed(seed: int) -> None:
    assert outside(controls(list(sessions(seed, SESSIONS)))) == []


def test_a_corpus_out_of_bounds_is_told() -> None:
    rows = {name: high + 1 for name, (_, high) in BOUNDS.items()}
    assert len(outside(rows)) == len(BOUNDS)
    assert "expected 520 to 620, got 621.000" in outside(rows)[0]


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(some: list[Session]) -> None:
    assert list(sessions(5, SESSIONS)) == some
    assert next(sessions(6, 1)).bodies != some[0].bodies


def test_a_session_is_20_calls_100_pushes_and_10_heartbeats(some: list[Session]) -> None:
    for session in some:
        beats = [event for event in session.events if isinstance(event, Heartbeat)]
        assert (len(session.exchanges), len(session.pushes), len(beats)) == (20, 100, 10)
        kinds = [type(event) for event in session.events]
        assert kinds != sorted(kinds, key=str)


def test_each_call_has_21_headers_and_no_credential_among_them(some: list[Session]) -> None:
    for call in some[0].exchanges:
        names = [name for name, _ in call.request_headers]
        assert len(set(names)) == len(names) == 21
        assert names[0] == OPERATION
        assert not [name for name in names if name in CREDENTIALS or name.endswith("-token")]


def test_both_encodings_occur_and_json_is_json(some: list[Session]) -> None:
    pushes = [push for session in some for push in session.pushes]
    plain = [push.body for push in pushes if push.content_type == JSON]
    assert 0.6 < len(plain) / len(pushes) < 0.9
    for body in plain:
        assert isinstance(json.loads(body), dict)


def test_training_and_test_share_no_device_and_a_quarter_of_the_words_is_new(some: list[Session]) -> None:
    training = list(sessions(5, 3 * SESSIONS, training=True))
    assert not {session.device for session in training} & {session.device for session in some}
    assert not {session.user for session in training} & {session.user for session in some}
    known, every = Vocabulary(5, True), Vocabulary(5, False)
    assert known.words() < every.words()
    for name in ("phrases", "templates", "shops", "knobs", "english"):
        assert len(getattr(known, name)) / len(getattr(every, name)) == pytest.approx(0.75, abs=0.02), name
    unseen = every.words() - known.words()
    text = b"".join(body for session in training for body in session.bodies).decode(errors="replace")
    assert not [shop for shop in unseen & set(every.shops) if shop in text]


def test_the_sequence_numbers_of_a_stream_ascend_by_one(some: list[Session]) -> None:
    last: dict[str, int] = {}
    for push in some[0].pushes:
        assert push.seq == last.get(push.biz, push.seq - 1) + 1
        last[push.biz] = push.seq


def test_one_message_in_both_encodings() -> None:
    inner = Fields((("createdAt", 1, 300),))
    message = Fields(
        (
            ("id", 1, Digest("beef")),
            ("price", 2, Cents(1205)),
            ("text", 3, "ü"),
            ("none", 4, None),
            ("rows", 5, [inner]),
        )
    )
    assert to_json(message, as_it_is) == '{"id":"beef","price":"12.05","text":"ü","rows":[{"createdAt":300}]}'.encode()
    assert b'"created_at":300' in to_json(message, with_underscores)
    assert to_protobuf(message) == bytes.fromhex("0a02beef10b5091a02c3bc2a0308ac02")
    assert any(renamed(name) != name for name in ("amount", "currency", "orderId", "iconUrl", "success", "trackId"))

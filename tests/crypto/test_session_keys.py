from __future__ import annotations

import os
from pathlib import Path

import pytest

from accessgw.crypto.contexts import ContextOptions, ServerContexts
from accessgw.crypto.key_store import LEAD, KeyStore
from accessgw.crypto.session_keys import SessionKeys
from accessgw.model.listener_settings import ListenerSettings
from protocols.tls.engines import NATIVE, PURE
from tests.crypto.certificates import self_signed
from tests.protocols.tls.minimal_handshake import MinimalClient
from tests.protocols.tls.native_links import HAS_NATIVE
from tests.protocols.tls.tls_links import records

NOW = 1_800_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys", NOW, rotation=28_800.0, random_bytes=os.urandom)


def of(store: KeyStore, zone: str = "z", listener: str = "tls", transport: str = "tls") -> SessionKeys:
    return SessionKeys(store, zone=zone, listener=listener, transport=transport)


def test_every_process_has_the_same_keys_and_every_purpose_others(store: KeyStore, tmp_path: Path) -> None:
    other = KeyStore(tmp_path / "keys", NOW, rotation=28_800.0, random_bytes=os.urandom)
    assert of(store).keys(NOW) == of(other).keys(NOW)
    kinds = [of(store), of(store, zone="y"), of(store, listener="x"), of(store, transport="quic")]
    assert len({part for kind in kinds for key in kind.keys(NOW) for part in key}) == 3 * len(kinds)
    assert [len(part) for part in of(store).keys(NOW)[0]] == [16, 32, 32]


def test_a_published_key_is_taken_before_it_makes_tickets(store: KeyStore) -> None:
    keys = of(store)
    (old,) = keys.keys(NOW)
    assert keys.keys(NOW + 1) is keys.keys(NOW)
    store.rotate(NOW + 1)
    first, waiting = keys.keys(NOW + 1)
    assert first == old
    assert keys.keys(NOW + 1 + LEAD) == (waiting, old)


def test_three_generations_are_taken_and_a_dropped_one_is_not(store: KeyStore) -> None:
    keys, now, seen = of(store), NOW, []
    for _ in range(4):
        seen.append(keys.keys(now)[0])
        store.rotate(now)
        now += LEAD + 1
    assert keys.keys(now)[1:] == (seen[3], seen[2])
    dropped = keys.keys(now)[0]
    store.drop(store.current(now).number, now)
    assert dropped not in keys.keys(now)


def made_under(contexts: ServerContexts) -> bytes:
    """The name of the key under which a new connection gets its tickets."""
    engine, hand = contexts.engine(), MinimalClient()
    engine.feed(hand.start())
    engine.feed(hand.answer(engine.to_send()))
    return bytes(hand.ticket(records(engine.to_send())[0]).identity[:16])


@pytest.mark.skipif(not HAS_NATIVE, reason="no native engine here")
def test_contexts_give_tickets_of_the_current_epoch_through_rotation_and_reload(
    store: KeyStore, tmp_path: Path
) -> None:
    now = NOW
    certificate = self_signed(tmp_path, "localhost")
    contexts = [
        ServerContexts(
            [certificate],
            ["mmtp/1"],
            options=ContextOptions(name="tls", engine=NATIVE, session_keys=of(store)),
            wall=lambda: now,
        )
        for _ in range(2)
    ]
    first = of(store).keys(now)[0][0]
    assert [made_under(one) for one in contexts] == [first, first]
    store.rotate(now)
    now += LEAD
    for one in contexts:
        one.poll(now)
    second = of(store).keys(now)[0][0]
    assert second != first
    assert [made_under(one) for one in contexts] == [second, second]
    contexts[0].prepare()()
    assert made_under(contexts[0]) == second
    store.drop(store.current(now).number, now)
    contexts[0].poll(now + 1)
    assert made_under(contexts[0]) not in (first, second)


@pytest.mark.parametrize(
    ("engine", "wanted", "given"),
    [(NATIVE, 0, 0), (NATIVE, 1, 1), (NATIVE, 4, 4), (PURE, 0, 2), (PURE, 1, 2), (PURE, 4, 2)],
)
def test_as_many_tickets_as_the_listener_s_settings_say(tmp_path: Path, engine: str, wanted: int, given: int) -> None:
    """pyOpenSSL cannot be told how many: without tickets there are two that stand for sessions which nobody keeps."""
    if engine == NATIVE and not HAS_NATIVE:
        pytest.skip("no native engine here")
    settings = ListenerSettings(name="tls", protocols=("mqtt",), session_tickets=wanted)
    contexts = ServerContexts(
        [self_signed(tmp_path, "localhost")], ["mqtt"], options=ContextOptions.of(settings, engine=engine)
    )
    hand, connection = MinimalClient(b"mqtt"), contexts.engine()
    connection.feed(hand.start())
    connection.feed(hand.answer(connection.to_send()))
    assert connection.handshaken
    assert len(records(connection.to_send())) == given

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from accessgw.crypto import shared_file
from accessgw.crypto.key_store import GENERATIONS, LEAD, LONGEST_LIFE, NAME, KeyStore
from accessgw.crypto.shared_file import SharedFileError

NOW = 1_800_000_000.0
ROTATION = 28_800.0


def opened(path: Path, now: float = NOW, rotation: float = ROTATION) -> KeyStore:
    return KeyStore(path / "keys", now, rotation=rotation, random_bytes=os.urandom)


def numbers(store: KeyStore, now: float) -> list[int]:
    return [epoch.number for epoch in store.epochs(now)]


def test_a_store_outlives_its_process(tmp_path: Path) -> None:
    first = opened(tmp_path).current(NOW)
    again = opened(tmp_path, NOW + 10)
    assert again.current(NOW + 10) == first
    assert again.find(first.number, NOW + 10) == first


def test_a_new_epoch_is_known_to_all_before_it_makes_tickets(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    old = one.current(NOW)
    at = NOW + ROTATION - LEAD
    assert not one.maintain(at - 1)
    assert one.maintain(at)
    for seconds in range(int(LEAD)):
        assert one.current(at + seconds) == other.current(at + seconds) == old
    new = one.current(at + LEAD)
    assert new != old
    # before its first ticket the other process had it already
    other_new = other.find(new.number, at + shared_file.CHECK_INTERVAL)
    assert other_new == new
    assert other.current(at + LEAD) == new
    assert other.find(old.number, at + LEAD) == old


def test_one_process_rotates_for_all(tmp_path: Path) -> None:
    stores = [opened(tmp_path) for _ in range(4)]
    at = NOW + ROTATION
    assert [store.maintain(at) for store in stores] == [True, False, False, False]
    assert len({tuple(numbers(store, at + 1)) for store in stores}) == 1


def test_who_comes_while_another_one_writes_leaves_it_to_that_one(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with shared_file.SharedFile(tmp_path / "keys" / NAME, 1000).locked():
        assert not store.maintain(NOW + ROTATION)
    assert store.maintain(NOW + ROTATION)


@settings(deadline=None)
@given(st.floats(60, ROTATION), st.integers(1, 40))
def test_secrets_live_three_generations_and_never_more_than_a_day(
    tmp_path_factory: pytest.TempPathFactory, rotation: float, steps: int
) -> None:
    store = opened(tmp_path_factory.mktemp("life"), rotation=rotation)
    seen: dict[int, float] = {}
    now = NOW
    for _ in range(steps):
        now += rotation / 3
        store.maintain(now)
        current = store.current(now)
        assert current.mints_from <= now
        epochs = store.epochs(now)
        assert 1 <= len(epochs) <= GENERATIONS
        for epoch in epochs:
            assert now - epoch.made < LONGEST_LIFE
            assert seen.setdefault(epoch.number, epoch.made) == epoch.made


def test_a_ticket_outlives_the_rotation_that_follows_it(tmp_path: Path) -> None:
    store, now = opened(tmp_path), NOW
    for _ in range(10):
        last = store.current(now)
        while store.current(now) == last:
            now += 1800
            store.maintain(now)
        assert store.find(last.number, now + ROTATION - 1) == last


def test_numbers_wrap_without_meeting(tmp_path: Path) -> None:
    store, now = opened(tmp_path), NOW
    known = numbers(store, now)
    for _ in range(300):
        now += ROTATION
        assert store.maintain(now)
        assert len(set(numbers(store, now))) == len(numbers(store, now))
        known.append(numbers(store, now)[-1])
    assert [(earlier + 1) % 256 for earlier in known[:-1]] == known[1:]


def test_what_lay_still_for_a_day_opens_nothing(tmp_path: Path) -> None:
    old = opened(tmp_path).current(NOW)
    late = NOW + LONGEST_LIFE
    store = opened(tmp_path, late)
    assert store.find(old.number, late) is None
    assert store.current(late) != old
    assert old.secret not in (tmp_path / "keys" / NAME).read_bytes()


def test_a_process_that_slept_rotates_when_it_needs_a_secret(tmp_path: Path) -> None:
    store = opened(tmp_path)
    old = store.current(NOW)
    new = store.current(NOW + 2 * LONGEST_LIFE)
    assert new != old
    assert opened(tmp_path, NOW + 2 * LONGEST_LIFE).current(NOW + 2 * LONGEST_LIFE) == new


# ------------------------------------------------------------------ by hand


def test_a_rotation_by_hand_repeated_at_once_is_one(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    old = one.current(NOW)
    new = one.rotate(NOW)
    assert other.rotate(NOW + 1) == new
    assert new.mints_from == NOW + LEAD
    assert one.current(NOW + 1) == old
    assert one.current(NOW + LEAD) == new
    assert other.rotate(NOW + LEAD + 1) != new


def test_a_dropped_epoch_opens_nothing_in_any_process(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    assert other.current(NOW) == one.current(NOW)
    dropped = one.current(NOW)
    assert one.drop(dropped.number, NOW)
    assert one.find(dropped.number, NOW) is None
    assert one.current(NOW).number == (dropped.number + 1) % 256
    assert other.find(dropped.number, NOW + 1) is None
    assert other.current(NOW + 1) == one.current(NOW)
    assert not one.drop(dropped.number, NOW + 2)
    assert dropped.secret not in (tmp_path / "keys" / NAME).read_bytes()


def test_for_a_dropped_secret_a_new_one_makes_tickets_not_an_older_one(tmp_path: Path) -> None:
    store = opened(tmp_path)
    old = store.current(NOW)
    store.rotate(NOW)
    dropped = store.current(NOW + LEAD)
    store.drop(dropped.number, NOW + LEAD)
    assert store.current(NOW + LEAD) not in (old, dropped)
    assert store.find(old.number, NOW + LEAD) == old


def test_the_number_of_a_dropped_epoch_is_not_given_to_the_next(tmp_path: Path) -> None:
    store = opened(tmp_path)
    new = store.rotate(NOW)
    assert store.drop(new.number, NOW + 1)
    assert opened(tmp_path, NOW + 1).rotate(NOW + 1).number == (new.number + 1) % 256


# ------------------------------------------------------------------ trouble


def test_a_lost_store_is_made_anew(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    old = one.current(NOW)
    for path in (tmp_path / "keys").iterdir():
        path.unlink()
    (tmp_path / "keys").rmdir()
    new = one.current(NOW + 1)
    assert new.secret != old.secret
    assert other.current(NOW + 1) == new
    assert opened(tmp_path, NOW + 2).current(NOW + 2) == new


@settings(deadline=None)
@given(st.data())
def test_a_damaged_store_is_refused_by_name(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    tmp_path = tmp_path_factory.mktemp("damaged")
    secret = opened(tmp_path).current(NOW).secret
    path = tmp_path / "keys" / NAME
    content = bytearray(path.read_bytes())
    cut = data.draw(st.integers(0, len(content)))
    if cut == len(content):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content[:cut])
    with pytest.raises(SharedFileError, match=f"^{path}: ") as told:
        opened(tmp_path)
    assert secret.hex() not in str(told.value) and repr(secret) not in str(told.value)


def test_a_whole_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    opened(tmp_path)
    body = b"agwkeys\x02" + bytes(2)
    (tmp_path / "keys" / NAME).write_bytes(body + hashlib.sha256(body).digest())
    with pytest.raises(SharedFileError, match="expected a store of ticket secrets"):
        opened(tmp_path)


def test_a_store_damaged_meanwhile_leaves_its_secrets_in_force_and_says_so(tmp_path: Path) -> None:
    store = opened(tmp_path)
    epoch = store.current(NOW)
    path = tmp_path / "keys" / NAME
    path.write_bytes(b"nothing")
    told: list[str] = []

    def observer(event: LogEvent) -> None:
        told.append(str(event.get("why", "")))

    globalLogPublisher.addObserver(cast(ILogObserver, observer))
    try:
        for seconds in range(1, 10):
            assert store.current(NOW + seconds) == epoch
            assert store.find(epoch.number, NOW + seconds) == epoch
        assert len(told) == 1 and told[0].startswith(f"{path}: ")
        assert not store.maintain(NOW + ROTATION)
        assert len(told) == 2
    finally:
        globalLogPublisher.removeObserver(cast(ILogObserver, observer))
    with pytest.raises(SharedFileError):
        store.rotate(NOW + 10)


def test_a_store_that_cannot_be_written_makes_tickets_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    late = NOW + LONGEST_LIFE
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        own = store.current(late)
        assert store.current(late + 1) == own
        assert store.find(own.number, late + 1) == own
    assert store.maintain(late + 2)
    assert store.current(late + 2) != own
    # what it made meanwhile is still opened
    assert store.find(own.number, late + 3) == own
    assert store.find(own.number, late + LONGEST_LIFE) is None


@pytest.mark.parametrize("back", [1.0, 60.0, 1e8])
def test_a_clock_that_goes_back_is_lived_with(tmp_path: Path, back: float) -> None:
    store = opened(tmp_path)
    for turn in range(1, 4):
        store.maintain(NOW + turn * ROTATION)
    now = NOW + 3 * ROTATION - back
    store.maintain(now)
    assert store.current(now).mints_from <= now
    assert opened(tmp_path, now).current(now) == store.current(now)


def test_secrets_are_in_no_representation(tmp_path: Path) -> None:
    epoch = opened(tmp_path).current(NOW)
    assert "secret" not in repr(epoch)
    assert repr(epoch.secret)[2:-1] not in repr(epoch)

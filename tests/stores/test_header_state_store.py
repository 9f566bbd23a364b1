"""What every HeaderStateStore does: the same tests over SQLite and memory."""

from __future__ import annotations

from typing import Any

from accessgw.model.header_states import Direction, HeaderState, StateKey

NOW = 1_700_000_000.0
KEY = StateKey("d", "u", b"\x00\xfftable1")


def save(
    stores: Any,
    checkpoint: int,
    encoded: bytes = b"state",
    *,
    key: StateKey = KEY,
    direction: Direction = "up",
    generation: tuple[int, int] = (1, 1),
    now: float = NOW,
) -> None:
    stores.header_states.save(key, HeaderState(direction, checkpoint, encoded), generation, now)


def kept(stores: Any, key: StateKey = KEY) -> list[tuple[str, int, bytes]]:
    stores.wait(stores.header_states.sweep(0.0))  # what is written behind is written now
    return sorted(stores.wait(stores.header_states.load(key)))


def test_what_was_saved_is_found_by_its_whole_key(stores: Any) -> None:
    save(stores, 1, b"\x00up")
    save(stores, 7, b"down\xff", direction="down")
    assert kept(stores) == [("down", 7, b"down\xff"), ("up", 1, b"\x00up")]
    for other in (KEY._replace(device="e"), KEY._replace(user="v"), KEY._replace(table=b"12345678")):
        assert kept(stores, other) == []


def test_the_three_newest_checkpoints_of_a_direction_stay(stores: Any) -> None:
    save(stores, 1, direction="down")
    for checkpoint in range(1, 6):
        save(stores, checkpoint)
    assert [(direction, number) for direction, number, _ in kept(stores)] == [
        ("down", 1), ("up", 3), ("up", 4), ("up", 5),
    ]  # fmt: skip


def test_a_connection_that_begins_anew_removes_what_it_went_on_from(stores: Any) -> None:
    for checkpoint in range(1, 6):
        save(stores, checkpoint)
    save(stores, 1, b"anew", generation=(1, 2))
    assert kept(stores) == [("up", 1, b"anew")]


def test_a_lower_generation_neither_replaces_nor_removes(stores: Any) -> None:
    save(stores, 4, b"theirs", generation=(2, 1))
    kept(stores)
    save(stores, 4, b"late", generation=(1, 9))
    save(stores, 9, b"later", generation=(1, 9))
    assert ("up", 4, b"theirs") in kept(stores)
    save(stores, 4, b"again", generation=(2, 1))
    assert ("up", 4, b"again") in kept(stores)


def test_old_states_are_swept(stores: Any) -> None:
    save(stores, 1, b"old", now=NOW - 100)
    save(stores, 2, b"new")
    kept(stores)
    assert stores.wait(stores.header_states.sweep(NOW - 50)) == 1
    assert kept(stores) == [("up", 2, b"new")]


def test_the_oldest_are_swept_past_the_bound(stores: Any) -> None:
    keys = [KEY._replace(device=f"d{number}") for number in range(25)]
    for key in keys:
        save(stores, 1, key=key)
    stores.wait(stores.header_states.sweep(0.0))
    stores.wait(stores.header_states.sweep(0.0))
    left = [key for key in keys if kept(stores, key)]
    assert left == keys[5:]


def test_states_outlive_the_process(open_store: Any) -> None:
    stores = open_store()
    save(stores, 3, b"kept")
    stores.stop()
    assert kept(open_store()) == [("up", 3, b"kept")]


def test_a_generation_of_any_size_is_kept_and_spoils_no_other(stores: Any) -> None:
    """HELLO's boot and counter go up to 2^64 - 1."""
    largest = (1 << 64) - 1
    save(stores, 1, b"mine", key=KEY._replace(device="e"))
    save(stores, 1, b"large", generation=(largest, largest))
    save(stores, 2, b"larger", generation=(largest, largest))
    assert kept(stores) == [("up", 1, b"large"), ("up", 2, b"larger")]
    assert kept(stores, KEY._replace(device="e")) == [("up", 1, b"mine")]

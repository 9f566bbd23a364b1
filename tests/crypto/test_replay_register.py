from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from accessgw.core.interfaces.tls import ReplayGuard
from accessgw.crypto import replay_register
from accessgw.crypto.replay_register import TICKET_AGE, TOLERANCE, ReplayRegister, boot_id
from accessgw.crypto.shared_file import CHECK_INTERVAL, SharedFile, SharedFileError

NOW = 1_800_000_000.0
WINDOW = 10.0
DELAY = 3.0
LIFE = 2 * WINDOW + DELAY + TOLERANCE
WAIT = 2 * WINDOW + TOLERANCE
READY = NOW + WAIT
TICKET = b"\x01" + bytes(16)
Open = Callable[..., ReplayRegister]


@pytest.fixture
def register(tmp_path: Path) -> Open:
    def register(
        now: float = NOW, entries: int = 1024, boot: bytes = b"this run", window: float = WINDOW, name: str = "seen"
    ) -> ReplayRegister:
        return ReplayRegister(
            tmp_path / "keys" / name,
            now,
            window=window,
            delay=DELAY,
            entries=entries,
            random_bytes=os.urandom,
            boot=boot,
        )

    return register


def flight(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_it_is_a_replay_guard(register: Open) -> None:
    guard: ReplayGuard = register()
    assert not guard.ready(NOW)


def test_a_flight_is_taken_once(register: Open) -> None:
    seen = register()
    assert seen.strike(TICKET, flight(1), READY)
    assert not any(seen.strike(TICKET, flight(1), READY + 0.01 * n) for n in range(1000))
    assert seen.strike(TICKET, flight(2), READY)
    assert seen.strike(TICKET[::-1], flight(1), READY)


def test_identity_and_random_are_divided_unambiguously(register: Open) -> None:
    seen = register()
    assert seen.strike(b"a" + b"r", flight(0), READY)
    assert seen.strike(b"a", b"r" + flight(0), READY)


def test_processes_share_what_they_saw(register: Open) -> None:
    one, other = register(), register(NOW + 1)
    assert one.strike(TICKET, flight(1), READY)
    assert not other.strike(TICKET, flight(1), READY)
    assert other.strike(TICKET, flight(2), READY)
    assert not one.strike(TICKET, flight(2), READY)


def test_who_joins_a_living_register_need_not_wait(register: Open) -> None:
    register().close()
    late = register(READY + 5)
    assert late.ready(READY + 5)


def test_a_new_register_refuses_until_older_flights_are_stale(register: Open) -> None:
    seen = register()
    assert (seen.problem(NOW), seen.problem(READY - 0.01), seen.problem(READY)) == ("new", "new", "")
    assert not seen.strike(TICKET, flight(1), READY - 0.01)
    assert seen.strike(TICKET, flight(1), READY)


@pytest.mark.parametrize("changed", [{"boot": b"another run"}, {"entries": 2048}, {"window": 11.0}])
def test_a_register_of_another_run_or_size_is_not_joined(register: Open, changed: dict[str, object]) -> None:
    assert register().ready(READY)
    assert register(READY, **changed).problem(READY) == "new"


def test_without_a_name_for_the_run_every_start_makes_a_new_one(register: Open) -> None:
    register(boot=b"")
    assert register(READY, boot=b"").problem(READY) == "new"


def test_this_machine_names_its_run() -> None:
    assert len(boot_id()) == 36
    assert boot_id() == boot_id()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, LIFE / 2), min_size=1, max_size=40))
def test_a_flight_is_known_for_twice_the_window(tmp_path_factory: pytest.TempPathFactory, steps: list[float]) -> None:
    path = tmp_path_factory.getbasetemp() / "known" / "seen"
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.parent.chmod(0o700)
    seen = ReplayRegister(path, NOW, window=WINDOW, delay=DELAY, entries=1024, random_bytes=os.urandom)
    now, taken = READY, {}
    for number, step in enumerate(steps):
        now += step
        assert seen.strike(TICKET, flight(number), now)
        taken[number] = now
        for earlier, at in taken.items():
            if now - at <= 2 * WINDOW + DELAY:
                assert not seen.strike(TICKET, flight(earlier), now)
    seen.close()


def test_a_short_window_still_covers_the_age_of_openssls_tickets(register: Open) -> None:
    seen = register(window=1.0)
    at = NOW + TICKET_AGE + TOLERANCE
    assert (seen.problem(at - 0.01), seen.problem(at)) == ("new", "")
    assert seen.strike(TICKET, flight(1), at)
    assert not seen.strike(TICKET, flight(1), at + TICKET_AGE)


def test_a_hello_that_is_held_back_does_not_outlast_the_register(register: Open) -> None:
    """A device whose clock is ahead by more than the window sends at READY; its HELLO is held back until it is timely,
    and the flight is shown again for as long as that lasts."""
    estimate = READY + WINDOW + DELAY
    seen = register()
    assert seen.strike(TICKET, flight(1), READY)
    step = 0
    while abs(estimate - (READY + step / 4)) <= WINDOW or step / 4 <= DELAY:
        assert not seen.strike(TICKET, flight(1), READY + step / 4)
        step += 1
    assert step / 4 > 2 * WINDOW


def test_a_flight_is_forgotten_after_both_generations(register: Open) -> None:
    # its time gives it away then
    seen = register()
    assert seen.strike(TICKET, flight(1), READY)
    assert seen.strike(TICKET, flight(1), READY + 2 * LIFE + 1)


# ------------------------------------------------------------------ bounds


def test_a_full_register_refuses_and_has_room_again(register: Open) -> None:
    seen = register()
    assert all(seen.strike(TICKET, flight(n), READY) for n in range(1024))
    assert seen.problem(READY) == "full"
    assert not seen.strike(TICKET, flight(2000), READY)
    later = READY + LIFE
    assert seen.ready(later)
    assert seen.strike(TICKET, flight(2000), later)
    # the full one is still read
    assert not seen.strike(TICKET, flight(3), later)


def test_a_crowded_place_refuses(register: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_register, "PROBES", 1)
    seen = register()
    told = [seen.strike(TICKET, flight(n), READY) for n in range(500)]
    assert 0 < told.count(False) < 250
    assert not any(seen.strike(TICKET, flight(n), READY) for n in range(500))


def test_all_of_the_file_is_there_from_the_start(register: Open, tmp_path: Path) -> None:
    register(entries=1 << 16)
    state = (tmp_path / "keys" / "seen").stat()
    assert state.st_blocks * 512 >= state.st_size > 2 * (1 << 16) * 16
    assert state.st_mode & 0o777 == 0o600


def test_no_room_for_it_is_an_error_with_its_name(
    register: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(SharedFileError, match=f"{tmp_path}/keys/seen: No space"):
        register()
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["seen.lock"]


# ------------------------------------------------------------------ trouble


def test_a_clock_that_goes_back_refuses_until_it_has_caught_up(register: Open) -> None:
    seen = register()
    at = READY + 100
    assert seen.strike(TICKET, flight(1), at)
    assert not seen.strike(TICKET, flight(2), at - TOLERANCE - 0.01)
    assert seen.problem(at - 50) == "clock"
    assert register(at - 50).problem(at - 50) == "clock"
    assert seen.strike(TICKET, flight(2), at - TOLERANCE)
    assert not seen.strike(TICKET, flight(1), at - TOLERANCE)


def test_a_clock_that_jumps_forward_and_back_lets_no_flight_in_twice(register: Open) -> None:
    seen = register()
    assert seen.strike(TICKET, flight(1), READY)
    assert seen.strike(TICKET, flight(2), READY + 3600)
    assert not any(seen.strike(TICKET, flight(1), READY + n) for n in range(3590))


def test_a_lost_register_is_made_anew_and_refuses_at_first(register: Open, tmp_path: Path) -> None:
    one, other = register(), register()
    assert one.strike(TICKET, flight(1), READY)
    for path in (tmp_path / "keys").iterdir():
        path.unlink()
    assert not one.strike(TICKET, flight(1), READY + 1)
    assert other.problem(READY + 1) == "new"
    later = READY + 1 + WAIT
    assert one.strike(TICKET, flight(3), later)
    assert not other.strike(TICKET, flight(3), later)


def test_a_process_with_another_setting_draws_the_others_after_it(register: Open) -> None:
    one = register()
    other = register(READY, entries=2048)
    assert not one.strike(TICKET, flight(1), READY)
    later = READY + WAIT
    assert one.strike(TICKET, flight(2), later)
    assert not other.strike(TICKET, flight(2), later)


def test_another_register_is_followed_at_the_next_strike(register: Open) -> None:
    one = register()
    assert one.strike(TICKET, flight(1), READY)
    other = register(READY, entries=2048)
    assert (one.problem(READY), other.problem(READY)) == ("new", "new")


def test_a_register_that_was_moved_is_left_within_a_second(register: Open, tmp_path: Path) -> None:
    seen, path = register(), tmp_path / "keys" / "seen"
    assert seen.strike(TICKET, flight(1), READY)
    path.rename(path.with_name("moved"))
    assert not seen.strike(TICKET, flight(2), READY + CHECK_INTERVAL)
    assert seen.problem(READY + CHECK_INTERVAL) == "new"


def test_a_strike_looks_at_a_few_places_from_the_first_generation_on(
    register: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place of zeroes looked taken by the generation before the first, so that all PROBES were tried."""
    looked: list[int] = []
    find = ReplayRegister._find
    monkeypatch.setattr(
        ReplayRegister,
        "_find",
        lambda seen, digest, generation: looked.append(generation) or find(seen, digest, generation),
    )
    seen = register()
    assert seen.strike(TICKET, flight(1), READY)
    assert seen.strike(TICKET, flight(2), READY + LIFE)
    assert looked == [1, 1, 2]


def test_a_register_that_forgets_too_soon_for_this_process_is_not_used(register: Open) -> None:
    one = register(window=20.0)
    other = register(READY, window=10.0)
    later = READY + 100
    assert (one.problem(later), other.problem(later)) == ("unusable", "")
    assert not one.strike(TICKET, flight(1), later)


@given(st.integers(0, 400), st.integers(1, 255))
@settings(deadline=None)
def test_a_damaged_head_makes_a_new_register_or_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, place: int, change: int
) -> None:
    path = tmp_path_factory.mktemp("head") / "keys" / "seen"
    seen = ReplayRegister(path, NOW, window=WINDOW, delay=DELAY, entries=1024, random_bytes=os.urandom)
    assert seen.strike(TICKET, flight(1), READY)
    seen.close()
    content = bytearray(path.read_bytes())
    content[place] ^= change
    path.write_bytes(content)
    again = ReplayRegister(path, READY, window=WINDOW, delay=DELAY, entries=1024, random_bytes=os.urandom)
    assert not again.strike(TICKET, flight(1), READY)
    again.close()


@pytest.mark.parametrize("size", [0, 100, 4096, 10_000])
def test_a_file_cut_short_makes_a_new_register(register: Open, tmp_path: Path, size: int) -> None:
    register().close()
    os.truncate(tmp_path / "keys" / "seen", size)
    assert register(READY).problem(READY) == "new"


def test_a_closed_register_takes_nothing(register: Open) -> None:
    seen = register()
    seen.close()
    assert not seen.strike(TICKET, flight(1), READY)
    assert seen.problem(READY) == "unusable"


def test_threads_take_each_flight_once(register: Open) -> None:
    registers = [register(entries=1 << 14), register(entries=1 << 14)]
    taken: list[int] = []

    def striking(seen: ReplayRegister) -> None:
        taken.extend(n for n in range(3000) if seen.strike(TICKET, flight(n), READY))

    threads = [threading.Thread(target=striking, args=(registers[n % 2],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(3000))


def test_nobody_is_waited_for_while_the_gateway_serves(register: Open, tmp_path: Path) -> None:
    seen, path = register(), tmp_path / "keys" / "seen"
    path.unlink()
    with SharedFile(path, 0).locked():
        assert not seen.strike(TICKET, flight(1), READY)
    assert seen.problem(READY) == "new"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink() or path.mkdir(), "seen: Is a directory"),
        (lambda path: None, "seen: the clock was put back"),
    ],
)
def test_what_does_not_pass_is_told_once_a_minute(
    register: Open, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    seen = register()
    assert seen.strike(TICKET, flight(1), READY + 1000)
    spoil(tmp_path / "keys" / "seen")
    told: list[str] = []

    def observer(event: LogEvent) -> None:
        told.append(str(event.get("why", "")))

    globalLogPublisher.addObserver(cast(ILogObserver, observer))
    try:
        for second in range(120):
            assert not seen.ready(READY + second)
            assert not seen.strike(TICKET, flight(2), READY + second)
    finally:
        globalLogPublisher.removeObserver(cast(ILogObserver, observer))
    assert len(told) == 2 and all(said in line for line in told)

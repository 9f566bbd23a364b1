"""The file authenticator: who is let in, what is not told, reloading, caching, overload."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import argon2
import pytest
from twisted.internet.defer import CancelledError, Deferred

from accessgw.core.authentication import AuthenticatorChain
from accessgw.crypto import credentials_file, password_file
from accessgw.crypto.authenticators import from_settings
from accessgw.crypto.password_file import FileAuthenticator
from accessgw.crypto.services import AuthenticationUnavailable, AuthenticatorServices
from accessgw.crypto.success_cache import SuccessCache, digest
from accessgw.crypto.workers import Workers
from accessgw.model.counters import SessionCounters
from accessgw.model.identity import Credentials, Identity, Strength
from accessgw.model.reasons import CloseReason
from accessgw.model.settings import AuthenticatorSettings
from protocols.passwords import PasswordHash
from tests.crypto.crypto_fakes import World, ask, outcome

HASHER = argon2.PasswordHasher(1, 64, 1)
WRONG = "wrong user name or password"


def line(user: str, password: str) -> str:
    return f"{user}:{HASHER.hash(password)}\n"


def write(path: Path, text: str) -> None:
    """As an editor does that replaces the file."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)


class House:
    def __init__(self, path: Path, text: str, **settings: Any) -> None:
        self.path = path / "passwords"
        self.world = World()
        write(self.path, text)
        self.one = FileAuthenticator(
            AuthenticatorSettings(kind="file", file=str(self.path), **settings), self.world.services
        )

    def ask(self, user: str, password: str, **more: Any) -> Any:
        return ask(self.one, username=user, token=password, **more)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path, "# people\n" + line("alice", "secret") + line("bob", "hunter2"))


def test_right_wrong_and_unknown(house: House) -> None:
    found = house.ask("alice", "secret", app="shop", app_version="2")
    assert found == Identity("d1", "alice", "shop", "2", Strength.TOKEN, "file")
    assert house.ask("alice", "hunter2") == WRONG
    assert house.ask("alice", "") == WRONG
    assert house.ask("carol", "secret") is None
    assert ask(house.one, token="secret") is None


def test_an_unknown_name_costs_a_check_like_any_other(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[PasswordHash] = []
    monkeypatch.setattr(password_file, "verified", lambda expected, password: checked.append(expected) or True)
    assert house.ask("carol", "secret") is None
    assert house.ask("carol", "other") is None
    assert len(checked) == 2
    assert checked[0] is checked[1], "another cost each time would tell that there is no such user"
    for n in range(40):
        house.ask(f"nobody{n}", "x")
    assert {one.text for one in checked} == {one.text for one in house.one._file.table.entries.values()}


def test_a_file_without_users_knows_nobody(tmp_path: Path) -> None:
    assert House(tmp_path, "# nobody\n").ask("alice", "secret") is None


@pytest.mark.parametrize("scheme", [[], ["-H", "sha512"], ["-H", "sha512-pbkdf2"]])
def test_files_of_mosquitto_passwd(tmp_path: Path, scheme: list[str]) -> None:
    if shutil.which("mosquitto_passwd") is None:
        pytest.skip("mosquitto_passwd is not installed")
    made = tmp_path / "made"
    subprocess.run(
        ["mosquitto_passwd", *scheme, "-c", "-b", made, "alice", "pässwörd"], check=True, capture_output=True
    )
    house = House(tmp_path, made.read_text())
    assert isinstance(house.ask("alice", "pässwörd"), Identity)
    assert house.ask("alice", "passwort") == WRONG


@pytest.mark.parametrize("kind", ["ID", "I", "D"])
def test_every_kind_of_argon2(tmp_path: Path, kind: str) -> None:
    hasher = argon2.PasswordHasher(2, 128, 2, type=getattr(argon2.Type, kind))
    house = House(tmp_path, f"alice:{hasher.hash('secret')}")
    assert isinstance(house.ask("alice", "secret"), Identity)
    assert house.ask("alice", "Secret") == WRONG


def test_before_the_gateway_runs_nobody_is_accepted(tmp_path: Path) -> None:
    """And the services may come later."""
    (tmp_path / "p").write_text(line("alice", "secret"))
    services = AuthenticatorServices()
    (one,) = from_settings([AuthenticatorSettings(kind="file", file=str(tmp_path / "p"))], lambda: 0.0, services)
    assert isinstance(ask(one, username="alice", token="secret"), AuthenticationUnavailable)
    services.bind(World().services)
    assert isinstance(ask(one, username="alice", token="secret"), Identity)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("alice", r"authenticators\[0\].file: .*/p:1: expected user:hash"),
        (None, r"authenticators\[0\].file: .*: No such file"),
    ],
)
def test_a_bad_file_at_the_start_is_told_with_its_line(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "p").write_text(text)
    with pytest.raises(ValueError, match=message):
        from_settings([AuthenticatorSettings(kind="file", file=str(tmp_path / "p"))], lambda: 0.0)


# ------------------------------------------------------------------ reloading


def test_a_changed_file_counts_for_the_next_who_comes(house: House) -> None:
    assert isinstance(house.ask("alice", "secret"), Identity)
    write(house.path, line("carol", "secret"))
    house.world.clock.advance(0.9)
    assert isinstance(house.ask("alice", "secret"), Identity), "looked at more than once in a second"
    house.world.clock.advance(0.1)
    assert house.ask("alice", "secret") is None
    assert isinstance(house.ask("carol", "secret"), Identity)


def test_whoever_comes_while_the_file_is_read_waits_for_it(house: House) -> None:
    house.world.held = True
    write(house.path, line("carol", "secret"))
    asked = [
        house.one.authenticate(Credentials(device="d1", username=user, token="secret")) for user in ("alice", "carol")
    ]
    gone = house.one.authenticate(Credentials(device="d1", username="carol", token="secret"))
    gone.cancel()
    assert isinstance(outcome(gone), CancelledError)
    house.world.work()
    house.world.work()
    assert outcome(asked[0]) is None
    assert outcome(asked[1]).user == "carol"


class Log:
    def __init__(self) -> None:
        self.errors: list[str] = []

    def error(self, format: str, **values: Any) -> None:
        self.errors.append(format.format(**values))

    def info(self, format: str, **values: Any) -> None:
        pass


def test_a_file_that_cannot_be_read_is_told_in_the_words_of_the_system(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    monkeypatch.setattr(credentials_file, "log", log)
    house.path.unlink()
    house.path.mkdir()
    house.world.clock.advance(1)
    assert isinstance(house.ask("alice", "secret"), Identity)
    assert log.errors == [f"{house.path}: Is a directory; what was read before stays in force"]


def test_a_damaged_file_leaves_the_old_one_in_force(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    monkeypatch.setattr(credentials_file, "log", log)
    write(house.path, line("carol", "secret") + "alice\n")
    for _ in range(3):
        house.world.clock.advance(1)
        assert isinstance(house.ask("alice", "secret"), Identity)
    assert len(log.errors) == 1, "the same damage is told once"
    assert "line 2: expected user:hash" in log.errors[0]
    house.path.unlink()
    for _ in range(2):
        house.world.clock.advance(1)
        assert isinstance(house.ask("alice", "secret"), Identity)
    assert len(log.errors) == 2
    assert "No such file" in log.errors[1]
    write(house.path, line("carol", "secret"))
    house.world.clock.advance(1)
    assert house.ask("alice", "secret") is None
    assert isinstance(house.ask("carol", "secret"), Identity)


def test_a_change_that_could_not_be_read_for_want_of_room_refuses(house: House) -> None:
    write(house.path, line("carol", "secret"))
    house.world.full = True
    assert isinstance(house.ask("alice", "secret"), AuthenticationUnavailable)
    house.world.full = False
    assert house.ask("alice", "secret") is None


# ------------------------------------------------------------------ recent successes


def test_recent_successes_are_remembered_for_a_while(tmp_path: Path) -> None:
    house = House(tmp_path, line("alice", "secret"), cache=10.0)
    assert isinstance(house.ask("alice", "secret"), Identity)
    assert house.ask("alice", "secret", device="d2").device == "d2"
    assert house.world.ran == 1
    assert house.ask("alice", "wrong") == WRONG
    assert house.ask("alice", "wrong") == WRONG
    assert house.world.ran == 3, "failures are never remembered"
    house.world.clock.advance(10)
    assert isinstance(house.ask("alice", "secret"), Identity)
    assert house.world.ran == 4


def test_without_the_setting_nothing_is_remembered(house: House) -> None:
    house.ask("alice", "secret")
    house.ask("alice", "secret")
    assert house.world.ran == 2


def test_a_changed_password_is_not_remembered(tmp_path: Path) -> None:
    house = House(tmp_path, line("alice", "secret"), cache=1000.0)
    assert isinstance(house.ask("alice", "secret"), Identity)
    write(house.path, line("alice", "changed"))
    house.world.clock.advance(1)
    assert house.ask("alice", "secret") == WRONG


def test_a_cache_is_bounded_and_keeps_no_time_but_its_own() -> None:
    cache: SuccessCache[int] = SuccessCache(10.0, max_entries=2)
    for n in range(3):
        cache.put(bytes([n]), n, float(n))
    assert len(cache) == 2
    assert [cache.get(bytes([n]), 5.0) for n in range(3)] == [None, 1, 2]
    assert cache.get(b"\x01", 11.0) is None
    assert len(cache) == 1
    cache.clear()
    assert len(cache) == 0


def test_the_borders_of_parts_count() -> None:
    assert digest(b"k", b"ab", b"c") != digest(b"k", b"a", b"bc")
    assert digest(b"k", b"a") != digest(b"l", b"a")


# ------------------------------------------------------------------ threads


class Threads:
    """Real threads; what they report is run by `settle`."""

    def __init__(self, threads: int, waiting: int) -> None:
        self.reports: list[tuple[Any, ...]] = []
        self.reported = threading.Semaphore(0)
        self.workers = Workers(self.report, threads, waiting)

    def report(self, *call: Any) -> None:
        self.reports.append(call)
        self.reported.release()

    def settle(self, count: int) -> None:
        for _ in range(count):
            assert self.reported.acquire(timeout=10)
            function, *arguments = self.reports.pop(0)
            function(*arguments)


def test_work_is_done_on_another_thread_and_its_error_comes_back() -> None:
    threads = Threads(1, 10)
    where = threads.workers.run(threading.get_ident)
    error = threads.workers.run(lambda: 1 // 0)
    threads.settle(2)
    assert outcome(where) != threading.get_ident()
    assert isinstance(outcome(error), ZeroDivisionError)
    assert threads.workers.pending == 0


def test_a_full_queue_refuses_and_recovers() -> None:
    threads = Threads(1, 2)
    go = threading.Event()
    accepted = [threads.workers.run(go.wait) for _ in range(3)]
    assert isinstance(outcome(threads.workers.run(go.wait)), AuthenticationUnavailable)
    go.set()
    threads.settle(3)
    assert [outcome(one) for one in accepted] == [True, True, True]
    last = threads.workers.run(lambda: "again")
    threads.settle(1)
    assert outcome(last) == "again"


def test_what_nobody_waits_for_any_more_is_not_begun() -> None:
    threads = Threads(1, 10)
    go, begun = threading.Event(), threading.Event()
    done: list[str] = []
    first = threads.workers.run(lambda: (begun.set(), go.wait()))
    assert begun.wait(10)
    second = threads.workers.run(lambda: done.append("second"))
    second.cancel()
    first.cancel()
    assert isinstance(outcome(second), CancelledError)
    assert isinstance(outcome(first), CancelledError)
    go.set()
    threads.settle(2)
    assert done == []
    assert threads.workers.pending == 0


def test_stopping_drops_what_has_not_begun() -> None:
    threads = Threads(1, 10)
    go, begun = threading.Event(), threading.Event()
    first = threads.workers.run(lambda: (begun.set(), go.wait()))
    second = threads.workers.run(lambda: None)
    assert begun.wait(10)
    threads.workers.stop()
    go.set()
    threads.settle(2)
    assert outcome(first) == (None, True)
    assert isinstance(outcome(second), AuthenticationUnavailable)


# ------------------------------------------------------------------ in the chain


def test_the_chain_refuses_while_too_much_is_waiting_and_counts_it(house: House) -> None:
    counters = SessionCounters()
    chain = AuthenticatorChain([house.one], counters, house.world.clock)

    def admitted(user: str, password: str) -> Any:
        credentials = Credentials(device="d1", username=user, token=password)
        return outcome(Deferred.fromCoroutine(chain.require(credentials)))

    house.world.full = True
    assert admitted("alice", "secret").reason is CloseReason.AUTH_UNAVAILABLE
    assert counters.auth_unavailable == {"file": 1}
    house.world.full = False
    assert admitted("alice", "wrong").reason is CloseReason.AUTH_FAILED
    assert admitted("carol", "secret").reason is CloseReason.AUTH_FAILED
    assert admitted("alice", "secret").user == "alice"
    assert counters.auth_failures == {"file": 2, "none": 1}
    assert counters.auth_unavailable == {"file": 1}


def test_who_waited_too_long_is_refused_and_its_check_not_begun(house: House) -> None:
    threads = Threads(1, 10)
    go, begun = threading.Event(), threading.Event()
    busy = threads.workers.run(lambda: (begun.set(), go.wait()))
    assert begun.wait(10)
    house.one._services.run = threads.workers.run
    chain = AuthenticatorChain([house.one], SessionCounters(), house.world.clock, timeout=4.0)
    asked = Deferred.fromCoroutine(chain.require(Credentials(device="d1", username="alice", token="secret")))
    house.world.clock.advance(4.1)
    assert outcome(asked).reason is CloseReason.AUTH_UNAVAILABLE
    go.set()
    threads.settle(2)
    assert threads.workers.pending == 0
    assert outcome(busy) == (None, True)


def test_who_comes_when_the_gateway_stops_is_refused() -> None:
    threads = Threads(1, 10)
    threads.workers.stop()
    refused = outcome(threads.workers.run(lambda: "too late"))
    assert isinstance(refused, AuthenticationUnavailable) and str(refused) == "the gateway is stopping"
    assert threads.workers.pending == 0

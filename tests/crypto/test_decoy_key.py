"""The secret behind invented salts: made once, private, the same after a restart."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import argon2
import pytest

from accessgw.crypto.decoy_key import DecoyKey
from accessgw.crypto.password_file import FileAuthenticator
from accessgw.crypto.services import AuthenticatorServices
from accessgw.crypto.workers import Workers
from accessgw.model.identity import Credentials
from accessgw.model.settings import AuthenticatorSettings
from tests.reactor_loop import run


def test_it_is_made_once_and_stays(tmp_path: Path) -> None:
    key = DecoyKey(str(tmp_path))
    first = key()
    assert len(first) == 32
    assert key() == first
    assert DecoyKey(str(tmp_path))() == first
    assert [one.name for one in tmp_path.iterdir()] == ["decoy.key"]
    assert stat.S_IMODE((tmp_path / "decoy.key").stat().st_mode) == 0o600


def test_of_two_that_make_it_at_once_the_first_ones_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = DecoyKey(str(tmp_path))
    link = os.link

    def late(*arguments: Any) -> None:
        monkeypatch.setattr(os, "link", link)
        other()
        link(*arguments)

    monkeypatch.setattr(os, "link", late)
    assert DecoyKey(str(tmp_path))() == other()


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "decoy.key").write_bytes(b"short")
    with pytest.raises(ValueError, match="expected 32 bytes, got 5"):
        DecoyKey(str(tmp_path))()


async def logins(reactor: Any, directory: str) -> list[str]:
    """Ten logins at once, right and wrong ones, on a running reactor with real threads."""
    file = Path(directory) / "passwords"
    file.write_text("alice:" + argon2.PasswordHasher(1, 64, 1).hash("secret"))
    workers = Workers(reactor.callFromThread, threads=2, waiting=6)
    services = AuthenticatorServices(
        seconds=reactor.seconds, run=workers.run, random_bytes=os.urandom, decoy_key=DecoyKey(directory)
    )
    one = FileAuthenticator(AuthenticatorSettings(kind="file", file=str(file)), services)
    asked = [
        one.authenticate(Credentials(device="d1", username="alice", token="secret" if n % 2 else "wrong"))
        for n in range(10)
    ]
    outcomes = []
    for deferred in asked:
        try:
            identity = await deferred
        except Exception as error:
            outcomes.append(type(error).__name__)
        else:
            outcomes.append(identity.user if identity else "nobody")
    assert workers.pending == 0
    workers.stop()
    return outcomes


def test_logins_on_a_running_reactor(tmp_path: Path) -> None:
    outcomes = run(logins, str(tmp_path))
    assert outcomes[:8] == ["AuthenticationFailed", "alice"] * 4
    assert outcomes[8:] == ["AuthenticationUnavailable"] * 2

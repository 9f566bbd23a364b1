"""accessgwctl passwd: files that it makes and changes, and what it leaves alone."""

from __future__ import annotations

import argparse
import io
import os
import stat
from pathlib import Path
from typing import Any

import argon2.low_level
import pytest

from accessgw.ops import ctl, passwd
from protocols.passwords import PasswordHash, parse_lines
from protocols.scram import Verifier


class Shell:
    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = path / "passwords"
        self.monkeypatch = monkeypatch

    def __call__(self, *arguments: str, stdin: bytes = b"secret\n") -> str:
        parser = argparse.ArgumentParser()
        passwd.add_arguments(parser)
        self.monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        return passwd.run(parser.parse_args([str(self.file), *arguments]))

    def fails(self, *arguments: str, **more: Any) -> str:
        before = self.file.read_bytes() if self.file.exists() else None
        with pytest.raises(passwd.PasswdError) as caught:
            self(*arguments, **more)
        assert (self.file.read_bytes() if self.file.exists() else None) == before
        return str(caught.value).replace(str(self.file), "FILE")

    def users(self, parse: Any = PasswordHash.parse) -> dict[str, Any]:
        return parse_lines(self.file.read_bytes(), parse)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(tmp_path, monkeypatch)


def right(one: PasswordHash, password: bytes) -> bool:
    return argon2.low_level.verify_secret(one.text.encode(), password, argon2.low_level.Type.ID)


def test_a_new_file_belongs_to_nobody_else(shell: Shell) -> None:
    assert shell("alice", "--stdin") == "alice was added"
    assert stat.S_IMODE(shell.file.stat().st_mode) == 0o600
    assert right(shell.users()["alice"], b"secret")
    assert [one.name for one in shell.file.parent.iterdir()] == ["passwords"], "nothing else is left behind"


def test_other_lines_stay_as_they_are(shell: Shell) -> None:
    shell.file.write_text("# people\n\nbob:$6$c2FsdA==$" + "A" * 86 + "==\n# the end")
    shell("alice", "--stdin")
    assert shell("alice", "--stdin", stdin=b"changed\r\n") == "alice has another password"
    lines = shell.file.read_text().splitlines()
    assert lines[:2] == ["# people", ""]
    assert lines[3] == "# the end"
    assert len(lines) == 5
    assert right(shell.users()["alice"], b"changed")
    assert shell("bob", "--delete") == "bob was taken out"
    assert list(shell.users()) == ["alice"]
    assert "# the end" in shell.file.read_text()


def test_equal_passwords_do_not_look_equal(shell: Shell) -> None:
    shell("alice", "--stdin")
    shell("bob", "--stdin")
    first, second = shell.users().values()
    assert first.text != second.text


def test_scram(shell: Shell) -> None:
    assert shell("al\u00adice", "--stdin", "--scram") == "alice was added"
    made = shell.users(Verifier.parse)["alice"]
    assert made == Verifier.of("secret", made.salt, made.iterations)
    shell("bob", "--stdin", "--scram")
    assert list(shell.users(Verifier.parse)) == ["alice", "bob"]
    assert shell.fails("carol", "--stdin").startswith("FILE:1: expected a hash")


def test_a_link_is_followed(shell: Shell) -> None:
    target = shell.file.with_name("target")
    target.write_text("")
    shell.file.symlink_to(target)
    shell("alice", "--stdin")
    assert shell.file.is_symlink()
    assert list(shell.users()) == ["alice"]


def test_asking_twice_at_a_terminal(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["one", "two", "same", "same"]
    monkeypatch.setattr("getpass.getpass", lambda prompt: answers.pop(0))
    assert shell.fails("alice") == "the passwords differ; nothing was changed"
    shell("alice")
    assert right(shell.users()["alice"], b"same")


def test_passwords_that_are_no_text(shell: Shell) -> None:
    shell("alice", "--stdin", stdin=b"\xff\xfe\n")
    assert right(shell.users()["alice"], b"\xff\xfe")


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["a:b", "--stdin"], b"x", "USER: expected a user name without colon"),
        (["", "--stdin"], b"x", "USER: expected a user name of 1 to 256"),
        (["alice", "--stdin"], b"", "expected a password, got an empty one"),
        (["alice", "--stdin"], b"\nx", "expected a password, got an empty one"),
        (["alice", "--stdin"], b"x" * 70000, "expected a password of at most 65535 bytes"),
        (["alice", "--stdin", "--scram"], "\u0627a".encode(), "the password: "),
        (["\u0221", "--stdin", "--scram"], b"x", "USER: U+0221"),
        (["alice", "--delete"], b"", "FILE: there is no user alice"),
    ],
)
def test_what_is_refused(shell: Shell, arguments: list[str], stdin: bytes, message: str) -> None:
    assert shell.fails(*arguments, stdin=stdin).startswith(message)


def test_a_damaged_file_is_not_touched(shell: Shell) -> None:
    shell.file.write_text("# people\nalice:secret\n")
    assert shell.fails("bob", "--stdin") == (
        "FILE:2: expected a hash $argon2id$..., $7$iterations$salt$hash or $6$salt$hash; nothing was changed"
    )


def test_a_failure_half_way_leaves_no_trace(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell("alice", "--stdin")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    assert shell.fails("bob", "--stdin") == "FILE: No space left on device"
    assert [one.name for one in shell.file.parent.iterdir()] == ["passwords"]


def test_a_directory_that_is_not_there(shell: Shell) -> None:
    shell.file = shell.file / "deeper" / "still"
    assert shell.fails("alice", "--stdin") == "FILE: No such file or directory"


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"secret\n")))
    file = str(tmp_path / "passwords")
    assert ctl.main(["passwd", file, "alice", "--stdin"]) == 0
    assert capsys.readouterr().out == "alice was added\n"
    assert ctl.main(["passwd", file, "bob", "--delete"]) == 1
    assert capsys.readouterr().err == f"accessgwctl: {file}: there is no user bob\n"

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from accessgw.crypto import shared_file
from accessgw.crypto.shared_file import SharedFile, SharedFileError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def written(path: Path, content: bytes = b"secret") -> SharedFile:
    file = SharedFile(path, 100)
    with file.locked():
        file.replace(content)
    return file


def test_file_and_directory_are_for_their_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        written(tmp_path / "keys" / "a")
    finally:
        os.umask(before)
    assert mode(tmp_path / "keys") == 0o700
    assert {mode(path) for path in (tmp_path / "keys").iterdir()} == {0o600}


@pytest.mark.parametrize("others", [0o640, 0o604, 0o620, 0o601])
def test_a_file_that_others_may_use_is_refused_by_name(tmp_path: Path, others: int) -> None:
    path = tmp_path / "keys" / "a"
    file = written(path)
    path.chmod(others)
    with pytest.raises(SharedFileError, match=rf"{path}: holds secrets; expected mode 0600, got {others:04o}") as told:
        file.read()
    assert "secret'" not in str(told.value)


def test_a_directory_that_others_may_look_into_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o755)
    with pytest.raises(SharedFileError, match=rf"{tmp_path}/keys: holds secrets; expected mode 0700, got 0755"):
        SharedFile(tmp_path / "keys" / "a", 100)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a file")
    with pytest.raises(SharedFileError, match=rf"{tmp_path}/keys: "):
        SharedFile(tmp_path / "keys" / "a", 100)


def test_a_file_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SharedFileError, match="expected at most 100 bytes"):
        written(tmp_path / "keys" / "a", bytes(101)).read()


def test_what_another_one_wrote_is_seen_at_the_next_look_a_second_later(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "a"
    one = written(path)
    assert one.read() == b"secret"
    assert not one.changed(100.0)
    written(path, b"other")
    assert not one.changed(100.9)
    assert one.changed(101.0)
    assert one.read() == b"other"
    path.unlink()
    # the clock was put back
    assert one.changed(50.0)
    assert one.read() is None
    assert not one.changed(60.0)


def test_a_refused_file_is_told_of_once(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "a"
    file = written(path)
    path.chmod(0o644)
    with pytest.raises(SharedFileError):
        file.read()
    assert not file.changed(1.0)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys" / "a"
    file = written(path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SharedFileError, match=rf"{path}: No space left"), file.locked():
        file.replace(b"new")
    assert file.read() == b"secret"


def test_writers_exclude_each_other_within_a_process(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "a"
    one, other = SharedFile(path, 100), SharedFile(path, 100)
    with one.locked(), other.locked(wait=False) as held:
        assert not held
    with other.locked(wait=False) as held:
        assert held


def test_a_writer_that_is_stopped_does_not_stop_the_others_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys" / "a"
    one, other = SharedFile(path, 100), SharedFile(path, 100)
    monkeypatch.setattr(shared_file, "PATIENCE", 0.02)
    with (
        one.locked(),
        pytest.raises(SharedFileError, match=rf"{path}.lock: another process has held it for 0.02 s"),
        other.locked(),
    ):
        pass
    with other.locked() as held:
        assert held


def test_a_writer_waits_for_the_one_before_it(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "a"
    one, other = SharedFile(path, 100), SharedFile(path, 100)
    in_turn: list[str] = []
    begun = threading.Event()

    def second() -> None:
        begun.set()
        with other.locked() as held:
            in_turn.append(f"second {held}")

    thread = threading.Thread(target=second)
    with one.locked():
        thread.start()
        assert begun.wait(10)
        in_turn.append("first")
    thread.join(10)
    assert in_turn == ["first", "second True"]

"""Tests for the file of a developer's network analyser."""

from __future__ import annotations

import os

import pytest

from accessgw.crypto.key_log import KeyLogFile


def test_a_line_that_comes_after_the_end_goes_into_no_other_file(tmp_path):
    keys = KeyLogFile(str(tmp_path / "keys"))
    keys(b"LINE 1")
    keys.close()
    other = os.open(tmp_path / "other", os.O_WRONLY | os.O_CREAT, 0o600)
    with pytest.raises(OSError, match="Bad file descriptor"):
        keys(b"LINE 2")
    os.close(other)
    assert (tmp_path / "other").read_bytes() == b""
    assert (tmp_path / "keys").read_bytes() == b"LINE 1\n"
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o600

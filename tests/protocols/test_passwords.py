"""Password files: lines, hashes, and the bounds on what a hash may cost."""

from __future__ import annotations

import argon2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.passwords import MAX_FILE, LineError, PasswordHash, name_problem, parse_lines, password_bytes

# made by mosquitto_passwd 2.0 for the password `secret`
PBKDF2 = (
    "$7$101$XFkASGO6ePcyCUJk$KeaTPOwIFlb78KhcBrcRJfAoiPPh2M4I0d2Gr3dlNFbqip/WyYZ6Wm8lbkL6VpYtAgfNKnB8RJCOfRSYOPcH9g=="
)
SHA512 = "$6$oC8x23tZCmRx9w5E$iwJn/erWW2j9kKPYI8o+csCb2Qb3BbIYeNGkPJck2fHvIZLtA81KbPDuoOCMItveJyifPXBGMdu+YI+zbd6leA=="
ARGON2 = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$GpZ3sK/oH9p7VIiV56G/64Zo/8GaUw434IimaPqxwCo"


@pytest.mark.parametrize("text", [PBKDF2, SHA512])
def test_hashes_of_mosquitto(text: str) -> None:
    made = PasswordHash.parse(text)
    assert made.verify(b"secret")
    assert not made.verify(b"Secret")
    assert not made.verify(b"")


def test_argon2_strings_as_argon2_makes_them() -> None:
    assert PasswordHash.parse(argon2.PasswordHasher(1, 64, 1).hash("x")).scheme == "argon2id"
    assert PasswordHash.parse(ARGON2.replace("argon2id", "argon2i")).scheme == "argon2i"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a hash"),
        ("secret", "expected a hash"),
        ("$5$abc$def", "expected a hash"),
        (PBKDF2.replace("101", "2000001"), "at most 2000000 iterations"),
        (PBKDF2.replace("101", "0"), "expected a hash"),
        (PBKDF2.replace("101", "9" * 5000), "expected a hash"),
        (PBKDF2[:-8], "in the hash|64 bytes"),
        (PBKDF2[:-4] + "AA=A", "base64"),
        ("$6$AAAA$AAAA", "64 bytes"),
        (ARGON2.replace("v=19", "v=16"), "expected .argon2id"),
        (ARGON2.replace("m=19456", "m=262145"), "expected m of at most 262144, got 262145"),
        (ARGON2.replace("t=2", "t=17"), "expected t of at most 16, got 17"),
        (ARGON2.replace("p=1", "p=17"), "expected p of at most 16, got 17"),
        (ARGON2.replace("m=19456,t=2", "m=262144,t=8"), "m times t"),
        (ARGON2.replace("m=19456,t=2,p=1", "m=8,t=1,p=2"), "at least 8 times p"),
        (ARGON2.replace("c2FsdHNhbHRzYWx0", "c2Fs"), "salt of 8 to 64"),
        (ARGON2.replace("c2FsdHNhbHRzYWx0", "c2Fsd"), "base64"),
    ],
)
def test_what_is_no_hash_or_costs_too_much_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PasswordHash.parse(text)


def test_lines_comments_and_empty_lines() -> None:
    assert parse_lines(b"# who may\n\na:1\r\n  b c:2:3\n\xc3\xbc:\n", str) == {"a": "1", "b c": "2:3", "ü": ""}
    assert parse_lines(b"", str) == {}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a:1\nb\n", "2: expected user:hash"),
        (b"a:1\n:2", "2: expected a user name of 1 to 256"),
        (b"\na:1\na:2", "3: the user 'a' stands in an earlier line"),
        (b"a:1\n\xff:2", "2: expected UTF-8"),
        (b"x" * 300 + b":1", "1: expected a user name"),
        (b"a :1", "1: expected a user name without"),
        (b"a" * (MAX_FILE + 1), "1: expected a file of at most"),
    ],
)
def test_a_bad_line_is_told_by_its_number(data: bytes, message: str) -> None:
    with pytest.raises(LineError, match=message):
        parse_lines(data, str)


def test_errors_quote_no_hash() -> None:
    with pytest.raises(LineError) as caught:
        parse_lines(b"a:hunter2", PasswordHash.parse)
    assert "hunter2" not in str(caught.value)


@given(st.binary(max_size=200))
def test_whatever_is_in_a_file_there_is_one_error(data: bytes) -> None:
    for content in (data, b"a:" + data, b"a:$7$" + data, b"a:$argon2id$v=19$m=" + data):
        try:
            entries = parse_lines(content, PasswordHash.parse)
        except LineError:
            continue
        assert all(not name_problem(user) for user in entries)


def test_passwords_that_are_no_text_are_their_bytes() -> None:
    assert password_bytes(b"\xff\xfe".decode(errors="surrogateescape")) == b"\xff\xfe"
    assert password_bytes("ü") == "ü".encode()
    assert password_bytes("\ud800") == b"\xed\xa0\x80"

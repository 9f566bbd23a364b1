from __future__ import annotations

import pytest

from accessgw.core.interfaces.stores import StoreUnavailable
from accessgw.model.words import counted, in_words, trouble


def test_one_is_one() -> None:
    assert [counted(n, "key") for n in (0, 1, 2)] == ["0 keys", "1 key", "2 keys"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(2, "No such file or directory", "/etc/x"), "/etc/x: No such file or directory"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (OSError("timed out"), "timed out"),
        (ValueError("expected a key"), "expected a key"),
        (MemoryError(), "MemoryError"),
        # the number of a descriptor is no name
        (OSError(9, "Bad file descriptor", 7), "Bad file descriptor"),
    ],
)
def test_troubles_are_told_without_numbers_and_quotes(error: BaseException, words: str) -> None:
    assert trouble(error) == words


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (StoreUnavailable("the store is not running."), "the store is not running"),
        (StoreUnavailable(), "StoreUnavailable"),
        (KeyError("user"), "KeyError: 'user'"),
        (ZeroDivisionError(), "ZeroDivisionError"),
    ],
)
def test_our_own_errors_speak_for_themselves(error: BaseException, words: str) -> None:
    assert in_words(error) == words

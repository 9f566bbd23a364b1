from __future__ import annotations

from accessgw.model.words import counted


def test_one_is_one() -> None:
    assert [counted(n, "key") for n in (0, 1, 2)] == ["0 keys", "1 key", "2 keys"]

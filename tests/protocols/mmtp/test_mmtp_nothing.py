"""The shared empty table stays empty."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from protocols.mmtp.nothing import NOTHING


@pytest.mark.parametrize(
    "change",
    [
        lambda: NOTHING.__setitem__(1, 2),
        lambda: NOTHING.setdefault(1, 2),
        lambda: NOTHING.update({1: 2}),
        lambda: NOTHING.__ior__({1: 2}),
    ],
)
def test_it_takes_no_entries(change: Callable[[], object]) -> None:
    with pytest.raises(TypeError, match="shared"):
        change()
    assert not NOTHING


def test_it_is_an_empty_dictionary_to_who_reads_it() -> None:
    assert NOTHING.get(1) is None
    assert NOTHING.pop(1, None) is None
    assert list(NOTHING.values()) == []
    assert len(NOTHING) == 0

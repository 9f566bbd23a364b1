from __future__ import annotations

import random
from bisect import bisect_right

from protocols.mqtt.ordered import CHUNK, OrderedNames


def test_it_is_a_sorted_list():
    dice = random.Random(5)
    names, expected = OrderedNames(), set()
    for step in range(8 * CHUNK):
        name = f"{dice.randrange(6 * CHUNK):05}"
        if name in expected:
            names.remove(name)
            expected.discard(name)
        else:
            names.add(name)
            expected.add(name)
        if step % 500 == 0:
            ordered = sorted(expected)
            for after in ("", name, "99999", ordered[0] if ordered else "x"):
                assert list(names.after(after)) == ordered[bisect_right(ordered, after) :]
    assert len(names._chunks) > 1
    assert all(0 < len(chunk) <= 2 * CHUNK for chunk in names._chunks)
    assert names._lasts == [chunk[-1] for chunk in names._chunks]
    for name in dice.sample(sorted(expected), len(expected)):
        names.remove(name)
    assert list(names.after("")) == [] == names._chunks

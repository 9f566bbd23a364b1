"""Bodies for tests of dictionaries: like those of a shop, from many users."""

from __future__ import annotations

import json
import random

from accessgw.model.dictionaries import Sample

MERCHANTS = ("Corner Shop", "Noodle House", "City Metro", "Book Store")


def order(source: random.Random, note: str = "") -> bytes:
    """One order, about 230 bytes."""
    fields = {
        "order_id": f"{source.getrandbits(64):016x}",
        "amount": source.randrange(1, 100_000),
        "currency": source.choice(["CNY", "USD", "EUR"]),
        "merchant": {"name": source.choice(MERCHANTS), "category": source.choice(["food", "transport"])},
        "status": source.choice(["created", "paid", "refunded"]),
        "channel": "mobile",
    }
    if note:
        fields["note"] = note
    return json.dumps(fields, ensure_ascii=False).encode()


def orders(count: int = 600, users: int = 150, seed: int = 1) -> list[Sample]:
    """Orders of users 1 to `users` by turns."""
    source = random.Random(seed)
    return [Sample(number % users + 1, order(source)) for number in range(count)]

"""Feeds record layers of both twins with sealed and broken records: python -m tests.fuzz.fuzz_tls_records --records N.

Nothing but RemoteError may come of it, the twins must agree on every event, error and answer, and a state that was
changed must be refused with ValueError or give a connection. The same seed feeds the same bytes.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator

from protocols.errors import LocalError, RemoteError
from protocols.tls.key_schedule import SUITES
from protocols.tls.record_backends import Backend, get_backend
from protocols.tls.record_state import DetachedState
from protocols.tls.records import RecordLayer, RecordLimits
from tests.fuzz.command import run
from tests.protocols.tls.record_peers import Hand

ALERT, HANDSHAKE, DATA = 21, 22, 23
_LIMITS = (RecordLimits(), RecordLimits(rekey_after=2, records_per_key=5, control_messages=2))
_MESSAGES = (
    b"\x18\0\0\x01\0",
    b"\x18\0\0\x01\x01",
    b"\x18\0\0\x01\x02",
    b"\x04\0\0\x10" + bytes(8) + b"\0\0\3abc\0\0",
    b"\x04\0\0\x18" + bytes(8) + b"\0\0\3abc\0\x08\0\x2a\0\4\0\0\x40\0",
    b"\x0d\0\0\x03\0\0\0",
    b"\x01\0\0\0",
)
_ALERTS = (b"\1\0", b"\1\x5a", b"\1\x5a", b"\2\x28", b"\1", b"")
_HEADERS = (
    b"\x14\3\3\0\1\1",
    b"\x15\3\3\0\2\2\x28",
    b"\x16\3\1\0\x10",
    b"\x17\3\3\xff\xff",
    b"\x17\3\3\0\0",
    b"\x17\3\2\0\x20",
)


class Pair:
    """One connection on each twin, and a peer who knows its keys."""

    def __init__(self, pick: random.Random, backends: list[Backend]) -> None:
        self.random = pick
        self.backends = backends
        self.limits = pick.choice(_LIMITS)
        self.hand = Hand(
            backends[0],
            pick.choice(list(SUITES)),
            is_server=pick.random() < 0.5,
            limits=self.limits,
            randbytes=pick.randbytes,
        )
        state = self.hand.layer.export_state()
        self.layers = [self.load(state, backend) for backend in backends]

    def load(self, state: bytes, backend: Backend) -> RecordLayer:
        layer = RecordLayer.import_state(state, limits=self.limits, backend=backend)
        layer.start()
        return layer

    def bytes(self) -> bytes:
        """Mostly a record that is in order, and then one that is not."""
        pick, hand = self.random, self.hand
        chance = pick.random()
        if chance < 0.03:
            return pick.choice(_HEADERS) + pick.randbytes(pick.randrange(20))
        if chance < 0.05:
            return hand.inner(bytes(pick.randrange(1, 40)))
        if chance < 0.65:
            record = hand.record(DATA, pick.randbytes(pick.choice((0, 1, 5, 100, 3000))), pick.choice((0, 0, 0, 9)))
        elif chance < 0.85:
            message = self.change(pick.choice(_MESSAGES[:5] if pick.random() < 0.8 else _MESSAGES), 0.9)
            if pick.random() < 0.3 and message:
                cut = pick.randrange(len(message))
                record = hand.record(HANDSHAKE, message[:cut]) + hand.record(HANDSHAKE, message[cut:])
            else:
                record = hand.record(HANDSHAKE, message)
            if message[:4] == b"\x18\0\0\x01":
                hand.rekey()
        elif chance < 0.95:
            record = hand.record(ALERT, pick.choice(_ALERTS))
        elif chance < 0.96:
            record = hand.record(DATA, bytes(pick.choice((16384, 16385))), pick.choice((0, 1)))
        else:
            record = hand.record(pick.randrange(1, 256), b"x")
        return self.change(record, 0.95)

    def change(self, data: bytes, whole: float) -> bytes:
        """The bytes with a fault, but for a share of `whole`."""
        pick, data = self.random, bytearray(data)
        if pick.random() < whole or not data:
            return bytes(data)
        at = pick.randrange(len(data))
        match pick.randrange(4):
            case 0:
                data[at] ^= 1 << pick.randrange(8)
            case 1:
                del data[at]
            case 2:
                del data[at:]
            case _:
                data[at:at] = pick.randbytes(pick.randrange(1, 6))
        return bytes(data)

    def turn(self) -> tuple[str, int]:
        """One reception, said and heard by both; gives what became of it."""
        pick = self.random
        data = b"".join(self.bytes() for _ in range(pick.choice((1, 1, 2, 5))))
        cut = pick.randrange(len(data) + 1) if pick.random() < 0.4 else len(data)
        speak, close, hand_over = (pick.random() < share for share in (0.5, 0.02, 0.1))
        told = []
        for number, layer in enumerate(self.layers):
            code = 0
            try:
                layer.feed(data[:cut])
                layer.feed(data[cut:])
            except RemoteError as error:
                code = error.code
            events = layer.events()
            try:
                if close:
                    layer.close()
                elif speak:
                    layer.encrypt(b"answer")
            except LocalError:
                if not (code or layer._closed or layer._failure):
                    raise
            sent = b"" if hand_over else layer.to_send()
            if hand_over and not code:
                sent = layer.export_state()
                self.hostile(sent)
                self.layers[number] = self.load(sent, self.backends[number])
            told.append((code, events, sent))
        if any(each != told[0] for each in told):
            raise AssertionError(f"the twins disagree: {told}")
        code, events, _ = told[0]
        return ("refused" if code else "taken" if events else "silent"), code

    def hostile(self, state: bytes) -> None:
        """A state that was changed."""
        try:
            made = DetachedState.from_bytes(self.change(state, 0))
        except ValueError:
            return
        layer = RecordLayer(made, backend=self.random.choice(self.backends))
        try:
            layer.start()
        except RemoteError:
            layer.to_send()


def fuzz(records: int, seed: int) -> Iterator[tuple[str, int]]:
    """Feeds that many receptions; gives (what became of each, alert or 0). Anything but RemoteError goes through."""
    pick = random.Random(seed)
    backends = [get_backend("cryptography")]
    with contextlib.suppress(ImportError):
        backends.append(get_backend("libcrypto"))
    pair = Pair(pick, backends)
    left = 0
    for _ in range(records):
        if not left:
            pair, left = Pair(pick, backends), pick.randrange(1, 30)
        outcome = pair.turn()
        left = 0 if outcome[1] else left - 1
        yield outcome


if __name__ == "__main__":
    sys.exit(run(fuzz, __doc__, what="TLS records", unit="records"))

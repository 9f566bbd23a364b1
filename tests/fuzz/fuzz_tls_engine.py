"""Feeds the native TLS engine flights that were changed: python -m tests.fuzz.fuzz_tls_engine --flights N --seed N.

Nothing but RemoteError may come of it, and no crash: it runs in a process of its own. Good flights of full hand-shakes,
of keys with early data, of tickets and of client certificates are recorded once, and each is then fed with a few bytes
changed, cut, doubled or put in, to an engine that has taken what came before it as it was. A third of the engines has
its key elsewhere, and is dropped or answered at random.
"""

from __future__ import annotations

import argparse
import gc
import random
from collections import Counter

from protocols._native import tls_engine
from protocols.errors import LocalError, RemoteError
from protocols.tls.native_context import NativeServerContext
from protocols.tls.native_engine import NativeEngine
from protocols.tls.server_context import ClientVerification
from tests.protocols.tls.minimal_handshake import MinimalClient, Offer
from tests.protocols.tls.native_links import native_server, without_key
from tests.protocols.tls.tls_links import PSK, client, issuer, localhost


class Fuzzer:
    """Contexts, and first flights for each."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        verified = ClientVerification("request", issuer().pem)
        self.contexts: list[NativeServerContext] = [
            native_server(ticket_early_data=True, key_log=lambda line: None),
            native_server(minimum="1.2", alpn_below_1_3=frozenset({"mmtp/1"}), by_name={"a.test": [localhost("rsa")]}),
            native_server(clients=verified, tickets=False),
            native_server(certificates=[without_key(localhost("ec")), without_key(localhost("rsa"))]),
            native_server(certificates=[without_key(localhost("rsa"))], minimum="1.2"),
        ]
        self.first = self._first()
        self.outcomes: Counter[str] = Counter()

    def _first(self) -> list[bytes]:
        flights = []
        mine = issuer().issue("phone-1")
        for context in (client(), client(minimum="1.2"), client(chain=mine.chain, key=mine.key)):
            for psk, data in ((None, b""), (PSK, b""), (PSK, b"call" * 100)):
                device = context.engine("a.test", psk=psk)
                if data:
                    device.early(data)
                device.start()
                flights.append(device.to_send())
        flights.append(MinimalClient(offers=[Offer(b"%d" % number, b"k") for number in range(30)]).start())
        flights.append(MinimalClient(offers=[Offer(PSK.identity, PSK.key)], early=True).start())
        return flights

    def change(self, data: bytes) -> bytes:
        """The bytes with one to three faults."""
        pick, changed = self.random, bytearray(data)
        for _ in range(pick.choice((1, 1, 2, 3))):
            at = pick.randrange(len(changed) or 1)
            match pick.randrange(6) if changed else 5:
                case 0:
                    changed[at] ^= 1 << pick.randrange(8)
                case 1:
                    changed[at] = pick.choice((0, 1, 0x7F, 0x80, 0xFF))
                case 2:
                    del changed[at : at + pick.choice((1, 2, 7, 100))]
                case 3:
                    del changed[at:]
                case 4:
                    changed[at:at] = changed[at : at + pick.choice((1, 40))]
                case _:
                    changed[at:at] = pick.randbytes(pick.randrange(1, 6))
        return bytes(changed)

    def turn(self) -> None:
        """One connection: a changed first flight, or a good one and then a changed second."""
        pick = self.random
        engine = pick.choice(self.contexts).engine(detachable=pick.random() < 0.5)
        outcome = "waits"
        try:
            if pick.random() < 0.6:
                self.feed(engine, self.change(pick.choice(self.first)))
            else:
                device = client().engine("a.test", psk=pick.choice((None, PSK)))
                device.start()
                self.feed(engine, device.to_send())
                self.answer(engine)
                device.feed(engine.to_send())
                device.encrypt(b"request")
                device.close()
                self.feed(engine, self.change(device.to_send()))
            if engine.events():
                outcome = "told"
            if not self.answer(engine):
                outcome = "dropped while it waited for a signature"
            elif engine.handshaken and engine.detach() is not None:
                outcome = "detached"
        except RemoteError:
            outcome = "refused"
        except LocalError:
            outcome = "not taken"
        engine.events()
        engine.close()
        engine.to_send()
        self.outcomes[outcome] += 1

    def feed(self, engine: NativeEngine, data: bytes) -> None:
        cut = self.random.randrange(len(data) + 1) if self.random.random() < 0.3 else len(data)
        engine.feed(data[:cut])
        engine.feed(data[cut:])

    def answer(self, engine: NativeEngine) -> bool:
        """Whether no signature is wanted any more."""
        wanted = engine.pending_signature()
        if wanted is None:
            return True
        chance = self.random.random()
        if chance < 0.4:
            return False
        if chance < 0.7:
            engine.sign_failed(wanted.number, "no")
        else:
            engine.signed(wanted.number, self.random.randbytes(len(wanted.data)))
        return True


def main() -> None:
    """Prints what became of the connections."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flights", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    fuzzer = Fuzzer(wanted.seed)
    for _ in range(wanted.flights):
        fuzzer.turn()
    print(f"{wanted.flights} flights, seed {wanted.seed}: {dict(sorted(fuzzer.outcomes.items()))}")
    gc.collect()  # errors that a client keeps have frames with the engine
    print("left over (connections, waiting, orphans):", tls_engine.counts())


if __name__ == "__main__":
    main()

"""Compact tickets: 17 bytes that name a device's key for TLS 1.3 without a store being read.

    epoch (1, in the clear) | AES-256 block of: issued, minutes (3) | days (1) | bound to (8) | random (4)

`days` are those since the last full authentication, `bound to` is the beginning of a keyed digest of the TicketBinding.
The key is a keyed digest of these 17 bytes. Nothing authenticates the block itself: whoever presents it proves with the
binder of RFC 8446 4.2.11.2 that it has the key. But a foreign block decrypts to something, for which OpenSSL would end
the hand-shake; so whatever cannot be one of ours in its time is no ticket, and the connection goes on in full.
"""

from __future__ import annotations

import hmac
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from accessgw.core.interfaces.tls import OpenedTicket, Ticket, TicketBinding
from accessgw.crypto.key_store import Epoch, KeyStore

IDENTITY_SIZE = 17
AHEAD = 60.0
"""Seconds by which a ticket may be of the future: clocks of two nodes differ."""

_BLOCK = struct.Struct(">4s8s4s")
_MINUTES = 1 << 24
"""Minutes are counted modulo this, 32 years."""
_DAY = 86_400


@dataclass(slots=True, frozen=True, repr=False)
class _Keys:
    """What the tickets of one purpose are made with in one epoch."""

    block: _Block
    psk: HMAC
    """Never fed, only copied: a copy costs a third of a digest that begins with its key."""
    bind: HMAC
    """The same."""


class _Block(threading.local):
    """AES-256 of single blocks. Each thread has its two contexts, which cost ten times a block to make."""

    def __init__(self, key: bytes) -> None:
        # A single block that holds 32 random bits and what differs by device: no mode has anything to add.
        cipher = Cipher(AES(key), ECB())
        self.encrypt = cipher.encryptor().update
        self.decrypt = cipher.decryptor().update


class EpochTickets:
    """TicketKeys over a KeyStore. Zone, listener and transport are in the derivation: tickets of one are nothing to the
    others. Thread-safe."""

    def __init__(
        self,
        store: KeyStore,
        *,
        zone: str,
        listener: str,
        transport: str,
        lifetime: float,
        full_authentication_days: int,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        """`lifetime`: seconds; the store's epochs may end sooner. `full_authentication_days`: at most 255."""
        self._store = store
        self._label = fields(b"accessgw ticket 1", zone.encode(), listener.encode(), transport.encode())
        self._lifetime = lifetime
        self._days = full_authentication_days
        self._random_bytes = random_bytes
        self._keys: dict[bytes, _Keys] = {}
        """By secret of the epoch, as long as the store has that: what is gone there is not kept here."""
        store.on_change(self._forget)

    @property
    def full_authentication_days(self) -> int:
        return self._days

    def mint(self, now: float, binding: TicketBinding, days: int) -> Ticket:
        """See TicketKeys. Raises ValueError for more days than a chain of tickets may last."""
        if not 0 <= days <= self._days:
            raise ValueError(f"expected 0 to {self._days} days since the last full authentication, got {days}")
        epoch = self._store.current(now)
        keys = self._of(epoch)
        issued = int(now // 60) % _MINUTES
        block = _BLOCK.pack((issued << 8 | days).to_bytes(4, "big"), _bound(keys, binding), self._random_bytes(4))
        identity = bytes((epoch.number,)) + keys.block.encrypt(block)
        return Ticket(identity, _digest(keys.psk, identity), self._ends(epoch, now, days))

    def _ends(self, epoch: Epoch, now: float, days: int) -> float:
        """When `open` takes it no longer."""
        minute = now - now % 60
        last_day = now // _DAY + self._days - days
        return min(minute + self._lifetime, (last_day + 1) * _DAY, self._store.ends(epoch, now))

    def open(self, identity: bytes, now: float) -> OpenedTicket | None:
        if len(identity) != IDENTITY_SIZE:
            return None
        epoch = self._store.find(identity[0], now)
        if epoch is None:
            return None
        keys = self._of(epoch)
        head, bound, _ = _BLOCK.unpack(keys.block.decrypt(identity[1:]))
        minutes, days = int.from_bytes(head[:3], "big"), head[3]
        today = int(now // 60)
        # of all minutes with this remainder the nearest one
        issued = 60.0 * (today + (minutes - today + _MINUTES // 2) % _MINUTES - _MINUTES // 2)
        opened = OpenedTicket(identity, issued, days, bound, epoch.number)
        return opened if self._in_its_time(opened, now) else None

    def _in_its_time(self, opened: OpenedTicket, now: float) -> bool:
        return -AHEAD <= now - opened.issued <= self._lifetime and opened.days_at(now) <= self._days

    def is_open(self, opened: OpenedTicket, now: float) -> bool:
        return self._store.find(opened.epoch, now) is not None and self._in_its_time(opened, now)

    def key(self, opened: OpenedTicket) -> bytes | None:
        epoch = self._store.known(opened.epoch)
        return None if epoch is None else _digest(self._of(epoch).psk, opened.identity)

    def matches(self, opened: OpenedTicket, binding: TicketBinding) -> bool:
        """See TicketKeys. False, too, when the secret has been dropped since it was opened."""
        epoch = self._store.known(opened.epoch)
        return epoch is not None and hmac.compare_digest(_bound(self._of(epoch), binding), opened.bound)

    def _of(self, epoch: Epoch) -> _Keys:
        keys = self._keys.get(epoch.secret)
        if keys is None:
            block, psk, bind = (self._derive(epoch.secret, use) for use in (b"id", b"psk", b"bind"))
            keys = _Keys(_Block(block), HMAC(psk, SHA256()), HMAC(bind, SHA256()))
            # replaced, not changed: other threads may be reading it
            self._keys = {**self._keys, epoch.secret: keys}
            self._forget()
        return keys

    def _forget(self) -> None:
        kept = self._keys
        if not all(map(self._store.has, kept)):
            self._keys = {secret: keys for secret, keys in kept.items() if self._store.has(secret)}

    def _derive(self, secret: bytes, use: bytes) -> bytes:
        return HKDF(SHA256(), 32, salt=None, info=self._label + fields(use)).derive(secret)


def fields(*values: bytes) -> bytes:
    """The values one after the other, each behind its length, so that no two lists of values give the same."""
    return b"".join(len(value).to_bytes(4, "big") + value for value in values)


def _bound(keys: _Keys, binding: TicketBinding) -> bytes:
    device = binding.device.encode("utf-8", "surrogatepass")
    what = fields(device, binding.kind.encode(), binding.fingerprint, b"%d" % binding.not_after)
    return _digest(keys.bind, what)[:8]


def _digest(keyed: HMAC, what: bytes) -> bytes:
    digest = keyed.copy()
    digest.update(what)
    return digest.finalize()

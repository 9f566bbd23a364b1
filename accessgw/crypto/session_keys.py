"""Keys of TLS's own tickets (RFC 5077 section 4), for clients that are not ours: of the same epochs as compact tickets."""

from __future__ import annotations

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from accessgw.crypto.key_store import Epoch, KeyStore
from accessgw.crypto.ticket_keys import fields

SessionKey = tuple[bytes, bytes, bytes]
"""Name of 16 bytes, AES-256 key, HMAC-SHA-256 key of 32 bytes."""


class SessionKeys:
    """Those of one purpose: zone, listener and transport are in the derivation."""

    def __init__(self, store: KeyStore, *, zone: str, listener: str, transport: str) -> None:
        self._store = store
        self._label = fields(b"accessgw session 1", zone.encode(), listener.encode(), transport.encode())
        self._made: tuple[tuple[Epoch, ...], tuple[SessionKey, ...]] = ((), ())
        """Replaced whole: a reload asks on another thread."""

    def keys(self, now: float) -> tuple[SessionKey, ...]:
        """At most three; the first makes tickets at this wall-clock second. The same tuple until something changes."""
        current = self._store.current(now)
        epochs = (current, *(epoch for epoch in reversed(self._store.epochs(now)) if epoch != current))[:3]
        made = self._made
        if epochs != made[0]:
            made = self._made = epochs, tuple(map(self._derive, epochs))
        return made[1]

    def _derive(self, epoch: Epoch) -> SessionKey:
        key = HKDF(SHA256(), 80, salt=None, info=self._label).derive(epoch.secret)
        return key[:16], key[16:48], key[48:]

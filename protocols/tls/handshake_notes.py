"""What OpenSSL tells by callbacks during one hand-shake, and what it asks: kept per connection, never shared."""

from __future__ import annotations

from binascii import unhexlify
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from protocols.tls.psk import ExternalPsk, FindPsk

MAX_LOOKUPS = 8
"""Identities of one ClientHello that are looked up; a client of ours offers one."""

CLIENT_EARLY = b"CLIENT_EARLY_TRAFFIC_SECRET"
CLIENT_HANDSHAKE = b"CLIENT_HANDSHAKE_TRAFFIC_SECRET"
SERVER_HANDSHAKE = b"SERVER_HANDSHAKE_TRAFFIC_SECRET"
CLIENT_APPLICATION = b"CLIENT_TRAFFIC_SECRET_0"
SERVER_APPLICATION = b"SERVER_TRAFFIC_SECRET_0"
EXPORTER = b"EXPORTER_SECRET"

KeyLog = Callable[[bytes], None]
"""Takes lines of the key log format without line ends; called on the thread of the hand-shake."""
SelectAlpn = Callable[[bool, list[bytes]], bytes]
"""Of the protocols that a client offers, over TLS 1.3 (true) or an older version: the one to speak. RemoteError."""


@dataclass(slots=True, frozen=True)
class ContextTraits:
    """What is known of a context beside OpenSSL's own settings: the app data of an OpenSSL.SSL.Context."""

    find_psk: FindPsk | None = None
    max_early_data: int = 0
    """Bytes; 0 when the server takes none."""
    ticket_early_data: bool = False
    """Early data is also taken under OpenSSL's own tickets."""
    select_alpn: SelectAlpn | None = None
    key_log: KeyLog | None = None
    counts_updates: bool = False
    """The records stay with OpenSSL, which takes any number of KeyUpdates: they are counted for the engine."""
    chosen_alpn: dict[tuple[bool, bytes], Any] = field(default_factory=dict, compare=False)
    """What select_alpn has answered, for C: by whether it was over TLS 1.3 and by the offer."""
    kept: list[object] = field(default_factory=list)
    """Callbacks of C, which have to live as long as the context. Filled while it is made, then left alone."""


NO_TRAITS = ContextTraits()


class HandshakeNotes:
    """The app data of one OpenSSL.SSL.Connection. Holds secrets: has no representation of its contents."""

    __slots__ = (
        "_context",
        "_found",
        "_looked_up",
        "_lookups",
        "chosen",
        "defect",
        "early_data_ended",
        "kept",
        "key_updates",
        "lines",
        "offered",
        "reading_early",
        "shown",
        "traits",
    )

    def __init__(self, traits: ContextTraits, context: object) -> None:
        self.traits = traits
        self._context = context  # its callbacks may be called even after a server name has changed it for another
        self.lines: dict[bytes, bytes] = {}
        """Of the key log, by label."""
        self.defect: Exception | None = None
        """What a callback raised: OpenSSL has ended the hand-shake for it. Without traceback: its frames have the
        connection and these notes."""
        self.offered: ExternalPsk | None = None
        """The key that a client offers."""
        self.chosen = b""
        """The identity that a server's OpenSSL asked for last, if there is a key of that name. It asks for one after
        another until a key fits: so if the hand-shake resumes at all, this is the one that was used."""
        self.early_data_ended = False
        """A client has sent EndOfEarlyData: its early data was accepted."""
        self.reading_early = False
        """A server is ready to take early data."""
        self.shown = b""
        """DER of a client's certificate that was not taken."""
        self.key_updates = 0
        """Of the peer, for which no application data has paid yet; where they are counted."""
        self.kept: object = None
        """What C still points to."""
        self._lookups = 0
        self._looked_up: bytes | None = None
        self._found: ExternalPsk | None = None

    def look_up(self, identity: bytes) -> ExternalPsk | None:
        """The key of that name, if there is one that may be used now."""
        if identity != self._looked_up:
            find = self.traits.find_psk
            if find is None or self._lookups >= MAX_LOOKUPS:
                return None
            self._lookups += 1
            self._found = find(identity)
            self._looked_up = identity
        psk = self._found
        if psk is not None and self.reading_early and not psk.max_early_data:
            # OpenSSL would accept the early data, find that none is allowed, and fail: it is better off without the key.
            return None
        return psk

    def note_line(self, line: bytes) -> None:
        """One line of OpenSSL's key log."""
        self.lines[line.partition(b" ")[0]] = line
        if self.traits.key_log is not None:
            self.traits.key_log(line)

    def secret(self, label: bytes) -> bytes:
        """KeyError when OpenSSL has not told it."""
        return unhexlify(self.lines[label].rpartition(b" ")[2])

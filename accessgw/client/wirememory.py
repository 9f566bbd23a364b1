"""What a client has learned of its gateway that makes the next connection's bytes few; nothing of it is ever needed."""

from __future__ import annotations

from dataclasses import dataclass

from protocols.mmtp.device_exchange import HeaderMemory
from protocols.mmtp.dictionaries import Dictionary

NOTHING_KNOWN = HeaderMemory()


@dataclass(slots=True, frozen=True)
class WireMemory:
    """Immutable, so a thread may store it while the client goes on."""

    agreed: frozenset[str] = frozenset()
    """Optional features that the last WELCOME granted; only these are used before the next one."""
    headers: HeaderMemory = NOTHING_KNOWN
    """Table and states of header blocks (specification, section 7.3)."""
    dictionaries: tuple[Dictionary, ...] = ()
    """The bundle to name (specification, section 8.3), ids ascending."""

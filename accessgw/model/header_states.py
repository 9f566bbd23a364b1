"""What a connection's header codec knew, kept so that the device's next connection goes on from there."""

from __future__ import annotations

from typing import Literal, NamedTuple

Direction = Literal["up", "down"]
"""`up`: from the device to the gateway."""

KEPT_CHECKPOINTS = 3
"""Per direction: the two newest that were acknowledged, and one on its way."""


class StateKey(NamedTuple):
    """Whose state it is, and of which application table."""

    device: str
    user: str
    table: bytes
    """Digest of the table, 8 bytes."""


class HeaderState(NamedTuple):
    """The state of one direction at one checkpoint."""

    direction: Direction
    checkpoint: int
    encoded: bytes
    """As protocols.mmtp.templates wrote it."""

"""Tickets on disk: one small file per device and gateway, readable by its user alone.

A ticket is taken out of the file before it is used, so no later process uses it again; losing the file costs one full
TLS hand-shake. Nothing is synced to disk: what a power failure brings back is refused as a replay.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from accessgw.client.tickets import WANTED, HeldTicket, TicketMemory
from protocols.mmtp.tickets import FINGERPRINT_SIZE, IDENTITY_SIZE, KEY_SIZE, ShownCertificate

FOLDER = "tickets"
"""Inside the client's state directory."""
MAX_FILE = 8192
MAX_SKEW = 10 * 365 * 86_400.0


class TicketFile:
    """The tickets of one device at one gateway."""

    __slots__ = ("_path",)

    def __init__(self, directory: str | os.PathLike[str], *, gateway: str, device: str) -> None:
        name = sha256(f"{gateway}\0{device}".encode()).hexdigest()[:24]
        self._path = Path(directory) / FOLDER / f"{name}.json"

    def load(self) -> TicketMemory:
        """What is there and whole; raises nothing."""
        try:
            with open(self._path, "rb") as file:
                raw = file.read(MAX_FILE + 1)
            return _from_json(json.loads(raw)) if len(raw) <= MAX_FILE else TicketMemory()
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return TicketMemory()

    def store(self, memory: TicketMemory) -> None:
        """Replace the file, at once or not at all; OSError when the disk does not take it: then there is none, if that
        is possible, since what is used must not stay there."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = ""
        try:
            handle, temporary = tempfile.mkstemp(prefix=".unfinished-", dir=self._path.parent)
            with os.fdopen(handle, "w", encoding="ascii") as file:
                json.dump(_to_json(memory), file, separators=(",", ":"))
            os.replace(temporary, self._path)
        except OSError:
            for path in (temporary, self._path):
                if path:
                    with suppress(OSError):
                        os.unlink(path)
            raise


def _to_json(memory: TicketMemory) -> dict[str, Any]:
    return {"version": 1, "skew": memory.skew, "tickets": [_ticket_to_json(ticket) for ticket in memory.tickets]}


def _ticket_to_json(ticket: HeldTicket) -> list[Any]:
    shown = ticket.certificate
    certificate = None if shown is None else [shown.fingerprint.hex(), shown.not_after]
    return [ticket.identity.hex(), ticket.key.hex(), ticket.expires, ticket.max_early_data, certificate]


def _from_json(data: dict[str, Any]) -> TicketMemory:
    skew = float(data["skew"])
    if data["version"] != 1 or not -MAX_SKEW <= skew <= MAX_SKEW:
        return TicketMemory()
    return TicketMemory(tuple(_ticket_from_json(*ticket) for ticket in data["tickets"][:WANTED]), skew)


def _ticket_from_json(
    identity: str, key: str, expires: float, max_early_data: int, certificate: tuple[str, int] | None
) -> HeldTicket:
    shown = None
    if certificate is not None:
        shown = ShownCertificate(_sized(certificate[0], FINGERPRINT_SIZE), int(certificate[1]))
    return HeldTicket(
        _sized(identity, IDENTITY_SIZE), _sized(key, KEY_SIZE), float(expires), int(max_early_data), shown
    )  # fmt: skip


def _sized(text: str, size: int) -> bytes:
    value = bytes.fromhex(text)
    if len(value) != size:
        raise ValueError(f"expected {size} bytes, got {len(value)}")
    return value

"""What a client remembers between two runs: cursors, its generation, heartbeats; one file, replaced atomically."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocols.mmtp.handshake import StreamCursor

MAX_CURSORS = 256
MAX_NETWORKS = 8


@dataclass(slots=True)
class Memory:
    """The content of the file."""

    boot: int = 0
    """Grows with each start of the client (connection generation)."""
    cursors: list[StreamCursor] = field(default_factory=list)
    """Least recently moved first."""
    heartbeats: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Network hash -> good and bad end of the heartbeat search, seconds."""


class StateFile:
    """The memory of one device in `directory`.

    store() returns when the bytes are on disk: a crash at any moment leaves the old file or the new one.
    """

    __slots__ = ("path",)

    def __init__(self, directory: str | os.PathLike[str], device: str) -> None:
        readable = "".join(c if c.isalnum() or c in "-_" else "_" for c in device)[:40]
        digest = hashlib.sha256(device.encode()).hexdigest()[:12]
        self.path = Path(directory) / f"{readable}-{digest}.json"

    def load(self) -> Memory:
        """What was stored last; an empty memory when there is no file. ValueError names a damaged file."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return Memory()
        try:
            return _from_json(json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{self.path}: not a state file of this client: {error}") from error

    def store(self, memory: Memory) -> None:
        """Replace the file; OSError when the disk does not take it (the old one stays)."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(_to_json(memory), file, ensure_ascii=False, separators=(",", ":"))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _to_json(memory: Memory) -> dict[str, Any]:
    return {
        "version": 1,
        "boot": memory.boot,
        "cursors": [[c.scope, c.id, c.biz, c.epoch, c.seq] for c in memory.cursors],
        "heartbeats": {str(network): ends for network, ends in memory.heartbeats.items()},
    }


def _from_json(data: dict[str, Any]) -> Memory:
    if data["version"] != 1:
        raise ValueError(f"expected version 1, got {data['version']!r}")
    cursors = [
        StreamCursor(str(scope), str(id_), str(biz), int(epoch), int(seq))
        for scope, id_, biz, epoch, seq in data["cursors"]
    ]
    heartbeats = {int(network): (float(good), float(bad)) for network, (good, bad) in data["heartbeats"].items()}
    return Memory(boot=int(data["boot"]), cursors=cursors[-MAX_CURSORS:], heartbeats=heartbeats)

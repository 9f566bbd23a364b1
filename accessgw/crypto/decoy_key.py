"""A secret of the state directory, from which unknown users get salts that stay the same across restarts."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

NAME = "decoy.key"
SIZE = 32


class DecoyKey:
    """Callable as AuthenticatorServices.decoy_key; reads the file, or makes it, when it is first asked."""

    def __init__(self, state_dir: str) -> None:
        self._path = Path(state_dir) / NAME
        self._key = b""

    def __call__(self) -> bytes:
        """Raises OSError, or ValueError for a file that holds something else."""
        if not self._key:
            if not self._path.exists():
                self._make()
            key = self._path.read_bytes()
            if len(key) != SIZE:
                raise ValueError(f"{self._path}: expected {SIZE} bytes, got {len(key)}")
            self._key = key
        return self._key

    def _make(self) -> None:
        """Whole or not at all; of processes that start together the first one's file stays."""
        descriptor, name = tempfile.mkstemp(prefix=f".{NAME}.", dir=self._path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(os.urandom(SIZE))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(name, self._path)
        finally:
            os.unlink(name)

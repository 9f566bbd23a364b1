"""Files that someone replaces while the gateway runs: have they changed, and is the change complete?"""

from __future__ import annotations

import os
from collections.abc import Iterable

Stamps = tuple[tuple[int, int, int, int] | None, ...]
"""Device, inode, time of the content and size of each file; None where there is none."""


class WatchedFiles:
    """Looked at from time to time, by stat alone."""

    __slots__ = ("_last", "_paths", "_taken")

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = tuple(dict.fromkeys(paths))
        self._taken = self._last = self.stamps()

    def stamps(self) -> Stamps:
        """What the files are now: ask before reading them, and give it to `take` after."""
        return tuple(map(_stamp, self._paths))

    def take(self, stamps: Stamps) -> None:
        """These have been dealt with, well or not."""
        self._taken = self._last = stamps

    def changed(self) -> Stamps | None:
        """What to `take`, when the files are others than those taken and the same as at the last look: who writes a
        certificate and then its key is not caught between the two."""
        now = self.stamps()
        settled = now == self._last
        self._last = now
        return now if settled and now != self._taken else None


def _stamp(path: str) -> tuple[int, int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size

"""One HTTP request as handlers see it, and the collector of its body."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from accessgw.model.calls import Headers
    from accessgw.model.identity import ConnectionInfo


@dataclass(slots=True)
class HttpRequest:
    """The head of one HTTP request."""

    method: str
    target: str
    """As sent: path and query."""
    headers: Headers
    connection: ConnectionInfo
    version: str = "1.1"
    early: bool = False
    """It came in TLS 0-RTT data, which may be a replay (RFC 8470): only what is idempotent may be done for it."""

    @property
    def path(self) -> str:
        """The target up to the query, as sent (percent-encoding kept)."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        """The query's fields, the last of repeated ones."""
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    def header(self, name: str) -> str:
        """First value of the header `name` (lower case), empty when absent."""
        for key, value in self.headers:
            if key == name:
                return value
        return ""


class BodyCollector:
    """An HttpUpload that collects a bounded body and then calls `done(body)` once.

    A body past `limit` bytes calls `too_large()` once instead and drops what comes after.
    """

    __slots__ = ("_aborted", "_done", "_drained", "_limit", "_parts", "_size", "_too_large")

    def __init__(
        self,
        limit: int,
        done: Callable[[bytes], None],
        too_large: Callable[[], None],
        aborted: Callable[[], None] = lambda: None,
        drained: Callable[[], None] = lambda: None,
    ) -> None:
        self._limit = limit
        self._done: Callable[[bytes], None] | None = done
        self._too_large = too_large
        self._aborted = aborted
        self._drained = drained
        self._parts: list[bytes] = []
        self._size = 0

    def data(self, data: bytes) -> None:
        if self._done is None:
            return
        self._size += len(data)
        if self._size > self._limit:
            self._done = None
            self._parts.clear()
            self._too_large()
        else:
            self._parts.append(data)

    def finished(self) -> None:
        if self._done is not None:
            done, self._done = self._done, None
            done(b"".join(self._parts))

    def aborted(self) -> None:
        self._done = None
        self._parts.clear()
        self._aborted()

    def drained(self) -> None:
        self._drained()

"""Pushes as an asynchronous iterator, for either face."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accessgw.client.model import Push

if TYPE_CHECKING:
    from accessgw.client.base import BaseClient


class Pushes:
    """An asynchronous iterator of pushes; each is acknowledged when the next is asked for, or by its ack()."""

    def __init__(self, client: BaseClient, biz: str | None) -> None:
        self._client = client
        self._biz = biz
        self._last: Push | None = None
        client._inbox.claim(biz)

    def __aiter__(self) -> Pushes:
        return self

    async def __anext__(self) -> Push:
        """The next push; the iteration ends when the client is closed."""
        if self._last is not None:
            self._last.ack()
            self._last = None
        push = self._client._take_push(self._biz)
        if push is None and self._client.reason is None:
            future = self._client._wait_push(self._biz)
            try:
                push = await future
            except BaseException:
                self._client._abandoned(self._biz, future)
                raise
        if push is None:
            raise StopAsyncIteration
        self._last = push
        return push

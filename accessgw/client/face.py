"""What a face brings to the client: the clock, the turns of its event loop, futures, threads and transports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any

from accessgw.client.addresses import Address
from accessgw.client.commands import Post


class Face(ABC):
    """See accessgw.client.base, which calls all of it and has the methods that are named here."""

    @abstractmethod
    def _now(self) -> float:
        """Seconds of a clock that nobody sets; it should go on while the device sleeps."""

    @abstractmethod
    def _arm(self, at: float | None) -> None:
        """Call _tick() at that time of _now(), instead of what was armed before."""

    @abstractmethod
    def _at_turn_end(self) -> None:
        """Call _turn_over() when what is ready in this turn of the event loop has run, before it waits again."""

    @abstractmethod
    def _future(self, cancelled: Callable[[], None] | None) -> Any:
        """A new future; `cancelled` is called when the application cancels it."""

    @abstractmethod
    def _finish(self, future: Any, outcome: Any) -> bool:
        """Fulfil it, or fail it when the outcome is an exception; False when it is done already."""

    @abstractmethod
    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine beside everything else."""

    @abstractmethod
    def _open(self, attempt: int, address: Address) -> None:
        """Answer with core.connected or core.lost, and _run."""

    @abstractmethod
    def _write(self, attempt: int, data: bytes) -> None: ...

    @abstractmethod
    def _close(self, attempt: int, abort: bool) -> None: ...

    @abstractmethod
    def _tcp_info(self, attempt: int) -> bytes:
        """TCP_INFO of the transport, empty where there is none."""

    @abstractmethod
    def _post(self, post: Post) -> None:
        """Answer with core.posted or core.post_failed, and _run."""

    @abstractmethod
    def _cancel_post(self, post: int) -> None: ...

    @abstractmethod
    def _in_thread(self, job: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        """Do the job off this thread, then call `done` here with its exception, if it had one."""

    @abstractmethod
    def _report(self, error: BaseException) -> None:
        """An exception of one of the application's callbacks."""

"""Opening the long connection: addresses raced with staggered starts, rounds spread by back-off."""

from __future__ import annotations

from collections.abc import Callable

from accessgw.client.addresses import Address, AddressBook
from accessgw.client.backoff import Backoff
from accessgw.client.commands import Close, Command, Connect


class _Attempt:
    __slots__ = ("address", "deadline")

    def __init__(self, address: Address, deadline: float) -> None:
        self.address = address
        self.deadline = deadline


class Dialer:
    """Races the addresses of the book: the next starts when the one before it fails or is slower than `stagger`.

    The first whose transport (with its TLS hand-shake) is ready wins, the others are closed. When all of a
    round fail, the next round comes after the back-off's delay. Times are seconds.
    """

    def __init__(
        self, book: AddressBook, backoff: Backoff, emit: Callable[[Command], None], *, stagger: float, timeout: float
    ) -> None:
        self._book = book
        self._backoff = backoff
        self._emit = emit
        self._stagger = stagger
        self._timeout = timeout
        self._attempts: dict[int, _Attempt] = {}
        self._pending: list[Address] = []
        self._next_start: float | None = None
        self._round_at: float | None = None
        self._last_attempt = 0
        self.last_error = ""

    @property
    def busy(self) -> bool:
        """A round is running or due."""
        return self._round_at is not None or self.dialing

    @property
    def dialing(self) -> bool:
        """A round is running."""
        return bool(self._attempts or self._pending)

    def dial(self, now: float, delay: float = 0.0) -> None:
        """Begin a round after `delay`, unless one is running or due sooner."""
        if self.dialing:
            return
        at = now + delay
        if self._round_at is None or at < self._round_at:
            self._round_at = at
        self.handle_timer(now)

    def redial(self, now: float, at_least: float = 0.0) -> None:
        """Begin a round after the back-off's delay, unless one is running or due."""
        if not self.busy:
            self.dial(now, self._backoff.next(at_least))

    def stop(self) -> None:
        """Give up every attempt."""
        for attempt in self._attempts:
            self._emit(Close(attempt, abort=True))
        self._attempts.clear()
        self._pending.clear()
        self._next_start = self._round_at = None

    def connected(self, attempt: int) -> Address | None:
        """The transport is ready. Its address if it won; None (and it is closed) if it came too late."""
        won = self._attempts.pop(attempt, None)
        if won is None:
            self._emit(Close(attempt, abort=True))
            return None
        self.stop()
        return won.address

    def runs(self, attempt: int) -> bool:
        """Whether the attempt is in the race."""
        return attempt in self._attempts

    def address_of(self, attempt: int) -> Address | None:
        """Where the attempt goes, while it is in the race."""
        found = self._attempts.get(attempt)
        return None if found is None else found.address

    def again(self, attempt: int, now: float) -> None:
        """Replace an attempt by another one to the same address at once."""
        lost = self._attempts.pop(attempt, None)
        if lost is not None:
            self._start(lost.address, now)

    def failed(self, attempt: int, reason: str, now: float) -> bool:
        """The transport could not be opened. False when it is not an attempt of ours."""
        lost = self._attempts.pop(attempt, None)
        if lost is None:
            return False
        self.last_error = f"{lost.address}: {reason}"
        self._book.failed(lost.address)
        if self._pending:
            self._start_next(now)
        elif not self._attempts:
            self._round_at = now + self._backoff.next()
        return True

    def next_timer(self) -> float | None:
        """When handle_timer is due."""
        times = [attempt.deadline for attempt in self._attempts.values()]
        times += [at for at in (self._next_start, self._round_at) if at is not None]
        return min(times, default=None)

    def handle_timer(self, now: float) -> None:
        """Start what is due, give up what took too long."""
        if self._round_at is not None and now >= self._round_at:
            self._round_at = None
            self._pending = self._book.order(now)
            self._start_next(now)
        for number in [n for n, attempt in self._attempts.items() if now >= attempt.deadline]:
            self._emit(Close(number, abort=True))
            self.failed(number, f"not connected within {self._timeout:g} s", now)
        if self._next_start is not None and now >= self._next_start:
            self._start_next(now)

    def _start_next(self, now: float) -> None:
        address = self._pending.pop(0)
        self._next_start = now + self._stagger if self._pending else None
        self._start(address, now)

    def _start(self, address: Address, now: float) -> None:
        self._last_attempt += 1
        self._attempts[self._last_attempt] = _Attempt(address, now + self._timeout)
        self._emit(Connect(self._last_attempt, address))

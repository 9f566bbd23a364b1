"""Claims: a call reaches an upstream at most once, unless its route is idempotent (MMTP specification 6.4).

A claim is made before the upstream is asked. In this worker that is one dictionary insertion, so two
attempts cannot both win; for durable routes the store then confirms it, so that a claim outlives the
process. A repetition joins the running attempt, gets its kept answer, or learns that the outcome is
unknown; it is never executed. Claims of idempotent routes live in memory as long as the attempt and its
kept answer: they spare a second execution and find out an id that is used twice, but where nothing is known,
the call is simply executed again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from accessgw.core.answers import ClaimKey, KeptAnswers
from accessgw.core.interfaces.clock import Clock, Timers
from accessgw.core.interfaces.stores import AnswerStore, ClaimState, StoreUnavailable
from accessgw.model.calls import Answer, Call
from accessgw.model.settings import CallSettings
from protocols.mmtp.statuses import Retry, Status, retry_of

log = Logger()

SWEEP_INTERVAL = 10.0
STORE_SWEEP_INTERVAL = 60.0
Waiter = Callable[[Answer], None]


def digest_of(operation: str, body: bytes) -> bytes:
    """SHA-256 of an operation and a complete body: what makes two calls the same call."""
    return begin_digest(operation, body).digest()


def begin_digest(operation: str, body: bytes) -> hashlib._Hash:
    """The same digest, to be fed with the rest of a streaming body."""
    digest = hashlib.sha256(operation.encode("utf-8", "surrogatepass"))
    digest.update(b"\0")
    digest.update(body)
    return digest


def streaming_digest_of(operation: str) -> bytes:
    """What the store is told of a call whose body is still to come; see docs/adr/0030."""
    return hashlib.sha256(b"streaming\0" + operation.encode("utf-8", "surrogatepass")).digest()


class Claim:
    """One attempt that holds a call id."""

    __slots__ = ("claimed_at", "digest", "durable", "idempotent", "key", "over", "waiters")

    def __init__(self, key: ClaimKey, digest: bytes, durable: bool, idempotent: bool, claimed_at: float) -> None:
        self.key = key
        self.digest = digest
        """Of the operation and the complete body; empty while a streaming body is not complete."""
        self.durable = durable
        self.idempotent = idempotent
        """May be executed again: nothing but its kept answer is remembered of it."""
        self.claimed_at = claimed_at
        self.over = False
        self.waiters: list[tuple[bytes, Waiter]] = []

    def join(self, digest: bytes, waiter: Waiter) -> None:
        """Wait for the answer of this attempt."""
        self.waiters.append((digest, waiter))

    def leave(self, waiter: Waiter) -> None:
        """Wait no longer."""
        self.waiters = [(digest, other) for digest, other in self.waiters if other != waiter]


class Claims:
    """The claims of this worker."""

    def __init__(
        self, settings: CallSettings, store: AnswerStore, timers: Timers, clock: Clock, wall: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._store = store
        self._timers = timers
        self._clock = clock
        self._wall = wall
        self._running: dict[ClaimKey, Claim] = {}
        self._answers = KeptAnswers(settings)
        # Claims of `once = "memory"` whose attempt is over, without the answer: key -> (digest, claimed at).
        self._spent: OrderedDict[ClaimKey, tuple[bytes, float]] = OrderedDict()
        self._complete_since = clock.seconds()
        """Since when no claim of `once = "memory"` was forgotten before its time."""
        self._watching = False

    # ---------------------------------------------------------------- an attempt arrives

    def find(self, key: ClaimKey) -> bool:
        """Whether this worker remembers anything of that call."""
        return key in self._running or key in self._spent or self._answers.find(key, self._clock.seconds()) is not None

    def earlier(self, key: ClaimKey, digest: bytes) -> Claim | Answer | None:
        """What came of an earlier attempt: the running claim to join, the final answer, or None.

        The answer is the kept one, DUPLICATE for another body, or OUTCOME_UNKNOWN.
        """
        claim = self._running.get(key)
        if claim is not None:
            return claim if not claim.digest or claim.digest == digest else Answer(Status.DUPLICATE)
        kept = self._answers.find(key, self._clock.seconds())
        if kept is not None:
            return kept.answer if kept.digest == digest else Answer(Status.DUPLICATE)
        spent = self._spent.get(key)
        if spent is not None:
            return Answer(Status.OUTCOME_UNKNOWN if spent[0] in (b"", digest) else Status.DUPLICATE)
        return None

    def too_old(self, call: Call) -> bool:
        """A repetition whose first attempt may be older than claims are kept: nobody knows what became of it."""
        return call.resent and call.age is not None and call.age >= self._settings.claim_horizon

    def forgotten(self, call: Call) -> bool:
        """A repetition in memory only: might its first attempt have been claimed and the claim be lost?

        Its first attempt came at most `age` ago; what came since this table is complete would be known.
        A device that does not tell repeats within the answer horizon, or not at all.
        """
        return call.resent and self._clock.seconds() - self._complete_since < self._age(call)

    def _age(self, call: Call) -> float:
        """How long ago the first attempt of a repetition may have been claimed, in seconds."""
        return self._settings.answer_horizon if call.age is None else call.age

    def begin(self, key: ClaimKey, digest: bytes, durable: bool, idempotent: bool = False) -> Claim:
        """Hold the id in this worker. `earlier` must have said None in the same turn."""
        claim = Claim(key, digest, durable, idempotent, self._clock.seconds())
        self._running[key] = claim
        return claim

    def confirm(self, claim: Claim, store_digest: bytes, call: Call) -> Deferred[int]:
        """Make a durable claim durable. Fires with OK, or with the status that ends the call: then the
        claim is over. Never fails."""
        now = self._wall()
        first = now - self._age(call) if call.resent else None
        try:
            result = self._store.claim(*claim.key, store_digest, now, first=first)
        except Exception as error:
            return succeed(self._refused(claim, error))
        return result.addCallbacks(
            lambda state: self._confirmed(claim, state), lambda failure: self._refused(claim, failure.value)
        )

    def _confirmed(self, claim: Claim, state: str) -> int:
        if state == ClaimState.NEW:
            return Status.OK
        status = Status.DUPLICATE if state == ClaimState.MISMATCH else Status.OUTCOME_UNKNOWN
        self._over(claim, Answer(status))
        return status

    def _refused(self, claim: Claim, error: BaseException) -> int:
        """Nothing was sent to an upstream, so the id may be used again, whatever the store has seen."""
        if not isinstance(error, StoreUnavailable):
            log.error("a claim failed: {error!r}", error=error)
        self.release(claim, Answer(Status.OVERLOAD))
        return Status.OVERLOAD

    # ---------------------------------------------------------------- an attempt ends

    def finish(self, claim: Claim, answer: Answer | None) -> None:
        """The upstream has answered; None when the answer was too large to be kept, or came before the body
        was complete, so that nothing could tell whether a repetition is one."""
        if claim.durable:
            self._store.settle(*claim.key)
        now = self._clock.seconds()
        # What asks to be tried again later must not be answered from memory then.
        passing = answer is not None and claim.idempotent and retry_of(answer.status) is not Retry.NO
        kept = False
        if answer is not None and not passing:
            kept = self._answers.keep(claim.key, claim.digest, answer, now, spare=claim.idempotent)
        if not claim.durable and not claim.idempotent:
            # Also beside a kept answer, which may be dropped before the claim's own time is over.
            self._spend(claim)
        if kept:
            self._watch()
        self._over(claim, answer if answer is not None else Answer(Status.OUTCOME_UNKNOWN))

    def release(self, claim: Claim, answer: Answer) -> None:
        """Certainly not executed: the id may be used again. `answer` goes to those who wait."""
        if claim.durable:
            self._store.release(*claim.key)
        self._over(claim, answer)

    def lose(self, claim: Claim, answer: Answer) -> None:
        """What became of it is unknown: the claim stays, and every repetition gets OUTCOME_UNKNOWN. An idempotent
        one is forgotten."""
        if not claim.durable and not claim.idempotent:
            self._spend(claim)
        self._over(claim, answer)

    def _over(self, claim: Claim, answer: Answer) -> None:
        if claim.over:
            return
        claim.over = True
        del self._running[claim.key]
        waiters, claim.waiters = claim.waiters, []
        for digest, waiter in waiters:
            waiter(answer if not claim.digest or digest == claim.digest else Answer(Status.DUPLICATE))

    # ---------------------------------------------------------------- bounds

    def _spend(self, claim: Claim) -> None:
        self._spent[claim.key] = (claim.digest, claim.claimed_at)
        self._spent.move_to_end(claim.key)
        while len(self._spent) > self._settings.max_answers:
            _, (_, claimed_at) = self._spent.popitem(last=False)
            self._complete_since = max(self._complete_since, claimed_at)
        self._watch()

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            self._timers.schedule(SWEEP_INTERVAL, self._sweep)

    def _sweep(self) -> None:
        """A bounded batch; in the next turn again while there is more."""
        now = self._clock.seconds()
        more = self._answers.sweep(now)
        before = now - self._settings.claim_horizon
        for _ in range(1000):
            key = next(iter(self._spent), None)
            if key is None or self._spent[key][1] > before:
                break
            del self._spent[key]
        else:
            more = True
        if more:
            self._clock.callLater(0, self._sweep)
            return
        self._watching = False
        if self._answers or self._spent:
            self._watch()

    def start(self) -> None:
        """Begin to forget what the store has kept for longer than the claim horizon."""
        self._sweep_store()

    def _sweep_store(self) -> None:
        def again(swept: int) -> None:
            self._timers.schedule(0.0 if swept else STORE_SWEEP_INTERVAL, self._sweep_store)

        def failed(failure: object) -> None:
            log.error("old claims could not be swept: {failure}", failure=failure)
            self._timers.schedule(STORE_SWEEP_INTERVAL, self._sweep_store)

        self._store.sweep(self._wall() - self._settings.claim_horizon).addCallbacks(again, failed)

    @property
    def kept(self) -> int:
        """Answers kept now."""
        return len(self._answers)

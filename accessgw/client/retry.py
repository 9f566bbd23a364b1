"""What a call's status means: its outcome, or another attempt (specification, section 11.2)."""

from __future__ import annotations

from enum import Enum

from accessgw.client.calls import OpenCall
from accessgw.client.model import CallFailed, Reply
from protocols.mmtp.statuses import Retry, Status, retry_of

MAX_ATTEMPTS = 4
"""Of one call, over both ways together, before a status that asks for another attempt becomes the outcome."""


class Verdict(Enum):
    """What to do with a call that got its last frame."""

    FINAL = "final"
    REPEAT = "repeat"
    """At once, on the connection in force."""
    LATER = "later"
    """After the time that the gateway named."""


def judge(call: OpenCall, outcome: Reply | CallFailed, now: float) -> tuple[Verdict, float]:
    """The verdict, and for LATER the seconds to wait.

    Overload, rate limit and unavailable upstreams are repeated only when the answer says when: repeating
    them unasked would add to what caused them.
    """
    if isinstance(outcome, Reply) or call.streaming or call.attempts >= MAX_ATTEMPTS:
        return Verdict.FINAL, 0.0
    if retry_of(outcome.status) is Retry.NO:
        return Verdict.FINAL, 0.0
    if outcome.status not in (Status.OVERLOAD, Status.RATE_LIMIT, Status.UPSTREAM_UNAVAILABLE):
        return Verdict.REPEAT, 0.0
    wait = retry_after(outcome)
    if wait is None or now + wait >= call.deadline:
        return Verdict.FINAL, 0.0
    return Verdict.LATER, wait


def retry_after(outcome: CallFailed) -> float | None:
    """Seconds that the `retry-after` header of a failure asks to wait, None without one."""
    text = outcome.reply.header("retry-after") if outcome.reply is not None else ""
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:
        return None

"""What the log says of a webhook that fails: when it begins, what there is to say once a minute, and when it is over."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from twisted.logger import Logger

from accessgw.policy.reasons_told import ReasonsTold

log = Logger()

TELL_EVERY = 60.0
"""Seconds between lines about failures, unless a reason is new."""


class WebhookLog:
    """Few lines, however many devices wait: a webhook that is down fails for each of them again and again.

    `url` may hold credentials, `now` is any clock in seconds.
    """

    __slots__ = ("_failing", "_next", "_now", "_reasons", "_said", "_silent", "_total", "_where")

    def __init__(self, url: str, now: Callable[[], float]) -> None:
        self._where = without_credentials(url)
        self._now = now
        self._reasons = ReasonsTold()
        self._next = float("-inf")
        """When the next line about a reason that was told may be written."""
        self._failing = False
        self._said = False
        """That it fails; so it will be said that it works again."""
        self._silent = 0
        """Failures since the last line."""
        self._total = 0
        """Failures since it last worked."""

    def failed(self, why: str) -> None:
        """A delivery failed."""
        now = self._now()
        self._failing = True
        self._silent += 1
        self._total += 1
        fresh = self._reasons.may(why, now)
        if not fresh and now < self._next:
            return
        self._next = now + TELL_EVERY
        if self._said:
            log.warn("webhook {url} fails still: {why}; {count} deliveries failed since the last line",
                     url=self._where, why=why, count=self._silent)  # fmt: skip
        else:
            log.warn("webhook {url} fails: {why}; events wait and are tried again", url=self._where, why=why)
        self._said = True
        self._silent = 0

    def caught_up(self) -> None:
        """Nothing is left of what had failed."""
        if self._said:
            log.info("webhook {url} works again; {count} deliveries had failed", url=self._where, count=self._total)
        if self._failing:
            self._failing = self._said = False
            self._silent = self._total = 0


def without_credentials(url: str) -> str:
    """Scheme, host, port and path of a URL: user, password and query may be secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

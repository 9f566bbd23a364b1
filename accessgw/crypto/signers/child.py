"""A signer process of the gateway's own: started with it, started again when it dies or hangs, ended with it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

_log = Logger()

FIRST_RESTART, LONGEST_RESTART = 0.1, 5.0
"""Seconds before a signer that died is started again; doubled each time, until one has lived for LIVED."""
LIVED = 10.0


class SignerChild:
    """`python -m accessgw.crypto.signers.main` with these options, kept alive."""

    def __init__(self, arguments: Sequence[str], reactor: Any) -> None:
        self._command = [sys.executable, "-m", "accessgw.crypto.signers.main", *arguments, "--until-stdin-ends"]
        self._reactor = reactor
        self._wait = FIRST_RESTART
        self._restarting: Any = None
        self._transport: Any = None
        self._started = 0.0
        self._stopped = False
        self._killed = False
        """It ends because we have ended it, and who had that done has said why."""

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self._transport.pid if self._transport is not None else None

    def start(self) -> None:
        """Start it, and see to it that one runs until stop()."""
        self._restarting = None
        self._started = self._reactor.seconds()
        # Its standard input ends when we do, however that happens; what it says stands beside what we say.
        self._transport = self._reactor.spawnProcess(
            _Watch(self._ended), self._command[0], self._command, env=dict(os.environ), childFDs={0: "w", 1: 1, 2: 2}
        )
        self._killed = False
        _log.info("the signer is process {pid}", pid=self.pid)

    def reload(self) -> None:
        """Have it load its keys again."""
        self._signal(signal.SIGHUP)

    @property
    def age(self) -> float:
        """Seconds since its last start."""
        seconds: float = self._reactor.seconds() - self._started
        return seconds

    def kill(self) -> None:
        """End one that hangs, at once: one that is stopped takes no other signal. Another one is started."""
        self._killed = True
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """Let it answer what it has, and end."""
        self._stopped = True
        if self._restarting is not None:
            self._restarting.cancel()
        self._signal(signal.SIGTERM)
        # one that somebody has stopped takes that only when it goes on, and would be left behind with the keys
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._transport is not None and self._transport.pid is not None:
            self._transport.signalProcess(number)

    def _ended(self, reason: str) -> None:
        self._transport = None
        if self._stopped:
            return
        if self._reactor.seconds() - self._started > LIVED:
            self._wait = FIRST_RESTART
        if self._killed:
            _log.info("the signer that hung is gone, starting another in {wait:g} s", wait=self._wait)
        else:
            _log.error(
                "the signer has ended ({reason}), starting it again in {wait:g} s", reason=reason, wait=self._wait
            )
        self._restarting = self._reactor.callLater(self._wait, self.start)
        self._wait = min(2 * self._wait, LONGEST_RESTART)


class _Watch(ProcessProtocol):
    def __init__(self, ended: Callable[[str], None]) -> None:
        self._tell = ended

    def processEnded(self, reason: Failure) -> None:
        self._tell(reason.getErrorMessage())

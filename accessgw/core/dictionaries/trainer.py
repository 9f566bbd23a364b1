"""Runs trainings in a process of their own and keeps an eye on them; the reactor only hears of their progress.

A thread starts the process and talks to it. Descriptors need no closing in the child (Python opens them all
close-on-exec), so that the start costs the same with a hundred thousand connections.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec
from twisted.internet.defer import Deferred

from accessgw.core.dictionaries.training import SAMPLE, Order, Report, TrainingRefused
from accessgw.core.interfaces.clock import Clock
from accessgw.model.dictionaries import TrainingJob, TrainingResult

COMMAND = (sys.executable, "-m", "accessgw.core.dictionaries.training_process")
ROOT = Path(__file__).resolve().parents[3]
"""Where the child finds this package."""


class ThreadedClock(Clock, Protocol):
    """What is used of IReactorFromThreads beside the time."""

    def callFromThread(self, callable: Callable[..., Any], /, *args: Any) -> None: ...


class Trainer:
    """One training at a time. `timeout` in seconds."""

    def __init__(self, reactor: ThreadedClock, timeout: float, command: tuple[str, ...] = COMMAND) -> None:
        self._reactor = reactor
        self._timeout = timeout
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = ""
        self._deferred: Deferred[TrainingResult] | None = None

    @property
    def busy(self) -> bool:
        return self._deferred is not None

    def train(self, job: TrainingJob, progress: Callable[[int], None]) -> Deferred[TrainingResult]:
        """Fires with what came of it, or fails with TrainingRefused; `progress` gets percents meanwhile."""
        assert self._deferred is None
        deferred = self._deferred = Deferred()
        self._ended = ""
        too_late = self._reactor.callLater(self._timeout, self._end, f"it took longer than {self._timeout:g} s")

        def tell(percent: int) -> None:
            if self._deferred is deferred:
                progress(percent)

        def done(outcome: TrainingResult | TrainingRefused) -> None:
            if too_late.active():
                too_late.cancel()
            self._process = self._deferred = None
            if isinstance(outcome, TrainingRefused):
                deferred.errback(TrainingRefused(self._ended) if self._ended else outcome)
            else:
                deferred.callback(outcome)

        def run() -> None:
            try:
                outcome: TrainingResult | TrainingRefused = self._run(
                    job, lambda percent: self._reactor.callFromThread(tell, percent)
                )
            except TrainingRefused as error:
                outcome = error
            except Exception as error:
                outcome = TrainingRefused(f"the training could not run: {error or type(error).__name__}")
            self._reactor.callFromThread(done, outcome)

        threading.Thread(target=run, name="dictionary-training", daemon=True).start()
        return deferred

    def stop(self) -> None:
        """End the training that runs, if any; its Deferred fails."""
        self._end("the gateway stopped")

    def _end(self, reason: str) -> None:
        if self._deferred is None:
            return
        self._ended = self._ended or reason
        if self._process is not None:
            self._process.kill()

    # ------------------------------------------------------------------ in the thread

    def _run(self, job: TrainingJob, progress: Callable[[int], None]) -> TrainingResult:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            env={"PYTHONPATH": str(ROOT)},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        if self._ended:
            process.kill()
        try:
            return self._talk(process, process.stdin, process.stdout, job, progress)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            with suppress(OSError):  # what it did not read cannot be flushed
                process.stdin.close()

    def _talk(
        self,
        process: subprocess.Popen[bytes],
        orders: IO[bytes],
        reports: IO[bytes],
        job: TrainingJob,
        progress: Callable[[int], None],
    ) -> TrainingResult:
        order = Order(job.id, job.users, job.size, len(job.samples), int(self._timeout))
        with suppress(BrokenPipeError):  # its end says why
            orders.write(msgspec.json.encode(order) + b"\n")
            for sample in job.samples:
                orders.write(SAMPLE.pack(sample.user, len(sample.body)) + sample.body)
            orders.close()
        for line in reports:
            report = msgspec.json.decode(line, type=Report)
            if report.refused:
                raise TrainingRefused(report.refused)
            if report.result is not None:
                return report.result
            progress(report.percent)
        process.wait()
        raise TrainingRefused(f"the training ended without a result, exit code {process.returncode}")

"""The signer process of a gateway's own, as its parent sees it: what is logged of its start and its end, the waits."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest
from twisted.internet.error import ProcessTerminated
from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.logger import formatEvent as text
from twisted.python.failure import Failure

from accessgw.crypto.signers.child import LIVED, SignerChild


class Reactor(Clock):
    """Starts processes that a test ends."""

    def __init__(self):
        super().__init__()
        self.started = []

    def spawnProcess(self, protocol, *command, **more):
        signals = []
        process = SimpleNamespace(pid=4242 + len(self.started), signals=signals, signalProcess=signals.append)
        self.started.append((protocol, process))
        return process

    def end(self, number=signal.SIGKILL):
        self.started[-1][0].processEnded(Failure(ProcessTerminated(signal=number)))


@pytest.fixture
def logged():
    """The lines so far, with their levels."""
    lines = []

    def observe(event):
        lines.append((event["log_level"], text(event)))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


@pytest.fixture
def reactor():
    return Reactor()


@pytest.fixture
def child(reactor):
    child = SignerChild([], reactor)
    child.start()
    return child


def test_each_start_names_its_process(reactor, logged):
    SignerChild([], reactor).start()
    assert logged == [(LogLevel.info, "the signer is process 4242")]
    reactor.end()
    reactor.advance(0.1)
    assert logged[-1] == (LogLevel.info, "the signer is process 4243")


def test_an_end_of_its_own_is_an_error_and_one_that_we_made_is_not(child, reactor, logged):
    child.kill()
    assert reactor.started[-1][1].signals == [signal.SIGKILL]
    reactor.end()
    assert logged == [(LogLevel.info, "the signer that hung is gone, starting another in 0.1 s")]
    reactor.advance(0.1)
    reactor.end()
    level, line = logged[-1]
    assert level == LogLevel.error
    assert line.startswith("the signer has ended (") and line.endswith("signal 9.), starting it again in 0.2 s")


def test_the_wait_is_doubled_until_one_has_lived(child, reactor):
    waits = []
    for lived in (0.0, 0.0, 1.0, LIVED, 0.0, 0.0, 0.0, 0.0, LIVED + 1.0, 0.0):
        reactor.advance(lived)
        reactor.end()
        (call,) = reactor.getDelayedCalls()
        waits.append(round(call.getTime() - reactor.seconds(), 3))
        reactor.advance(waits[-1])
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 0.1, 0.2]

"""Trainings in their process: progress, results, and every way in which they can end."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from accessgw.core.dictionaries.trainer import Trainer
from accessgw.core.dictionaries.training import TrainingRefused
from accessgw.model.dictionaries import TrainingJob
from tests.core.dictionaries.dictionary_bodies import orders
from tests.reactor_loop import run
from tests.stores.threaded_clock import ThreadedClock

JOB = TrainingJob(5, orders(), 50, 4096)


def script(text: str) -> tuple[str, ...]:
    return sys.executable, "-c", text


PROMPT = script(
    "import sys; from accessgw.core.dictionaries.training import main; main(sys.stdin.buffer, sys.stdout.buffer)"
)
"""A process that trains and gives way to nobody: one that does has its turn when the machine is idle, if it ever is
(test_training_process.py)."""


def test_a_training_tells_its_progress_and_gives_a_dictionary() -> None:
    clock = ThreadedClock()
    trainer = Trainer(clock, 60.0, PROMPT)
    percents: list[int] = []
    training = trainer.train(JOB, percents.append)
    assert trainer.busy
    result = clock.wait(training)
    assert result.content[:4] == b"\x37\xa4\x30\xec" and result.users == 150
    assert percents == sorted(percents) and len(percents) > 5 and percents[-1] == 100
    assert not trainer.busy and not clock.getDelayedCalls()


def test_a_refusal_says_why() -> None:
    clock = ThreadedClock()
    with pytest.raises(TrainingRefused, match="at least 50 users, got 3"):
        clock.wait(Trainer(clock, 60.0, PROMPT).train(TrainingJob(5, orders(600, 3), 50, 4096), lambda percent: None))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("raise SystemExit(3)", "without a result, exit code 3"),
        ("import sys; sys.stdin.buffer.read(); print('{}'); sys.exit(4)", "exit code 4"),
        ("import sys; sys.stdin.buffer.read(); print('nonsense')", "could not run"),
        ("import os; os.kill(os.getpid(), 9)", "exit code -9"),
    ],
)
def test_a_process_that_fails_is_a_refusal(text: str, why: str) -> None:
    clock = ThreadedClock()
    with pytest.raises(TrainingRefused, match=why):
        clock.wait(Trainer(clock, 60.0, script(text)).train(JOB, lambda percent: None))


def test_a_program_that_is_not_there_is_a_refusal() -> None:
    clock = ThreadedClock()
    with pytest.raises(TrainingRefused, match="could not run"):
        clock.wait(Trainer(clock, 60.0, ("/no/such/program",)).train(JOB, lambda percent: None))


HANGS = "import sys, time; sys.stdin.buffer.read(); print('{\"percent\": 7}', flush=True); time.sleep(600)"


def test_a_training_that_takes_too_long_is_ended() -> None:
    clock = ThreadedClock()
    percents: list[int] = []
    trainer = Trainer(clock, 60.0, script(HANGS))
    training = trainer.train(JOB, percents.append)
    clock.until(lambda: percents == [7])
    clock.advance(59)
    assert trainer.busy
    clock.advance(1)
    with pytest.raises(TrainingRefused, match="longer than 60 s"):
        clock.wait(training)


def test_a_stop_ends_it_and_without_one_does_nothing() -> None:
    clock = ThreadedClock()
    trainer = Trainer(clock, 60.0, script(HANGS))
    trainer.stop()
    percents: list[int] = []
    training = trainer.train(JOB, percents.append)
    clock.until(lambda: bool(percents))
    trainer.stop()
    with pytest.raises(TrainingRefused, match="the gateway stopped"):
        clock.wait(training)
    assert not clock.getDelayedCalls()


async def the_reactor_goes_on(reactor: Any) -> int:
    """Calls of the reactor between the beginning and the end of a training."""
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        reactor.callLater(0.001, turn)

    turn()
    await Trainer(reactor, 60.0, PROMPT).train(JOB, lambda percent: None)
    return turns


def test_the_reactor_turns_while_a_dictionary_is_trained() -> None:
    assert run(the_reactor_goes_on) > 100

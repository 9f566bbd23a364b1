"""A training gives way to the gateway, whatever the system lets it do."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest

from accessgw.core.dictionaries.trainer import COMMAND, ROOT
from accessgw.core.dictionaries.training import Order, Report
from accessgw.core.dictionaries.training_process import NICE


def test_the_process_of_a_training_has_idle_priority() -> None:
    environment = {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(msgspec.json.encode(Order(id=1, users=2, size=1024, samples=0, seconds=60)) + b"\n")
        process.stdin.flush()
        report = msgspec.json.decode(process.stdout.readline(), type=Report)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == NICE
        assert os.sched_getscheduler(process.pid) == os.SCHED_IDLE
    assert "got 0" in report.refused


@pytest.mark.parametrize("without", ["os.sched_setscheduler = refuse", "del os.SCHED_IDLE"])
def test_where_the_system_does_not_let_it_be_idle_it_is_nice(without: str) -> None:
    script = f"""
import os
def refuse(*_):
    raise PermissionError("no")
{without}
from accessgw.core.dictionaries.training_process import give_way
give_way()
print(os.nice(0), os.sched_getscheduler(0))
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == [str(NICE), str(os.SCHED_OTHER)]

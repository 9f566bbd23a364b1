"""Tests that a process with keys leaves no dump of its memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

PR_GET_DUMPABLE = 3
SCRIPT = f"""
import ctypes, resource
from accessgw.crypto.closed_memory import close_memory
prctl = ctypes.CDLL(None).prctl
assert prctl({PR_GET_DUMPABLE}, 0, 0, 0, 0) == 1
close_memory()
print(prctl({PR_GET_DUMPABLE}, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_no_dump_is_written_and_nobody_looks_in():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == ["0", "0", "0"]

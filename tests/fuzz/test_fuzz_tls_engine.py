"""A short run of the fuzzer of the native TLS engine, in a process of its own, so that a crash is a failed test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.protocols.tls.native_links import HAS_NATIVE

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.skipif(not HAS_NATIVE, reason="no native engine here")
def test_changed_flights_are_refused_and_leave_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.fuzz_tls_engine", "--flights", "2000", "--seed", "7"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for outcome in ("refused", "told", "waits", "detached", "dropped while it waited"):
        assert outcome in done.stdout
    assert "(0, 0, 0)" in done.stdout

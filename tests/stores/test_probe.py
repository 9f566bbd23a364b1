"""The probe of a disk runs the real store on a real reactor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_probe_measures_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "accessgw.stores.probe", str(tmp_path), "--seconds", "1", "--delay-ms", "5"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60)
    found = json.loads(done.stdout)
    assert found["puts_per_second"] > 0
    assert found["puts_per_commit"] > 2
    assert found["commit_mean_ms"] >= 5
    assert 5 <= found["p50_ms"] <= found["p99_ms"]
    assert list(tmp_path.iterdir()) == []

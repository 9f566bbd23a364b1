"""A start that cannot be is one line in plain words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_what_the_system_refuses_is_told_with_its_file_and_in_its_words(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the directory should be")
    config = tmp_path / "accessgw.toml"
    config.write_text(f"""
state_dir = "{tmp_path}/state"
[[listeners]]
name = "tls"
transport = "tls"
port = 0
address = "127.0.0.1"
""")
    command = [sys.executable, "-m", "twisted", "accessgw", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"accessgw: {tmp_path}/state: File exists"

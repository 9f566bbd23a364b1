"""What holds for every test: the processes that it starts keep the bytecode of modules, as an operator's do."""

from __future__ import annotations

import os

# Compiling is more than half of what a gateway's start costs, and hundreds of them are started.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

"""What holds for every test: it keeps the bytecode of modules, and so do the processes that it starts, whatever the
shell says. Compiling is more than half of what a gateway's start costs, and of what collecting the tests does."""

from __future__ import annotations

import os
import sys

sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

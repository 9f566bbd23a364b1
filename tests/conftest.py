"""What holds for every test: it keeps the bytecode of modules, and so do the processes that it starts, whatever the
shell says. Compiling is more than half of what a gateway's start costs, and of what collecting the tests does. And no
example of Hypothesis fails because the machine was busy."""

from __future__ import annotations

import os
import sys

from hypothesis import HealthCheck, settings

sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A machine that is busy with something else stops us for seconds: that an example, or the making of one, took long says
# nothing about the program, and the next time it is quick, which Hypothesis reports as a flaky test.
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

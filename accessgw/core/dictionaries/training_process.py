"""The process of one training, `python -m accessgw.core.dictionaries.training_process`: gives way to all others.

The modules that train are imported only then, since that alone takes a tenth of a second of CPU.
"""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress

NICE = 19
MEMORY = 1 << 30
"""Address space that the process may use, in bytes."""


def give_way() -> None:
    """Run only when nobody else wants the CPU, as far as the system has that; and within bounds.

    With SCHED_IDLE a process that wakes up (the gateway) takes the CPU at once; with a high nice value alone it may
    wait for the rest of a slice.
    """
    os.nice(NICE)
    if hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):  # a sandbox may forbid it; it is nice all the same
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    give_way()
    from accessgw.core.dictionaries.training import main

    main(sys.stdin.buffer, sys.stdout.buffer)

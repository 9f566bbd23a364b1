"""Closes the memory of a process that holds keys: no dump of it is written, and no other process looks into it."""

from __future__ import annotations

import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4  # prctl(2)


def close_memory() -> None:
    """No core dump, and no debugger of the same user. Secrets that were Python's bytes cannot be wiped, so this is what
    keeps them in. On other systems than Linux there is only no dump. OSError when the system refuses."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE) failed")

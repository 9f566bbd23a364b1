"""What the kernel says of this process, as metric families; read from /proc when asked."""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from accessgw.core.interfaces.control import MetricFamily

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


def process_families(proc: Path = Path("/proc")) -> list[MetricFamily]:
    """Memory, descriptors, CPU, start and collector; what cannot be read is left out."""
    return list(_families(proc))


def _families(proc: Path) -> Iterator[MetricFamily]:
    try:
        # the command's name stands in parentheses and may have spaces; fields are counted after it
        fields = (proc / "self/stat").read_text().rpartition(")")[2].split()
        boot = next(
            int(line.split()[1]) for line in (proc / "stat").read_text().splitlines() if line.startswith("btime")
        )
        open_files = len(os.listdir(proc / "self/fd"))
    except (OSError, StopIteration):
        return
    cpu = (int(fields[11]) + int(fields[12])) / _TICKS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    for name, kind, help_, value in (
        ("cpu_seconds_total", "counter", "User and system CPU time.", cpu),
        ("start_time_seconds", "gauge", "Start of the process, since the epoch.", boot + int(fields[19]) / _TICKS),
        ("resident_memory_bytes", "gauge", "Resident memory.", float(int(fields[21]) * _PAGE)),
        ("open_fds", "gauge", "Open file descriptors.", float(open_files)),
        ("max_fds", "gauge", "Most file descriptors that may be open.", float(soft)),
        ("threads", "gauge", "Threads.", float(int(fields[17]))),
    ):
        yield MetricFamily(f"accessgw_process_{name}", kind, help_, [("", {}, value)])
    collections = [
        ("", {"generation": str(number)}, float(each["collections"])) for number, each in enumerate(gc.get_stats())
    ]
    yield MetricFamily("accessgw_gc_collections_total", "counter", "Runs of the garbage collector.", collections)

"""What the times were taken on: they mean nothing without it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

Machine = dict[str, str | int | float | None]


def machine() -> Machine:
    """The processor, how many of it this process may use, and how busy it is; None where the system does not say."""
    return {
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "governor": _line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "quota": _line(Path("/sys/fs/cgroup/cpu.max")),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _line(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None

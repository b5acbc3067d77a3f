"""What this process runs on, as far as figures that were measured here depend on it."""

import os
import platform
from pathlib import Path

MEMBERSHIP = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
CPU_INFO = Path("/proc/cpuinfo")
NAMES = ("model name", "cpu model", "Hardware")
"""What kernels call the processor in their list, by architecture."""


def hardware_name(cpu_info: Path = CPU_INFO, membership: Path = MEMBERSHIP, groups: Path = GROUPS) -> str:
    """The processor, how many of its cores and how much of their time this process may use, machine and platform.

    On one line, the same as long as none of this changes.
    """
    quotas = [_text(group / "cpu.max") for group in control_groups(membership, groups)]
    limits = [quota for quota in quotas if quota and not quota.startswith("max")]
    share = f"cpu.max {', '.join(limits)}" if limits else "no cpu.max"
    return "; ".join((_processor(cpu_info), f"{_cores()} cores", share, platform.machine(), platform.platform()))


def control_groups(membership: Path = MEMBERSHIP, groups: Path = GROUPS) -> list[Path]:
    """Folders of the control groups (version 2) that hold this process, its own first, the outermost last.

    Where the system does not tell its own one, the outermost alone; whether that exists is not asked.
    """
    own = next((line[3:] for line in _text(membership).splitlines() if line.startswith("0::")), "/")
    inside = Path(own.lstrip("/"))
    if ".." in inside.parts:  # it lies outside what a container may see
        return [groups]
    return [groups / inside, *(groups / parent for parent in inside.parents)] if inside.parts else [groups]


def _processor(cpu_info: Path) -> str:
    lines = [line.partition(":") for line in _text(cpu_info).splitlines()]
    named = (value.strip() for name, _, value in lines if name.strip() in NAMES)
    return next(named, "") or platform.processor() or "unknown processor"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _text(file: Path) -> str:
    """What a file of the system says; empty where there is none."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""

"""What the benchmark ran on, so that figures from elsewhere are not compared by mistake."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any


def describe(directory: Path) -> dict[str, Any]:
    """Processor, memory, kernel, the file system of `directory`, and the versions of the peers."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "kernel": f"{platform.system()} {platform.release()}",
        "file_system": file_system(directory),
        "load_average_at_start": os.getloadavg()[0],
        "python": platform.python_version(),
        "postfix": _output("/usr/sbin/postconf", "-d", "-h", "mail_version"),
        "dovecot": _output("/usr/sbin/dovecot", "--version"),
        "aiosmtpd": _version("aiosmtpd"),
        "uvloop": _version("uvloop"),
    }


def file_system(directory: Path) -> str:
    """Type of the file system that a directory lies on, for example ext4."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _device, mount, found, *_rest = line.split()
        if os.path.commonpath([directory.resolve(), mount]) == mount and len(mount) >= len(best):
            best, kind = mount, found
    return kind


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _output(*argv: str) -> str | None:
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None

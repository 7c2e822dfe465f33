"""Limits of the own process: open files, and how long one thread may keep the others waiting."""

from __future__ import annotations

import resource
import sys

SWITCH_SECONDS = (
    0.0005  # Python's own 5 ms is longer than a commit: a thread whose sync is done waits that long to say so
)


def switch_threads_quickly() -> None:
    """For processes in which threads wait for the disk while the event loop is busy."""
    sys.setswitchinterval(SWITCH_SECONDS)


def raise_file_limit() -> None:
    """Raise the soft limit to the hard one: a server keeps a descriptor for each session and each segment."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

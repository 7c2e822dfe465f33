"""A child process that ends when its parent does, and that gives up root when it is told to.

Linux sends a process the signal set by `PR_SET_PDEATHSIG` when the thread that started it ends: so a launcher that
is killed with SIGKILL leaves nothing behind. The kernel forgets it when user ids change, hence `become` sets it anew.
Called between fork and exec by `supervisor.py`, and by `mailarray run`.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

NO_HOME = "/nonexistent"  # as Debian's users without one: libraries look into it, and root's is closed to others
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)  # loaded here: after fork only the call itself is safe


def end_with_parent(parent: int) -> None:
    """SIGTERM for this process when its parent ends; at once when that has happened already."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def before_exec(parent: int) -> Callable[[], None]:
    """For `preexec_fn`."""

    def run() -> None:
        end_with_parent(parent)

    return run


def become(user: int, group: int) -> None:
    """Run on under that user, with that group alone; files are made for user and group only. Needs root."""
    parent = os.getppid()
    os.setgroups([group])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    os.umask(0o007)
    os.environ["HOME"] = NO_HOME
    end_with_parent(parent)

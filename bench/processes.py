"""The processes of a system under test: started, accounted for, and ended by their own pid.

Why it exists: CPU and memory must be those of the whole system, forked and finished children and the database
included, and no daemon may outlive a benchmark, also after Ctrl-C. Nothing is ever ended by name.

Called by the peers (start, stop) and by `measure` (CPU, memory).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

_TICKS = os.sysconf("SC_CLK_TCK")  # of /proc/<pid>/stat, a second
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_STOP_TIMEOUT = 15.0  # seconds from SIGTERM to SIGKILL; a mail server may want to sync and seal

_libc = ctypes.CDLL(None, use_errno=True)


class NotStarted(Exception):
    """A system under test did not come up; the text says which, and ends with what it wrote."""


def adopt_orphans() -> None:
    """Daemons that detach from their parent become our children, so that they stay in the tree and are ended."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def _no_interruption() -> Iterator[None]:
    """Ctrl-C in the middle of a fork would be swallowed, or leave a child that nobody knows."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTIONS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _before_exec() -> None:
    """In the child: hear signals again, and end when the benchmark is killed."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTIONS)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/<pid>/stat from the third on, or None when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def descendants(root: int) -> list[int]:
    """A process and everything below it, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:  # grows while it is walked
        found.extend(children.get(pid, ()))
    return found


def machine_busy_seconds() -> float:
    """CPU time that the whole machine has spent so far, on anything."""
    user, nice, system, _idle, _wait, irq, soft, steal, *_rest = (
        int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + soft + steal) / _TICKS


def own_busy_seconds() -> float:
    """CPU time of this process and of the load generators it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Daemon:
    """One started system under test, which may be many processes."""

    def __init__(self, name: str, argv: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._log = log
        with log.open("ab") as output, _no_interruption():
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if environment is None else {**os.environ, **environment},
                start_new_session=True,  # Ctrl-C is ours: the daemons are ended in order, not all at once
                preexec_fn=_before_exec,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def processes(self) -> list[int]:
        """All live processes of the system."""
        return descendants(self.pid)

    def cpu_seconds(self) -> float:
        """User and system time of all processes so far; finished children count through the parent that waited."""
        total = 0
        for pid in self.processes():
            if (fields := _stat(pid)) is not None:
                total += sum(int(x) for x in fields[11:15])  # utime stime cutime cstime
        return total / _TICKS

    def pss(self) -> int:
        """Bytes in memory, each shared page divided among those that share it."""
        total = 0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1]) * 1024
        return total

    def rss(self) -> int:
        """Bytes in memory, shared pages counted for each process; cheaper to ask than `pss`."""
        total = 0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
        return total

    def check(self) -> None:
        """Raises NotStarted when the process has ended."""
        code = self._process.poll()
        if code is not None:
            raise NotStarted(f"{self.name} ended with exit code {code}: {self.last_lines()}")

    def last_lines(self) -> str:
        """The end of what it wrote, for an error's text."""
        return self._log.read_text(errors="replace")[-1500:].strip()

    def wait_for_port(self, port: int, greeting: bytes = b"220", seconds: float = 20.0) -> None:
        """Until it listens and greets. Raises NotStarted."""
        deadline = time.monotonic() + seconds
        while True:
            self.check()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as probe:
                if probe.recv(512).startswith(greeting):
                    return
            if time.monotonic() > deadline:
                raise NotStarted(
                    f"{self.name} does not answer on port {port} after {seconds:.0f} s: {self.last_lines()}"
                )
            time.sleep(0.02)

    def wait(self, seconds: float) -> int:
        """Until it ends by itself; answers the exit code. Raises subprocess.TimeoutExpired."""
        return self._process.wait(seconds)

    def stop(self) -> None:
        """SIGTERM to the first process, then SIGKILL to whatever is left of the tree."""
        pids = self.processes()
        with contextlib.suppress(ProcessLookupError):
            if self._process.poll() is None:
                os.kill(self.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_TIMEOUT)
        for pid in [*descendants(self.pid), *pids]:
            with contextlib.suppress(ProcessLookupError):
                if pid != self.pid or self._process.poll() is None:
                    _kill_if_same_tree(pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_TIMEOUT)
        _reap_orphans(pids)


def _kill_if_same_tree(pid: int) -> None:
    """A pid may have been given to a stranger meanwhile: only our own children and adopted orphans are killed."""
    if pid in descendants(os.getpid()):
        os.kill(pid, signal.SIGKILL)


def _reap_orphans(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


class Sampler:
    """Watches the peak of a figure in a thread."""

    def __init__(self, daemon: Daemon, interval: float, *, proportional: bool = True) -> None:
        self._read = daemon.pss if proportional else daemon.rss
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak = 0

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self.peak = max(self.peak, self._read())

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self.peak = max(self.peak, self._read())


@contextlib.contextmanager
def running(daemon: Daemon) -> Iterator[Daemon]:
    """Stop it whatever happens."""
    try:
        yield daemon
    finally:
        daemon.stop()


def free_port() -> int:
    """A TCP port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

"""One child process: its end, and the last line that it said on standard error.

Its end is seen through a pidfd. asyncio's own subprocesses are waited for until their pipes are closed too, so a
grandchild that holds standard error open would hide a death. Called by `supervisor.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from mailarray.local.lifeline import before_exec

LAST_WORDS = 500  # characters of the last line on standard error that are kept
_READ = 65536  # bytes read at once; of a longer line the end is kept
_DRAINED = 16  # such pieces at most are read after its end; a pipe holds one


class Child:
    """A running process, in a session and process group of its own."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start it; only from a coroutine. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=before_exec(os.getpid()),
        )
        assert self._process.stderr is not None
        self.pid = self._process.pid
        self._tail = b""
        self._ended = asyncio.Event()
        self._pipe = self._process.stderr.fileno()
        self._descriptor = os.pidfd_open(self.pid)
        os.set_blocking(self._pipe, False)
        self._loop.add_reader(self._pipe, self._read)
        self._loop.add_reader(self._descriptor, self._ended.set)

    async def wait(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        await self._ended.wait()
        self._drain()
        return self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """To its whole process group, so that a wrapper around the real process is no hiding place."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def last_words(self) -> str:
        """The last line that is not empty, so far."""
        lines = self._tail.decode("utf-8", "replace").split("\n")
        return next((line.strip()[:LAST_WORDS] for line in reversed(lines) if line.strip()), "")

    def close(self) -> None:
        """Kill what is left of its group, give descriptors back."""
        self.signal(signal.SIGKILL)
        self._loop.remove_reader(self._pipe)
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _drain(self) -> None:
        for _ in range(_DRAINED):
            if not self._read():
                return

    def _read(self) -> bool:
        """One piece, so that one that never stops talking does not hold up the others; False when there is no more."""
        try:
            chunk = os.read(self._pipe, _READ)
        except BlockingIOError:
            return False
        if not chunk:
            self._loop.remove_reader(self._pipe)  # end of file
        self._tail = (self._tail + chunk)[-_READ:]
        return bool(chunk)

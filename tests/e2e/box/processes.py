"""Long-lived processes of a box: started in a group and a namespace, each with a log of its own.

A process outlives the command that started it, and belongs to a control group from its first instruction on; whoever
ends the group ends it. When it does not come up, one sentence names its log and shows the last lines.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.e2e.box.cgroups import Group
from tests.e2e.box.machine import BoxError, tail

POLL = 0.1  # seconds between looks at something that is coming up


class Process:
    """A started process."""

    def __init__(self, name: str, log: Path, popen: subprocess.Popen[bytes]) -> None:
        self.name = name
        self.log = log
        self._popen = popen

    @property
    def pid(self) -> int:
        return self._popen.pid

    def wait_for(self, ready: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait until `ready`; an exit of the process, or the deadline, is a BoxError that names the log."""
        deadline = time.monotonic() + seconds
        while not ready():
            if (status := self._popen.poll()) is not None:
                raise BoxError(
                    f"{self.name} ended with status {status} before {what}; {self.log} ends with\n{tail(self.log)}"
                )
            if time.monotonic() > deadline:
                raise BoxError(f"{self.name}: not {what} in {seconds:.0f} s; {self.log} ends with\n{tail(self.log)}")
            time.sleep(POLL)

    def stop(self) -> None:
        """Kill it and wait for its end."""
        self._popen.kill()
        self._popen.wait()


def start(
    name: str,
    command: Sequence[str | Path],
    *,
    log: Path,
    group: Group | None = None,
    joining: str = "",
    enter: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> Process:
    """Start a process; `enter` are the words (nsenter …) that bring it into its namespaces.

    `joining` replaces the group's own words.
    Without a group it is a child that dies with the process that called.
    """
    words = [*enter, *(str(word) for word in command)]
    if group:
        words = ["sh", "-c", f"{joining or group.joining()}; exec {shlex.join(words)}"]
    else:
        words = ["setpriv", "--pdeathsig", "KILL", "--", *words]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        popen = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=dict(env) if env is not None else None,
            start_new_session=group is not None,
            cwd="/",
        )
    return Process(name, log, popen)

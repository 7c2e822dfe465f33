"""The load: Postfix' `smtp-source`, with the same command for every peer.

`-d` keeps connections open, `-N` numbers the recipients (see `addresses`). smtp-source does not pipeline.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass

from bench.addresses import CLIENT_NAME, RECIPIENT, SENDER

_TIMEOUT = 600.0  # seconds for one run


class LoadFailed(Exception):
    """smtp-source gave up; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent: parallel sessions, each message with `size` bytes of payload."""

    size: int
    sessions: int

    def __str__(self) -> str:
        return f"{self.size // 1024} KiB, {self.sessions} sessions"


def command(load: Load, messages: int, port: int, recipient: str = RECIPIENT, *, numbered: bool = True) -> list[str]:
    """The command that is run."""
    return [
        shutil.which("smtp-source", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin") or "smtp-source",
        "-d",
        *(["-N"] if numbered else []),
        *("-s", str(load.sessions)),
        *("-l", str(load.size)),
        *("-m", str(messages)),
        *("-f", SENDER),
        *("-t", recipient),
        *("-M", CLIENT_NAME),
        f"127.0.0.1:{port}",
    ]


def send(load: Load, messages: int, ports: list[int], recipient: str = RECIPIENT, *, numbered: bool = True) -> float:
    """Run it to its end, once a port with the messages shared out; answers the seconds. Raises LoadFailed."""
    share, rest = divmod(messages, len(ports))
    part = Load(load.size, max(1, load.sessions // len(ports)))
    begin = time.perf_counter()
    runs = [
        subprocess.Popen(
            command(part, share + (i < rest), port, recipient, numbered=numbered),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i, port in enumerate(ports)
    ]
    try:
        errors = [run.communicate(timeout=_TIMEOUT)[1] for run in runs]
    finally:
        for run in runs:
            if run.poll() is None:
                run.kill()
                run.wait()
    seconds = time.perf_counter() - begin
    for run, error in zip(runs, errors, strict=True):
        if run.returncode:
            raise LoadFailed(
                f"smtp-source to port {ports[0]} ended with exit code {run.returncode}: {error.strip()[:500]}"
            )
    return seconds

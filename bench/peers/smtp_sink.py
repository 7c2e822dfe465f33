"""`smtp-sink` of the Postfix package: stores nothing, so it shows what the load generator can send at most."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from bench.peers.peer import Peer, System
from bench.processes import Daemon, free_port, running

_BACKLOG = 1000  # of listen(2): no connection waits for a SYN to be sent again
_SESSIONS = 1000


class SmtpSink(Peer):
    name = "smtp-sink"
    counted = "accepted, nothing stored"

    def __init__(self) -> None:
        self._program = shutil.which("smtp-sink", path="/usr/sbin:/usr/bin:/usr/local/sbin")

    def unavailable(self) -> str | None:
        return None if self._program else "smtp-sink is not installed (Debian package postfix)"

    @contextlib.contextmanager
    def running(self, directory: Path) -> Iterator[System]:
        port = free_port()
        argv = [str(self._program), "-u", "nobody", "-m", str(_SESSIONS), f"127.0.0.1:{port}", str(_BACKLOG)]
        with running(Daemon(self.name, argv, directory / "log")) as daemon:
            daemon.wait_for_port(port)
            yield System([port], [daemon])

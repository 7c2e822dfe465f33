"""A PostgreSQL server of the tests' own, from Debian's package, on a free loopback port and with fsync on.

It refuses to run as root, so then it runs as Debian's user `postgres`. It is ended by its process id.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

BINARIES = Path("/usr/lib/postgresql/15/bin")
START_SECONDS = 30.0
USER = "postgres"
SETTINGS = [
    f"--{setting}"
    for setting in ("listen_addresses=127.0.0.1", "fsync=on", "max_connections=60", "shared_buffers=64MB")
]


def available() -> bool:
    """Whether Debian's package postgresql-15 is installed."""
    return (BINARIES / "postgres").exists()


class PostgresServer:
    """One cluster in a temporary directory. `stop` and `start` take the database away and bring it back."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="mailarray-postgres-"))
        self._data = self._home / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._account: dict[str, str | int] = {}
        if os.geteuid() == 0:
            account = pwd.getpwnam(USER)
            os.chown(self._home, account.pw_uid, account.pw_gid)
            self._account = {"user": account.pw_uid, "group": account.pw_gid}
            self._extra_groups: list[int] | None = []
        else:
            self._extra_groups = None
        self._run("initdb", "--pgdata", str(self._data), "--auth=trust", f"--username={USER}", "--encoding=UTF8")
        self.port = _free_port()
        self.start()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        assert self._process is None
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(  # type: ignore[call-overload]
                [BINARIES / "postgres", "-D", self._data, "-p", str(self.port), "-k", self._home, *SETTINGS],
                stdout=log,
                stderr=log,
                cwd=self._home,
                extra_groups=self._extra_groups,
                **self._account,
            )
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError((self._home / "log").read_text()[-2000:])
            time.sleep(0.02)

    def stop(self) -> None:
        """At once, as if the machine died: connections break, nothing is flushed."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGQUIT)
            process.wait(START_SECONDS)

    def kill(self) -> None:
        """SIGKILL for the postmaster alone; its other processes find out by themselves."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(START_SECONDS)

    def start_again(self) -> None:
        """After `kill`: as often as it takes until what is left of the old one has gone."""
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                self.start()
                return
            except RuntimeError:
                self._process = None
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def back_up(self, name: str) -> None:
        """A copy of the whole cluster as it is now, while it runs."""
        self._run(
            "pg_basebackup", "-D", str(self._home / name), "-h", str(self._home), "-p", str(self.port), "-U", USER,
            "--checkpoint=fast", "--wal-method=stream",
        )  # fmt: skip

    def restore(self, name: str) -> None:
        """Put the cluster back to a backup; it must be stopped, and the backup stays."""
        assert self._process is None
        shutil.rmtree(self._data)
        subprocess.run(["cp", "-a", str(self._home / name), str(self._data)], check=True)

    def url(self, database: str) -> str:
        """For `open_catalog`."""
        return f"postgresql://{USER}:unused@127.0.0.1:{self.port}/{database}"

    def fresh_database(self) -> str:
        """Make an empty database; answers its URL."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self._run("createdb", "-h", str(self._home), "-p", str(self.port), "-U", USER, name)
        return self.url(name)

    def drop(self, url: str) -> None:
        """Drop a database that `fresh_database` made."""
        name = url.rpartition("/")[2]
        self._run("dropdb", "-f", "-h", str(self._home), "-p", str(self.port), "-U", USER, name)

    def close(self) -> None:
        """Stop, and remove everything."""
        self.stop()
        shutil.rmtree(self._home, ignore_errors=True)

    def _answers(self) -> bool:
        """True once a session can be had; a socket alone may belong to a server that is still recovering."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self._run("pg_isready", "-q", "-h", str(self._home), "-p", str(self.port))
            return True
        return False

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [BINARIES / program, *arguments],
            check=True,
            capture_output=True,
            cwd=self._home,
            extra_groups=self._extra_groups,
            **self._account,  # type: ignore[call-overload]
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

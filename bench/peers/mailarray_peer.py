"""The array: three servers on loopback through the real launcher, `mailarray up`, with its SQLite catalog.

A message counts when the catalog shows it: asked of the database through a connection that can only read. Each
server is an smtp process and a catalog sidecar, so there are six processes, the access server and the launcher,
all of them in the account of CPU and memory. The load goes to the first server, as a sender that looked up the
MX would do; `spread` shares it out over the three.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from bench.addresses import DOMAIN, accounts_file
from bench.peers.peer import Peer, System
from bench.processes import Daemon, running

SERVERS = 3
PASSWORD = "benchmark"  # of all accounts; the hash is made once
_PORTS_ANNOTATION = "mailarray.io/local-ports"
_POLL = 0.005  # seconds between two looks at the catalog; one costs about as much as registering ten messages
_TIMEOUT = 120.0  # seconds without a new message in the catalog


class NotVisible(RuntimeError):
    """Messages that were accepted did not come up in the catalog."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where one array listens."""

    smtp: int  # of the first server; the others follow
    pop3: int
    status: int
    internal: int  # first of forty

    @property
    def access(self) -> int:
        """Internal port of the access server."""
        return self.internal + 30


def free_ports() -> Ports:
    """A run of free ports: probed, so that two arrays may stand side by side."""
    for base in range(21_000, 31_000, 100):
        if all(_is_free(port) for port in (*range(base, base + 3), base + 5, base + 6, *range(base + 10, base + 50))):
            return Ports(smtp=base, pop3=base + 5, status=base + 6, internal=base + 10)
    raise RuntimeError("there is no run of 50 free ports between 21000 and 31000")


def _is_free(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@cache
def password_hash() -> str:
    """One argon2 hash for all accounts."""
    import argon2

    return argon2.PasswordHasher().hash(PASSWORD)


def cluster_file(copies: int, ports: Ports) -> str:
    """The MailCluster and its MailServer."""
    cluster = {
        "apiVersion": "mailarray.io/v1alpha1",
        "kind": "MailCluster",
        "metadata": {
            "name": "bench",
            "annotations": {
                _PORTS_ANNOTATION: (
                    f"smtp={ports.smtp},pop3={ports.pop3},status={ports.status},internal={ports.internal}"
                )
            },
        },
        "spec": {
            "domains": [{"name": DOMAIN}],
            "accounts": {"secretRef": {"name": "accounts"}},
            "storage": {"copies": copies},
        },
    }
    servers = {
        "apiVersion": "mailarray.io/v1alpha1",
        "kind": "MailServer",
        "metadata": {"name": "mail"},
        "spec": {"clusterRef": {"name": "bench"}, "replicas": SERVERS},
    }
    return yaml.safe_dump_all([cluster, servers], sort_keys=False)


def mailarray(*arguments: str) -> list[str]:
    """The command line `mailarray`, of the code that this interpreter imports."""
    return [sys.executable, "-c", "from mailarray.cli.main import main; main()", *arguments]


@dataclass(frozen=True, slots=True)
class Array:
    """An array that runs."""

    daemon: Daemon
    data: Path
    ports: Ports
    catalog: CatalogView

    @property
    def token(self) -> str:
        """Of the internal ports."""
        return (self.data / "token").read_text().strip()


class CatalogView:
    """The catalog's database, read-only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def count(self) -> int:
        """Placements that are visible now: each message of the load has one."""
        if self._connection is None:
            if not self._path.exists():
                return 0
            uri = f"file:{self._path}?mode=ro"
            self._connection = sqlite3.connect(uri, uri=True, timeout=5.0, isolation_level=None)
        try:
            row = self._connection.execute("SELECT count(*) FROM placements").fetchone()
        except sqlite3.OperationalError:  # the tables are not there yet
            return 0
        return int(row[0])

    def wait(self, total: int) -> None:
        """Until so many are visible. Raises NotVisible when nothing moves any more."""
        last, moved = -1, time.monotonic()
        while (count := self.count()) < total:
            if count != last:
                last, moved = count, time.monotonic()
            elif time.monotonic() - moved > _TIMEOUT:
                raise NotVisible(f"the catalog shows {count} messages of {total}, unchanged for {_TIMEOUT:.0f} s")
            time.sleep(_POLL)
        if count > total:
            raise NotVisible(f"the catalog shows {count} messages where {total} were sent")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


@contextlib.contextmanager
def array(directory: Path, copies: int, before_start: Callable[[Path], None] | None = None) -> Iterator[Array]:
    """Start an empty array in `directory`, and stop it at the end; `before_start` may put journals into its volumes."""
    data = directory / "data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    if before_start is not None:
        before_start(data)
    (data / "accounts").write_text(accounts_file(password_hash()))
    (data / "accounts").chmod(0o600)
    ports = free_ports()
    config = directory / "cluster.yaml"
    config.write_text(cluster_file(copies, ports))
    argv = mailarray("up", "-f", str(config), "--data", str(data), "--plain")
    with running(Daemon(f"mailarray up, copies {copies}", argv, directory / "output")) as daemon:
        for server in range(SERVERS):
            daemon.wait_for_port(ports.smtp + server)
        daemon.wait_for_port(ports.pop3, b"+OK")
        catalog = CatalogView(data / "catalog" / "catalog.sqlite")
        try:
            yield Array(daemon, data, ports, catalog)
        finally:
            catalog.close()
    shutil.rmtree(data, ignore_errors=True)  # several GB after a round of 50 KiB messages


class Mailarray(Peer):
    """The whole array."""

    counted = "visible in the catalog"

    def __init__(self, copies: int, *, spread: bool = False) -> None:
        self.copies = copies
        self._spread = spread
        self.name = f"Mailarray, copies {copies}" + (", all servers" if spread else "")

    def unavailable(self) -> str | None:
        found = importlib.util.find_spec("mailarray.cli.main") is not None
        return None if found else "mailarray.cli.main is missing"

    @contextlib.contextmanager
    def running(self, directory: Path) -> Iterator[System]:
        with array(directory, int(self.copies or 1)) as started:
            first = started.ports.smtp
            ports = [first + i for i in range(SERVERS)] if self._spread else [first]
            yield System(ports, [started.daemon], started.catalog.wait)

"""An array on one machine that faults can be done to: its disks, network, database and processes.

What a machine cannot give (no root, no loop devices, no nft, no PostgreSQL) is left out with a reason, and faults that
need it are left out too. Refuses to know any fault: those are in `faults.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from mailarray.contract import paths
from mailarray.contract.settings import StorageSettings
from mailarray.local.layout import ISOLATED_USER_BASE
from tests.faults import control, disks, network
from tests.faults.control import Control
from tests.faults.disks import Disk
from tests.faults.network import Network
from tests.support import postgres
from tests.support.array import HOST, Array
from tests.support.postgres import PostgresServer

SERVERS = 3
COPIES = 2
ROLES = ("smtp", "sidecar")
ACCESS, DATABASE = "access", "database"
HELD_SECONDS = 60.0  # until a process that was killed is started again by the launcher; it takes a fraction of a second
RESERVE = 64 << 20  # bytes; as it is by default

DISKS, NETWORK, LIBRARY, POSTGRESQL, SCRUBBER = "disks", "network", "library", "PostgreSQL", "scrubber"


def problems() -> dict[str, str]:
    """What this machine cannot give, and why."""
    found = {
        DISKS: disks.problem(),
        NETWORK: network.problem(),
        LIBRARY: None if control.compiler() else "needs cc",
        POSTGRESQL: None if postgres.available() else "needs Debian's postgresql-15",
        SCRUBBER: None if hasattr(StorageSettings, "scrub_rate") else "servers do not look for damage by themselves",
    }
    return {what: why for what, why in found.items() if why}


class StagedArray(Array):
    """An array whose processes have the library of `control.py` in them."""

    control: Control | None = None

    def environment(self) -> dict[str, str]:
        own = super().environment()
        return own | (self.control.environment if self.control is not None else {})


class Stage:
    """See the module. `start` it, hurt it, `heal` it, `close` it."""

    def __init__(self, accounts: Iterable[str], segment_size: str = "4Mi") -> None:
        self.missing = problems()
        self.database = None if POSTGRESQL in self.missing else PostgresServer()
        self.array = StagedArray(
            accounts=tuple(accounts),
            servers=SERVERS,
            spec={"storage": {"segmentSize": segment_size, "copies": COPIES, "reserve": f"{RESERVE >> 20}Mi"}},
            annotations={"mailarray.io/local-max-restart-delay": "50ms", "mailarray.io/local-surplus-after": "5s"},
            catalog_url=self.database.fresh_database() if self.database else None,
        )
        self.names = self.array.names
        if not self.array.isolated:
            self.missing.setdefault(NETWORK, "servers cannot have users of their own here")
        self._control: Control | None = None
        if LIBRARY not in self.missing:
            slots = [f"{name}/{role}" for name in self.names for role in ROLES] + ["access/access"]
            self._control = self.array.control = Control(self.array.home, slots)
        self.disks: list[Disk] = []
        if DISKS not in self.missing:
            for index in range(SERVERS):
                self.disks.append(Disk(self.array.home / f"disk-{index}", self.array.volume(index)))
        self._network: Network | None = None
        if NETWORK not in self.missing:
            self._network = Network(self._users(), self._ports())
        self.backups: list[str] = []  # of the database, oldest first

    @property
    def control(self) -> Control:
        """Only for faults that need LIBRARY."""
        assert self._control is not None
        return self._control

    @property
    def network(self) -> Network:
        """Only for faults that need NETWORK."""
        assert self._network is not None
        return self._network

    async def start(self) -> None:
        """Until every process serves."""
        await asyncio.to_thread(self.array.start)

    def processes(self, server: str) -> list[str]:
        """Names of a server's processes, or of the access server."""
        return [ACCESS] if server == ACCESS else [f"{server}/{role}" for role in ROLES]

    def kill(self, process: str) -> bool:
        """SIGKILL; False when it is dead already, and not started again yet."""
        pid = self.array.processes().get(process)
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return True
        return False

    @contextlib.asynccontextmanager
    async def down(self, server: str) -> AsyncIterator[None]:
        """No process of a server runs: they are killed, and those that the launcher starts wait before they begin."""
        names = self.processes(server)
        for name in names:
            self.control.set(name, held=0, hold=1)
        try:
            async with asyncio.timeout(HELD_SECONDS):
                while not all(self._held(name) for name in names):
                    for name in names:
                        if not self._held(name):
                            self.kill(name)
                    await asyncio.sleep(0.05)
            yield
        finally:
            for name in names:
                self.control.set(name, hold=0)

    def offered(self, index: int) -> dict[str, int]:
        """Durable bytes of each segment, as a server itself says; raises OSError while it cannot be asked."""
        volume = (self.array.ask(f"{self.names[index]}/sidecar") or {}).get("volume", "")
        request = urllib.request.Request(
            f"http://{HOST}:{self._ports()[self.names[index]][1]}{paths.SEGMENTS.format(volume=volume)}",
            headers={"Authorization": f"{paths.TOKEN_SCHEME} {self.array.token}"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            return {row["segment"]: int(row["length"]) for row in json.load(response)["segments"]}

    def scrub(self) -> None:
        """Ask all servers to read everything through, as a person would."""
        self.array.cli("volume", "scrub", "--data", str(self.array.data))

    def _held(self, process: str) -> bool:
        held = self.control.get(process, "held")
        return held != 0 and held == self.array.processes().get(process)

    def back_up_database(self) -> None:
        """Keep a copy of the catalog as it is now."""
        assert self.database is not None
        self.backups.append(f"backup-{len(self.backups)}")
        self.database.back_up(self.backups[-1])

    def keep(self, folder: Path) -> None:
        """Copy what a person needs to look into a failure: volumes, logs, settings."""
        shutil.copytree(
            self.array.data, folder, symlinks=True, ignore=lambda _, names: [n for n in names if n in ("run",)]
        )

    def close(self) -> None:
        """End everything, remove everything."""
        self.array.kill()
        for disk in self.disks:
            disk.detach()
        self.array.__exit__()
        if self.database is not None:
            self.database.close()

    def _users(self) -> dict[str, int]:
        return {name: ISOLATED_USER_BASE + i for i, name in enumerate((*self.names, ACCESS))}

    def _ports(self) -> dict[str, list[int]]:
        inside = self.array.ports.internal
        ports = {name: [inside + 10 + i, inside + 20 + i] for i, name in enumerate(self.names)}
        return ports | {ACCESS: [inside + 30], DATABASE: [self.database.port] if self.database else []}


def enter_namespaces(arguments: list[str]) -> None:
    """Go on with a network and mounts of our own, when that can be had; returns when that is done, or cannot be."""
    if os.environ.get("FAULTS_OWN_NAMESPACES") or os.geteuid() != 0 or shutil.which("unshare") is None:
        if os.environ.get("FAULTS_OWN_NAMESPACES"):
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return
    os.environ["FAULTS_OWN_NAMESPACES"] = "1"
    os.execvp("unshare", ["unshare", "--net", "--mount", "--propagation", "private", *arguments])

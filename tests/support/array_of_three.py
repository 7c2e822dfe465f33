"""An array in one process: journal writers and sidecars with the production parts, over loopback HTTP.

Each server has a disk of its own, whose power can be cut; the SQLite catalog lies outside. The slow clocks run faster
than in production, in the same proportions.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from mailarray.catalog.catalog import Catalog
from mailarray.catalog.database import open_catalog
from mailarray.catalog.rows import MailboxEntry
from mailarray.contract import mirroring_ring, mirroring_table, paths
from mailarray.contract.settings import (
    CatalogSettings,
    DirectorySettings,
    Listen,
    ServerSettings,
    SmtpSettings,
    StorageSettings,
)
from mailarray.journal.disk import Disk
from mailarray.journal.format import Tombstone, crc32c
from mailarray.journal.volume import Volume, open_volume, read_volume
from mailarray.mirroring.announce import Announcer
from mailarray.mirroring.mirrors import Mirrors
from mailarray.mirroring.writer import JournalWriter
from mailarray.model.message import Delivery, IncomingMessage, Outcome
from mailarray.observe.http import internal_app
from mailarray.smtp.writer_port import add_routes
from mailarray.tracking.process import Agent

TOKEN = "token-of-the-test"


def fast_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """All waiting times a tenth of what they are."""
    for name, seconds in {
        "mirroring.writer.HEARTBEAT": 0.05,
        "mirroring.link.RETRY_AFTER": 0.1,
        "tracking.watching.SILENCE": 0.25,
        "tracking.following.SILENCE": 0.25,
        "tracking.settling.INTERVAL": 0.05,
        "tracking.settling.MIRROR_GRACE": 0.1,
        "tracking.settling.LEFT_SECONDS": 3.0,
        "tracking.settling.REPLICA_GRACE": 0.5,
        "tracking.repairing.INTERVAL": 0.05,
        "tracking.repairing.QUIET": 0.2,
        "tracking.repairing.DUTY": 1.0,  # a slow look on a busy machine must not make the next one late
        "tracking.repairing.KEEP_PARTS": 4.0,
        "tracking.repairing.CLOSED_SECONDS": 3.0,
        "tracking.losses.ASK_SECONDS": 0.2,
        "tracking.losses.ASK_EACH": 0.0,
        "tracking.draining.INTERVAL": 0.05,
        "tracking.compacting.INTERVAL": 0.1,
        "tracking.superseding.INTERVAL": 0.05,
        "tracking.dropping.INTERVAL": 0.05,
        "tracking.wear.RANK_SECONDS": 3.0,
        "tracking.targets.RANK_SECONDS": 3.0,
    }.items():
        monkeypatch.setattr(f"mailarray.{name}", seconds)


def free_ports(count: int) -> list[int]:
    """Ports that nothing listened on a moment ago; a restarted server needs the one that it had."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class ArrayServer:
    """One server: a writer and a sidecar, each of which can be started and killed."""

    def __init__(self, settings: ServerSettings, disk: Disk) -> None:
        self.settings = settings
        self.disk = disk
        self.writer: JournalWriter | None = None
        self.agent: Agent | None = None
        self._writing: list[Callable[[], Any]] = []
        self._tracking: list[Callable[[], Any]] = []

    async def start(self) -> None:
        """The sidecar first, as a launcher does it."""
        await self.start_sidecar()
        await self.start_writer()

    async def start_sidecar(self) -> None:
        settings = self.settings
        agent = self.agent = Agent(settings, open_volume(Path(settings.volume), self.disk), TOKEN)
        await agent.shelf.open()
        await agent.index.open()
        Path(settings.run_directory).mkdir(parents=True, exist_ok=True)
        agent.follower.listen(Path(settings.run_directory))
        await agent.port.open(settings.sidecar)
        tasks = [asyncio.create_task(loop) for loop in agent.loops()]

        async def kill() -> None:
            await _end(tasks)
            await agent.port.close(0.01)
            await agent.close()

        self._tracking.append(kill)

    async def start_writer(self) -> None:
        settings = self.settings
        volume = open_volume(Path(settings.volume), self.disk)
        lock = volume.try_lock_writer()
        assert lock is not None
        table = mirroring_table.load(settings.mirroring_table_file)
        announcer = Announcer(Path(settings.run_directory))
        mirrors = Mirrors(settings.server, table, TOKEN, settings.storage.mirror_timeout)
        writer = self.writer = JournalWriter(volume, mirrors, settings.storage, announcer, 64 << 20)
        app = internal_app(TOKEN, lambda: {"draining": writer.draining, "at_rest": writer.draining and writer.at_rest})
        add_routes(app, writer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, settings.writer.host, settings.writer.port).start()
        task = asyncio.create_task(writer.run())

        async def kill() -> None:
            announcer.close()  # the dead announce nothing
            mirrors.close()
            await _end([task])
            await runner.cleanup()
            os.close(lock)

        self._writing.append(kill)

    async def kill_writer(self) -> None:
        """As by SIGKILL: nothing is finished, nothing announced."""
        while self._writing:
            await self._writing.pop()()
        self.writer = None

    async def kill_sidecar(self) -> None:
        while self._tracking:
            await self._tracking.pop()()
        self.agent = None

    async def kill(self) -> None:
        await self.kill_writer()
        await self.kill_sidecar()

    # -- work ------------------------------------------------------------------------------------------------------
    async def deliver(self, body: bytes, *mailboxes: str) -> Outcome:
        """One message; answers when a sender would hear of it."""
        assert self.writer is not None
        spool = self.writer.open_body()
        spool.write(body)
        heard: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        deliveries = tuple(Delivery(mailbox, mailbox) for mailbox in mailboxes)
        message = IncomingMessage("s@out.example", deliveries, spool.finish())
        self.writer.submit(message, lambda outcome: None if heard.done() else heard.set_result(outcome))
        return await heard

    async def expunge(self, *tombstones: Tombstone) -> Outcome:
        assert self.writer is not None
        return await self.writer.expunge(tombstones)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Array:
    """Servers mail-0, mail-1, ..., or others by `names`, and their catalog."""

    def __init__(
        self,
        root: Path,
        disks: list[Disk],
        storage: StorageSettings | None = None,
        names: Sequence[str] = (),
    ) -> None:
        names = names or [f"mail-{i}" for i in range(len(disks))]
        self.catalog_url = f"sqlite:///{root / 'catalog.sqlite'}"
        self.table_file = table_file = root / "table.json"
        ports = free_ports(2 * len(disks))
        addresses = [(Listen(host="127.0.0.1", port=a), Listen(host="127.0.0.1", port=b)) for a, b in _pairs(ports)]
        self.table = mirroring_ring.ring(
            [mirroring_table.Server(names[i], str(s), str(w)) for i, (s, w) in enumerate(addresses)], 1
        )
        table_file.write_text(mirroring_table.dump(self.table))
        self.servers = [
            ArrayServer(
                ServerSettings(
                    cluster="test",
                    server=names[i],
                    volume=str(root / names[i] / "volume"),
                    run_directory=str(root / names[i] / "run"),
                    smtp=SmtpSettings(listen=Listen(host="127.0.0.1", port=0), hostname="mx"),
                    writer=writer,
                    sidecar=sidecar,
                    token_file="",
                    mirroring_table_file=str(table_file),
                    storage=storage or StorageSettings(reserve=0, mirror_timeout=0.5),
                    catalog=CatalogSettings(url=self.catalog_url),
                    directory=DirectorySettings(domains=(), accounts_file="unused"),
                ),
                disks[i],
            )
            for i, (sidecar, writer) in enumerate(addresses)
        ]
        self._catalog: Catalog | None = None

    async def catalog(self) -> Catalog:
        if self._catalog is None:
            self._catalog = await open_catalog(self.catalog_url)
        return self._catalog

    async def start(self) -> None:
        for server in self.servers:
            await server.start_sidecar()
        for server in self.servers:
            await server.start_writer()

    async def push(self, **states: str) -> None:
        """The next generation of the table, with these states (`mail_0="Draining"`), to every process that runs."""
        servers = [replace(s, state=states.get(s.name.replace("-", "_"), s.state)) for s in self.table.servers]
        self.table = mirroring_ring.ring(servers, self.table.generation + 1)
        text = mirroring_table.dump(self.table)
        self.table_file.write_text(text)
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
            for server in self.servers:
                for address, runs in ((server.settings.sidecar, server.agent), (server.settings.writer, server.writer)):
                    if runs is not None:
                        async with http.put(f"http://{address}{paths.MIRRORING_TABLE}", data=text) as response:
                            assert response.status == 200, await response.text()
                            assert (await response.json())["generation"] == self.table.generation

    async def until(self, what: Callable[[], object], seconds: float = 15.0) -> None:
        """Until it is true."""
        try:
            async with asyncio.timeout(seconds):
                while not what():  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        except TimeoutError:
            seen = [server.agent.status() for server in self.servers if server.agent is not None]
            raise AssertionError(f"not within {seconds:g} s: " + "\n".join(map(str, seen))) from None

    async def settled(self, seconds: float = 15.0, servers: Sequence[ArrayServer] | None = None) -> None:
        """Until every segment on every volume is sealed, whole and registered."""
        try:
            async with asyncio.timeout(seconds):
                while rest := self.at_work(self.servers if servers is None else servers):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"not settled after {seconds:g} s: " + "; ".join(rest)) from None

    def at_work(self, servers: Sequence[ArrayServer]) -> list[str]:
        """What is not at rest, in words."""
        return [line for server in servers for line in agent_at_work(server.settings.server, server.agent)]

    async def close(self) -> None:
        for server in self.servers:
            await server.kill()
        if self._catalog is not None:
            await self._catalog.close()


def agent_at_work(name: str, agent: Agent | None) -> list[str]:
    """What a sidecar has not brought to rest, in words."""
    if agent is None or agent.link.state is None:
        return [f"{name} has no catalog"]
    rest = []
    if not agent.link.state.open:
        rest.append(f"{name} sees a closed catalog")
    if agent.follower.lag_bytes:
        rest.append(f"{name} lags by {agent.follower.lag_bytes}")
    for holding in agent.settler.unsettled:
        length = None if holding.member is None else holding.member.length
        promised = None if holding.member is None else holding.member.fence_state
        rest.append(f"{name} {holding.segment.hex()} own={holding.own} length={length} {promised}")
    return rest


def volume_of(server: ArrayServer) -> Volume:
    """To look at, beside the processes that have it."""
    return read_volume(Path(server.settings.volume), Disk())


def bytes_on(entry: MailboxEntry, among: Sequence[ArrayServer]) -> list[bytes]:
    """The body, from each of those servers' disks that the catalog names for it and that has it whole."""
    found = []
    for server in among:
        volume = volume_of(server)
        for place in entry.locations:
            path = volume.segment_path(place.segment)
            if volume.id in place.members and path.exists():
                body = path.read_bytes()[place.offset : place.offset + place.length]
                if len(body) == entry.length and crc32c(body) == entry.checksum:
                    found.append(body)
                    break
    return found


def _pairs(ports: list[int]) -> Iterator[tuple[int, int]]:
    return zip(ports[::2], ports[1::2], strict=True)

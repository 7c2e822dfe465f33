"""The sidecar process: puts the parts of the message tracking agent together, and takes them down again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mailarray import __version__
from mailarray.catalog.catalog import CatalogUnavailable
from mailarray.catalog.database import open_catalog
from mailarray.contract.settings import ServerSettings
from mailarray.journal.disk import Disk
from mailarray.journal.volume import Volume, open_volume
from mailarray.model.ids import SegmentId
from mailarray.observe.limits import raise_file_limit, switch_threads_quickly
from mailarray.tracking import metrics
from mailarray.tracking.accounts import ServerAccounts
from mailarray.tracking.catalog_link import CatalogLink
from mailarray.tracking.compacting import Compactor
from mailarray.tracking.copying import Copier, Pace
from mailarray.tracking.deduplicating import Deduplicator, local_or_remote
from mailarray.tracking.draining import Drainer
from mailarray.tracking.dropping import Dropper
from mailarray.tracking.fencing import Fencer
from mailarray.tracking.following import Follower
from mailarray.tracking.giving_back import Returner
from mailarray.tracking.local_index import LocalIndex
from mailarray.tracking.losses import Losses
from mailarray.tracking.memory import CatalogMemory
from mailarray.tracking.mending import Mender
from mailarray.tracking.peers import Peers
from mailarray.tracking.port import Port
from mailarray.tracking.proof import Prover
from mailarray.tracking.receiving import Receiver
from mailarray.tracking.registering import Registrar
from mailarray.tracking.repairing import Repairer
from mailarray.tracking.room import Room
from mailarray.tracking.routes import Routes
from mailarray.tracking.scrubbing import Scrubber
from mailarray.tracking.sealing import Sealer
from mailarray.tracking.serving import Server
from mailarray.tracking.settling import Settler
from mailarray.tracking.shelf import Shelf
from mailarray.tracking.superseding import Superseder
from mailarray.tracking.table import NewestTable
from mailarray.tracking.time_left import TimeLeft
from mailarray.tracking.usage import MailboxUsage

log = logging.getLogger(__name__)

THREADS = 4  # for the volume: a large mirror copy, a recovery and reads side by side
STOP_PATIENCE = 5.0  # seconds to settle what the writer left, at a stop


class Agent:
    """All parts of one sidecar."""

    def __init__(self, settings: ServerSettings, volume: Volume, token: str) -> None:
        self.settings = settings
        self.volume = volume
        self.table = NewestTable(settings.server, settings.mirroring_table_file)
        self.executor = ThreadPoolExecutor(THREADS, thread_name_prefix="volume")
        self.memory = CatalogMemory(volume)
        self.link = CatalogLink(
            lambda: open_catalog(settings.catalog.current_url), volume.id, settings.server, self.memory
        )
        self.shelf = Shelf(volume, self.executor)
        self.index = LocalIndex(self.shelf)
        self.peers = Peers(settings.server, token, self.table)
        reserve = settings.storage.reserve
        self.receiver = Receiver(self.shelf, reserve, lambda: self.table.draining, lambda: self.memory.lost)
        self.fencer = Fencer(self.shelf, self.peers, str(settings.writer))
        self.room = Room(volume.free_bytes, reserve)
        self.server = Server(
            self.shelf,
            self.index,
            settings.server,
            self.room.full,
            self.memory,
            lambda: self.table.draining or volume.id in self.memory.lost,
            lambda: self.follower.knows_all,
        )
        registrar = Registrar(self.link, volume.id, self.memory, settings.storage.duplicate_window)
        wake = asyncio.Event()
        prover = Prover(self.shelf, self.peers, self.table)
        self.superseder = Superseder(self.shelf, self.link, prover)
        self.follower = Follower(self.shelf, self.link, registrar, wake)
        self.settler = Settler(
            self.shelf,
            self.link,
            self.follower,
            self.receiver,
            registrar,
            Sealer(volume.id, self.link, self.fencer, self.peers),
            Mender(volume.id, self.shelf, self.peers, reserve),
            self.superseder,
            self.peers,
            self.table,
            settings.storage.copies,
            wake,
        )
        self.accounts = ServerAccounts(settings) if settings.directory.snapshot_file is not None else None
        pace = Pace(settings.storage.copy_rate)  # of all that is not on the way to a 250
        copier = Copier(self.shelf, self.peers, reserve, pace)
        losses = Losses(self.link, self.memory, self.peers, self.table)
        self.repairer = Repairer(
            self.shelf, self.link, self.memory, losses, copier, self.table, settings.server, reserve
        )
        self.repairer.copied = wake.set
        self.settler.copy_told = self.repairer.copy_told
        self.compactor = Compactor(
            self.shelf, self.link, self.superseder, self.table, settings.storage, pace, time.monotonic
        )
        self.compactor.published = self.superseder.counted = wake.set
        self.dropper = Dropper(self.shelf, self.link, prover, self.index)
        self.returner = Returner(
            self.shelf,
            self.link,
            self.memory,
            self.peers,
            self.index,
            self.table,
            pace,
            settings.storage.surplus_after,
        )
        self.returner.full = self.room.full
        self.returner.busy = lambda: copier.under_way
        self.returner.refusing = self.leaves
        self.link.reached = self.repairer.wake.set
        self.drainer = Drainer(
            self.shelf, self.link, self.peers, self.settler, self.follower, self.table, str(settings.writer)
        )
        self.deduplicator = Deduplicator(
            volume.id,
            settings.server,
            self.link,
            self.peers,
            lambda volume, place: local_or_remote(self.shelf, self.peers, volume, place),
            self.table,
            settings.storage,
        )
        registrar.duplicates_found = self.deduplicator.found
        self.scrubber = Scrubber(
            self.shelf,
            self.link,
            self.peers,
            settings.storage.scrub_interval,
            settings.storage.scrub_rate,
            time.time,
        )
        self.shelf.written = self.scrubber.written
        self.returner.sound = self.scrubber.sound
        self.drainer.compacted = self.superseder.pending
        self.link.serving = lambda: not self.drainer.stays_retired()
        self.table.wake += [wake.set, self.repairer.wake.set, self.drainer.wake.set]
        self.copier = copier
        self.time_left = TimeLeft(
            {
                "copying": self.repairer.copying,
                "rebuild": self.repairer.rebuild,
                "drain": lambda: self.drainer.progress,
            }
        )
        routes = Routes(
            volume.id,
            token,
            self.receiver,
            self.server,
            self.fencer,
            self.status,
            self.table,
            self.accounts,
            MailboxUsage(self.link),
            self.scrubber,
            self.take_copy,
            self.returner.word,
        )
        metrics.LAG_BYTES.set_function(self.lag_bytes)
        metrics.UNDER_REPLICATED.set_function(self.under_replicated)
        metrics.IN_ONE_ZONE.set_function(self.in_one_zone)
        self.port = Port(volume.id, token, self.receiver, routes, lambda: self.server.stopping)

    async def take_copy(self, segment: SegmentId, length: int, pieces: AsyncIterator[bytes]) -> str | None:
        """A segment that a restore brings; see `Copier.take`. It is told to the catalog as after any copy."""
        epoch = self.memory.epoch if self.link.state is None else self.link.state.epoch
        reason = await self.copier.take(segment, length, epoch, pieces)
        self.repairer.copied()
        return reason

    def leaves(self) -> str | None:
        """Why nobody may count on this volume in what it removes (rule 25)."""
        if self.table.draining or self.drainer.progress is not None:
            return "the server is draining"
        if self.volume.id in self.memory.lost:
            return "the volume was declared lost"
        return "the server is stopping" if self.server.stopping else None

    def status(self) -> dict[str, Any]:
        """For /v1/status."""
        holdings = list(self.shelf)
        state = self.link.state
        return {
            "server": self.settings.server,
            "version": __version__,
            "volume": self.volume.id.hex(),
            "table_generation": self.table().generation,
            "segments": {
                "own": sum(holding.own for holding in holdings),
                "mirrored": sum(not holding.own for holding in holdings),
                "replicas": sum(holding.is_replica(self.volume.id) for holding in holdings),
                "unsealed": sum(holding.sealed_length is None for holding in holdings),
                "unsettled": self.settler.waiting,
            },
            "lag_bytes": self.lag_bytes(),
            "under_replicated": self.under_replicated(),
            "lost": sorted(volume.hex() for volume in self.repairer.lost),  # what is counted above knows of these
            "second_deliveries": self.deduplicator.owed,
            "in_one_zone": self.in_one_zone(),
            "drain": self.time_left.show("drain"),
            "rebuild": self.time_left.show("rebuild"),
            "copying": self.time_left.show("copying"),
            "surplus": self.returner.status(),
            "compaction": {**self.compactor.status(), "reclaimed_bytes": self.dropper.reclaimed},
            "catalog": {
                "state": "up" if state else "away",
                "epoch": self.link.last_epoch,
                "open": bool(state and state.open),
            },
            "accounts_held": self.accounts.held if self.accounts is not None else "",
            "disk_free": self.volume.free_bytes(),
            "full": self.room.full(),
            "scrub": self.scrubber.status(),
        }

    def lag_bytes(self) -> int:
        """Acknowledged by this server's writer and not registered, as far as is known."""
        return self.follower.lag_bytes + self.settler.lag_bytes

    def under_replicated(self) -> int:
        """Segments on fewer volumes than copies; each is counted by the first one that holds it.

        Of sealed ones the catalog knows who holds them; of the others their headers do. A compacted one that does not
        count yet is none of them: its mail is still where it was.
        """
        lost = self.settler.lost
        short = {s.facts.id for s in self.repairer.short if s.holders[:1] == (self.volume.id,)}
        short -= {holding.segment for holding in self.superseder.pending()}
        for holding in self.shelf:
            if holding.header is not None and holding.sealed_length is None:
                living = [volume for volume in holding.header.members if volume not in lost]
                if len(living) < holding.header.copies and living[:1] == [self.volume.id]:
                    short.add(holding.segment)
        return len(short)

    def in_one_zone(self) -> int:
        """Segments whose copies are all in one zone and should not be; each is counted by its first holder."""
        return self.repairer.together.count(self.volume.id)

    async def remember(self) -> None:
        """Save what is known of the catalog, at most once a second."""
        while True:
            await asyncio.sleep(1.0)
            if self.memory.due():
                try:
                    await self.shelf.run(self.memory.save)
                except OSError as error:  # what is remembered may lag behind; the rest goes on
                    log.error("memory not saved", extra={"reason": str(error)})

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """What runs beside the HTTP port."""
        return [
            self.follower.run(),
            self.settler.run(),
            self.settler.beat(),
            self.index.run(),
            self.remember(),
            *([] if self.accounts is None else [self.accounts.run()]),
            self.repairer.run(),
            self.superseder.run(),
            self.dropper.run(),
            self.returner.run(),
            self.compactor.run(),
            self.drainer.run(),
            self.deduplicator.run(),
            self.scrubber.run(),
            self.time_left.run(),
        ]

    async def settle_for_stop(self) -> None:
        """The writer has left its segment: seal and register it now, so that the next start finds all at rest."""
        deadline = asyncio.get_running_loop().time() + STOP_PATIENCE
        with contextlib.suppress(CatalogUnavailable, OSError, TimeoutError):
            async with asyncio.timeout_at(deadline):
                while not self.volume_is_at_rest():
                    await self.settler.one_pass()
                    await asyncio.sleep(0.05)

    def volume_is_at_rest(self) -> bool:
        """Nothing of our own waits to be sealed or registered."""
        return not any(holding.own for holding in self.settler.unsettled) and self.follower.current is None

    async def close(self) -> None:
        """Take everything down."""
        if self.memory.due():
            with contextlib.suppress(OSError):
                await self.shelf.run(self.memory.save)
        self.follower.close()
        await self.scrubber.close()
        await self.index.close()
        await self.peers.close()
        await self.link.close()
        await asyncio.to_thread(self.executor.shutdown)  # before the files that its threads may be writing to
        self.shelf.close()


async def run(settings: ServerSettings) -> None:
    """Run one sidecar until SIGTERM or SIGINT. Raises VolumeError, OSError, ValueError with one sentence."""
    raise_file_limit()
    switch_threads_quickly()
    volume = open_volume(Path(settings.volume), Disk())
    token = Path(settings.token_file).read_text(encoding="ascii").strip()
    agent = Agent(settings, volume, token)
    await agent.shelf.open()
    await agent.index.open()
    Path(settings.run_directory).mkdir(parents=True, exist_ok=True)
    agent.follower.listen(Path(settings.run_directory))
    await agent.port.open(settings.sidecar)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log.info("sidecar serves", extra={"server": settings.server, "volume": volume.id.hex()})
    tasks = [asyncio.create_task(coroutine) for coroutine in agent.loops()]
    stopped = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task is not stopped:
                task.result()  # a loop that ended has failed: the process ends, its launcher starts it again
        agent.server.stopping = True
        for task in tasks[1:]:
            task.cancel()
        await agent.settle_for_stop()
    finally:
        stopped.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, stopped, return_exceptions=True)
        await agent.port.close()
        await agent.close()

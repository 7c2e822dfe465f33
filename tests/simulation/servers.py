"""Servers of the simulated array: their processes, which are the production ones, and what can be done to them.

A server is a machine with one volume at a time and two processes, `writer` and `sidecar`. The sidecar is
`mailarray.tracking.process.run` as it stands; the writer is the journal writer and its internal port, without SMTP.
A process that ends is started again by a launcher after a while, as long as its machine has power.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import signal
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from aiohttp import web

from mailarray.contract import mirroring_table, paths
from mailarray.contract.settings import (
    CatalogSettings,
    DirectorySettings,
    Listen,
    ServerSettings,
    SmtpSettings,
    StorageSettings,
)
from mailarray.journal.volume import VolumeError, open_volume
from mailarray.mirroring.announce import Announcer
from mailarray.mirroring.mirrors import Mirrors
from mailarray.mirroring.writer import JournalWriter
from mailarray.model.ids import SegmentId, VolumeId
from mailarray.smtp.writer_port import add_routes
from mailarray.tracking.process import Agent
from mailarray.tracking.process import run as run_sidecar
from tests.simulation.disk import Machine, ProcessDisk
from tests.simulation.loop import NOBODY, PROCESS, ProcessDied
from tests.simulation.network import TOKEN, Handler, Request

if TYPE_CHECKING:
    from tests.simulation.world import World

RESERVE = 1 << 20  # bytes of a volume kept free
ROOM = 1 << 40  # bytes that a volume has left, when it has room


class Process:
    """One run of a process: what belongs to it ends with it."""

    def __init__(self, world: World, machine: str, kind: str, storage: Machine | None = None) -> None:
        self.machine = machine
        self.kind = kind
        self.name = f"{machine}/{kind}"
        self.alive = True
        self.stopped = False
        self.backlog: list[Any] = []
        self.context = contextvars.Context()
        self.context.run(PROCESS.set, self)
        self.exchanges: dict[Any, None] = {}
        self.handler: Handler = _absent
        self.signals: dict[int, Callable[[], None]] = {}
        self.agent: Agent | None = None
        self.writer: JournalWriter | None = None
        self.disk = ProcessDisk(storage or Machine(), self, world.written)
        self.disk.dice = world.dice


async def _absent(_: Request) -> web.Response:
    return web.Response(status=503)


class Server:
    """One machine."""

    def __init__(self, world: World, name: str, storage: StorageSettings) -> None:
        self.world = world
        self.name = name
        self.power = True
        self.skew = 0  # nanoseconds that its clock is off
        self.room = ROOM
        self.index: bytes | None = None  # the local index, as a process left it
        self.processes: dict[str, Process] = {}
        self.volume: VolumeId | None = None
        self.storage = storage
        self.restart_at_once = False
        self.kinds = ["sidecar", "writer"]
        self._volumes = 0
        self.new_volume()

    def new_volume(self) -> None:
        """An empty disk in the place of the one before."""
        self.machine = Machine()
        self._volumes += 1
        self.path = Path(self.world.root) / f"{self.name}.{self._volumes}"
        self.volume = None
        self.index = None
        self._settings: ServerSettings | None = None

    @property
    def agent(self) -> Agent | None:
        process = self.processes.get("sidecar")
        return process.agent if process is not None and process.alive else None

    @property
    def writer(self) -> JournalWriter | None:
        process = self.processes.get("writer")
        return process.writer if process is not None and process.alive else None

    def settings(self) -> ServerSettings:
        if self._settings is None:
            self._settings = self._make_settings()
        return self._settings

    def _make_settings(self) -> ServerSettings:
        nowhere = Listen(host="", port=0)
        return ServerSettings(
            cluster="simulated",
            server=self.name,
            volume=str(self.path),
            run_directory=str(self.path),
            smtp=SmtpSettings(listen=nowhere, hostname="mx"),
            writer=Listen(host=self.name, port=2),
            sidecar=Listen(host=self.name, port=1),
            token_file=self.world.token_file,
            mirroring_table_file=self.world.table_file,
            storage=self.storage,
            catalog=CatalogSettings(url="sqlite:////simulated"),
            directory=DirectorySettings(domains=(), accounts_file="unused"),
        )

    # -- starting --------------------------------------------------------------------------------------
    def start(self) -> None:
        """What is not running, when there is power."""
        for kind in self.kinds:
            process = self.processes.get(kind)
            if self.power and (process is None or not process.alive):
                self._start(kind)

    def _start(self, kind: str) -> None:
        world = self.world
        process = self.processes[kind] = Process(world, self.name, kind, self.machine)
        process.disk.cut = self._cut
        world.note(f"{process.name} starts")
        work = run_sidecar(self.settings()) if kind == "sidecar" else self._write(process)
        task = world.loop.create_task(self._live(process, work), context=process.context)
        task.add_done_callback(lambda _: None, context=NOBODY)

    async def _live(self, process: Process, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
            reason = "ended"
        except (VolumeError, OSError) as error:
            reason = f"failed: {error}"
        except Exception as error:  # a process that ends for another reason is a bug
            reason = f"failed: {error!r}"
            if process.alive:
                self.world.broken(f"{process.name} {reason}")
        if process.alive:
            self.world.note(f"{process.name} {reason}")
            self.end(process)

    async def _write(self, process: Process) -> None:
        settings, world = self.settings(), self.world
        volume = open_volume(Path(settings.volume), process.disk)
        if volume.try_lock_writer() is None:
            raise VolumeError("another writer uses the volume")
        self._opened(volume.id)
        table = mirroring_table.load(settings.mirroring_table_file)
        now = world.monotonic
        mirrors = Mirrors(settings.server, table, TOKEN, settings.storage.mirror_timeout, now)
        announcer = Announcer(Path(settings.run_directory))
        writer = process.writer = JournalWriter(volume, mirrors, settings.storage, announcer, 1 << 26, 0, now)
        process.handler = writer_port(writer)
        process.signals[signal.SIGTERM] = lambda: _background(writer.stop())
        world.network.listening[str(settings.writer)] = process
        await writer.run()
        mirrors.close()

    def _cut(self, name: str, length: int) -> None:
        if self.volume is not None and name.endswith(".segment"):
            self.world.ledger.cut(self.volume, SegmentId(bytes.fromhex(name.partition(".")[0])), length)

    def _opened(self, volume: VolumeId) -> None:
        if self.volume not in (None, volume):
            self.world.broken(f"{self.name} has another volume id than before")
        self.volume = volume
        self.world.volumes[volume] = self.machine, self.path

    def opened(self, process: Process, agent: Agent) -> None:
        """The sidecar's parts were put together."""
        process.agent = agent
        self._opened(agent.volume.id)

    # -- ending ----------------------------------------------------------------------------------------
    def end(self, process: Process) -> None:
        """However it ended; the launcher starts it again."""
        if not process.alive:
            return
        process.alive = False
        process.backlog.clear()
        world = self.world
        agent = process.agent
        if agent is not None:
            database = agent.index._database
            if database is not None:
                with contextlib.suppress(sqlite3.Error):
                    self.index = database.serialize()
                database.close()
                agent.index._database = None
            for holding in agent.shelf:
                if holding._view >= 0:
                    os.close(holding._view)
                    holding._view = -1
        process.disk.close_all()
        world.release_locks(process)
        if self.power:
            world.network.reset(process)
            delay = 0.01 if self.restart_at_once else world.dice.choice((0.05, 0.3, 1.0, 2.5))
            world.loop.call_later(delay, self.start, context=NOBODY)

    def kill(self, kind: str) -> bool:
        """SIGKILL."""
        process = self.processes.get(kind)
        if process is None or not process.alive:
            return False
        self.world.note(f"{process.name} is killed")
        self.end(process)
        return True

    def power_cut(self, seconds: float | None) -> None:
        """Everything ends at once; back after so many seconds, or when somebody says so."""
        world = self.world
        if self.power:
            world.note(f"{self.name} loses power" + ("" if seconds is None else f" for {seconds:.2f} s"))
            self.power = False
            for process in self.processes.values():
                self.end(process)
            self.machine.power_cut(world.dice, world.dice.random() < 0.7)
            if world.dice.random() < 0.5:
                self.index = None
        if seconds is not None:
            world.loop.call_later(seconds, self.power_on, context=NOBODY)

    def power_on(self) -> None:
        if not self.power:
            self.power = True
            self.start()

    def arm(self, kind: str, steps: int, power: bool) -> None:
        """Die in the disk's so many-th step from now."""
        process = self.processes.get(kind)
        if process is None or not process.alive:
            return
        process.disk.fuse = steps

        def die() -> None:
            self.world.note(f"{process.name} dies in a step of its disk")
            if power:
                self.power_cut(self.world.dice.choice((0.2, 1.0, 3.0)))
            else:
                self.end(process)

        process.disk.on_fuse = die

    def stop(self, kind: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        process = self.processes.get(kind)
        if process is None or not process.alive or process.stopped:
            return
        world = self.world
        world.note(f"{process.name} is stopped for {seconds:.2f} s")
        process.stopped = True

        def go_on() -> None:
            process.stopped = False
            world.loop.go_on(process.backlog)

        world.loop.call_later(seconds, go_on, context=NOBODY)

    def leave_writer(self) -> None:
        """The writer ends, for good."""
        self.kinds = ["sidecar"]
        self.terminate("writer")

    def terminate(self, kind: str) -> None:
        """SIGTERM."""
        process = self.processes.get(kind)
        if process is not None and process.alive and signal.SIGTERM in process.signals:
            self.world.note(f"{process.name} is asked to end")
            process.context.run(process.signals[signal.SIGTERM])


def _background(work: Coroutine[Any, Any, None]) -> None:
    asyncio.get_running_loop().create_task(work)


def writer_port(writer: JournalWriter) -> Handler:
    """The routes of smtp/writer_port.py without aiohttp's application."""
    routes: dict[str, Any] = {}
    add = routes.__setitem__
    add_routes(SimpleNamespace(router=SimpleNamespace(add_post=add, add_put=add)), writer)  # type: ignore[arg-type]

    async def handle(request: Any) -> Any:
        path = request.rel_url.raw_path
        if path == paths.STATUS:
            return web.json_response({"draining": writer.draining, "at_rest": writer.draining and writer.at_rest})
        if path.startswith("/v1/writer/segments/"):
            request.match_info = {"segment": path.split("/")[4]}
            return await routes[paths.WRITER_FENCE](request)
        return await routes[path](request)

    return handle


class CommitThread:
    """In the place of journal.commit_thread.CommitThread: calls one after the other, each as one step."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()

    def submit(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        future = self._loop.create_future()
        self._loop.in_thread(id(self), work, future)  # type: ignore[attr-defined]
        return future

    def close(self) -> None:
        return


class Port:
    """In the place of tracking.port.Port."""

    def __init__(self, volume: VolumeId, token: str, receiver: Any, routes: Any, stopping: Callable[[], bool]) -> None:
        self._routes = routes

    async def open(self, listen: Listen) -> int:
        process: Process = PROCESS.get()
        process.handler = self._routes
        Port.world.network.listening[str(listen)] = process
        return 0

    async def close(self, seconds: float = 0.0) -> None:
        PROCESS.get().handler = _absent

    world: World


__all__ = ["CommitThread", "Port", "Process", "ProcessDied", "Server"]

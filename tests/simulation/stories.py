"""Troubles that come one after the other, each where it hurts most: dice alone throw them once in ten thousand runs.

A story takes seconds, in which nothing new happens beside it; when something from before is in its way, it ends early.
It tells nobody what to expect: the checks are those of every run.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mailarray.catalog import volumes
from mailarray.contract.mirroring_table import DRAINING, SERVING
from tests.simulation.loop import NOBODY
from tests.simulation.servers import Server

if TYPE_CHECKING:
    from tests.simulation.world import World


class Stories:
    """See the module. Every method that does not begin with `_` is one."""

    _world: World
    _dice: random.Random
    over = False  # all is healed: what was to come later does not come any more

    def _server(self) -> Server:
        return self._dice.choice(list(self._world.servers.values()))

    def _later(self, seconds: float, work: Callable[[], Any]) -> None:
        """Also when all is healed meanwhile."""
        self._world.loop.call_later(seconds, work, context=NOBODY)

    def _then(self, seconds: float, work: Callable[[], Any]) -> None:
        self._later(seconds, lambda: None if self.over else work())

    def _deliver(self, server: Server) -> None:
        self._world.clients.deliver(server)

    def _begin_segment(self, server: Server) -> None:
        """With the next batch."""
        if server.writer is not None:
            server.processes["writer"].context.run(setattr, server.writer, "_row_changed", True)

    def _cut_from_servers(self, server: Server, seconds: float) -> None:
        others = [name for name in self._world.servers if name != server.name]
        self._cut([frozenset((server.name, other)) for other in others], seconds)

    def _cut(self, pairs: list[frozenset[str]], seconds: float) -> None:
        cut = self._world.network.cut
        cut.update(pairs)
        self._later(seconds, lambda: cut.difference_update(pairs))

    def _replace_disk(self, server: Server) -> None:
        old = server.volume
        assert old is not None
        server.power_cut(None)
        self._world.note(f"{server.name} gets an empty disk")
        self._world.gone.add(old)
        if self._world.ledger.restored_unnoticed:
            self._world.ledger.look_at_uids(forget=True)  # it may be the one that would have noticed
        server.new_volume()

    def _quiet(self) -> None:
        """What was broken by circumstances is well again, and every server that has power runs."""
        world = self._world
        network, database = world.network, world.database
        network.cut.clear()
        network.loss = network.twice = database.loss = database.slow = 0.0
        database.up, database.silent = True, False
        for server in world.servers.values():
            for process in server.processes.values():
                process.disk.fuse = process.disk.failing = None
                if process.stopped:
                    server.kill(process.kind)
            if world.table.server(server.name) is not None:
                server.power_on()
                server.start()
        for _ in range(6):
            world.run(0.5)
            if all(s.writer and s.agent and s.agent.link.state for s in world.servers.values() if s.power):
                return

    # -- stories -----------------------------------------------------------------------------------------
    def stopped_writer(self) -> None:
        """A writer is stopped for longer than T, and goes on. Who fenced its segment may die the moment it said so; or
        none of its mirrors can be reached while it sleeps, but its own sidecar can."""
        self._quiet()
        server = self._server()
        self._deliver(server)
        seconds = self._dice.choice((3.5, 4.5, 6.0))
        self._then(0.1, lambda: server.stop("writer", seconds))
        if self._dice.random() < 0.5:
            self._cut_from_servers(server, seconds)
        else:
            self._then(0.15, lambda: self._die_after_a_fence(server))
        for wait in (0.15, 0.3, 0.8):
            self._then(seconds + wait, lambda: self._deliver(server))
        self._world.run(seconds + 1.0)

    def _die_after_a_fence(self, writer: Server) -> None:
        segment = None if writer.writer is None else writer.writer.segment
        if segment is None:
            return
        id, delay = segment.header.segment, self._dice.choice((0.0, 0.0, 0.002))

        def fenced(volume: Any, fenced: Any) -> None:
            server = next((s for s in self._world.servers.values() if s.volume == volume), None)
            if fenced == id and server is not None and server is not writer:
                self._world.ledger.after_fence.clear()
                self._then(delay, lambda: server.power_cut(0.1))

        self._world.ledger.after_fence[:] = [fenced]
        self._then(8.0, self._world.ledger.after_fence.clear)

    def late_first_batch(self) -> None:
        """The first batch of a segment takes seconds to a mirror; its writer dies, and the segment is sealed."""
        self._quiet()
        server = self._server()
        if server.writer is None:
            return
        late = self._world.network.late
        self._begin_segment(server)
        late[server.name] = self._dice.choice((2.5, 3.5, 4.5))
        self._deliver(server)
        self._then(0.1, lambda: self._deliver(server))
        self._later(0.15, lambda: late.pop(server.name, None))
        self._then(self._dice.choice((0.1, 0.3)), lambda: server.kill("writer"))
        self._world.run(5.0)

    def away_together(self) -> None:
        """Servers drain until their segments are elsewhere, and serve again: there are copies too many."""
        world = self._world
        self._quiet()
        serving = [server.name for server in world.table.servers if server.serving]
        count = min(self._dice.choice((1, 2)), len(serving) - world.copies)
        if count < 1:
            return
        names = self._dice.sample(serving, count)
        for _ in range(4):
            self._deliver(self._server())
        world.run(0.5)
        world.change_table(dict.fromkeys(names, DRAINING))
        world.run(self._dice.choice((6.0, 9.0)))
        for name in names:
            self._then(0.0, lambda name=name: world.change_table({name: SERVING}))  # type: ignore[misc]
            world.run(self._dice.choice((0.5, 4.0)))

    def repeated_put(self) -> None:
        """Answers to PUTs are lost and the PUTs come again, at a mirror whose disk fails."""
        network = self._world.network
        before = network.loss, network.twice
        network.loss, network.twice = 0.3, 0.7
        process = self._server().processes.get("sidecar")
        if process is not None:
            process.disk.failing = "sync"
        for wait in (0.0, 0.1, 0.2):
            self._then(wait, lambda: self._deliver(self._server()))

        def again() -> None:
            network.loss, network.twice = (0.0, 0.0) if self.over else before

        self._later(0.5, again)

    def sealed_twice(self) -> None:
        """A lone tail; the catalog is restored to before, and the writer's server seals without the mirror."""
        self._lone_tail(self._seal_again)

    def lost_tail(self) -> None:
        """A lone tail, whose disk is replaced."""
        self._lone_tail(self._lose_tail)

    def late_registration(self) -> None:
        """A lone tail, whose volume is declared lost while its server registers that mail."""
        self._lone_tail(self._register_late)

    def _lone_tail(self, act: Callable[[Server, Server, bytes, list[bytes]], None]) -> None:
        """The last batch of a segment is on one mirror only: its writer lost power while writing it, and nobody was
        told 250. The mirror seals the segment."""
        world = self._world
        self._quiet()
        server = self._server()
        self._deliver(server)
        snapshots: list[bytes] = []
        begun: list[float] = []

        def tail() -> None:
            segment = None if server.writer is None else server.writer.segment
            process = server.processes.get("writer")
            if segment is None or process is None or not process.alive or segment.failed or not segment.acknowledged:
                return
            mirror = next((s for s in world.servers.values() if s.volume == segment.header.members[-1]), None)
            if mirror is None:
                return
            begun.append(world.loop.now)
            snapshots.append(world.database.snapshot())
            process.disk.fuse, process.disk.on_fuse = 0, lambda: server.power_cut(None)
            self._deliver(server)
            act(server, mirror, segment.header.segment, snapshots)
            self._later(12.0, server.power_on)

        self._then(0.4, tail)
        world.run(0.5)
        if begun:
            world.run(12.0)

    def _when_sealed(self, server: Server, segment: bytes, work: Callable[[], None]) -> None:
        """As soon as that server's proposal is in the catalog."""
        hooks, key = self._world.database.after_seal, (server.name, segment)
        hooks[key] = lambda: self._then(0.0, work)
        self._later(8.0, lambda: hooks.pop(key, None))

    def _seal_again(self, server: Server, mirror: Server, segment: bytes, snapshots: list[bytes]) -> None:
        def restore() -> None:
            self._put_back(snapshots[-1])
            mirror.power_cut(6.0)
            server.power_on()

        self._when_sealed(mirror, segment, lambda: self._then(0.5, restore))

    def _lose_tail(self, server: Server, mirror: Server, segment: bytes, _: list[bytes]) -> None:
        def lose() -> None:
            volume = mirror.volume
            if volume is not None and volume not in self._world.gone and self._world.ledger.may_lose(volume, told=True):
                self._replace_disk(mirror)
                self._later(0.1, mirror.power_on)
            self._later(0.2, server.power_on)

        self._when_sealed(mirror, segment, lambda: self._then(self._dice.choice((0.5, 1.5)), lose))

    def _register_late(self, server: Server, mirror: Server, segment: bytes, _: list[bytes]) -> None:
        world = self._world

        def late() -> None:
            volume = mirror.volume
            world.database.lag[mirror.name] = 5.0
            self._later(6.0, lambda: world.database.lag.pop(mirror.name, None))
            self._cut_from_servers(mirror, 7.0)
            if volume is not None and volume not in world.gone and world.ledger.may_lose(volume, told=True):
                world.note(f"the volume of {mirror.name} is declared lost")
                world.gone.add(volume)
                world.database.transact(lambda c: volumes.mark_lost(c, volume))
            server.power_on()

        self._when_sealed(mirror, segment, late)

    def _put_back(self, snapshot: bytes) -> None:
        """The catalog as it was."""
        self._look_at_uids()
        self._world.ledger.catalog_replaced()
        self._world.database.restore(snapshot)

    def _look_at_uids(self) -> None:
        raise NotImplementedError


STORIES = {
    "stopped_writer": 0.05,
    "late_first_batch": 0.05,
    "away_together": 0.05,
    "repeated_put": 0.5,
    "sealed_twice": 0.03,
    "lost_tail": 0.03,
    "late_registration": 0.03,
}

"""Stories of compaction: segments are worn on purpose, and trouble comes while what lives of them is written anew."""

from __future__ import annotations

from tests.simulation.ledger import MAILBOXES
from tests.simulation.servers import Server
from tests.simulation.stories import Stories


class WearStories(Stories):
    """See the module. Every method that does not begin with `_` is one."""

    def _look_for_worn(self) -> None:
        for server in self._world.servers.values():
            if server.agent is not None:
                server.processes["sidecar"].context.run(server.agent.compactor.wake.set)

    def _wear(self) -> None:
        """Most of what is there is deleted, but nothing that stands in two segments."""
        clients = self._world.clients
        twice = {bytes(id) for (id,) in self._world.database.raw.execute("SELECT message FROM locations")}
        for mailbox in MAILBOXES:
            clients.in_background(clients.read(mailbox, 20, twice))

    def wiped_holder(self) -> None:
        """A volume told the catalog that it holds a compacted segment, and dies before the inputs are given up."""
        world = self._world
        self._quiet()
        server = self._server()
        for _ in range(4):
            self._deliver(server)
        self._then(0.3, lambda: self._begin_segment(server))
        self._then(0.4, lambda: self._deliver(server))

        def copied(machine: str, segment: bytes) -> None:
            agents = [s.agent for s in world.servers.values() if s.agent is not None]
            holdings = [agent.shelf.holdings.get(segment) for agent in agents]  # type: ignore[call-overload]
            holder = world.servers.get(machine)
            if holder is not None and any(h is not None and h.supersedes for h in holdings):
                world.database.after_copy.clear()
                self._then(0.0, lambda: die(holder))

        def die(holder: Server) -> None:
            volume = holder.volume
            if volume is not None and volume not in world.gone and world.ledger.may_lose(volume):
                self._replace_disk(holder)
                self._later(6.0, holder.power_on)

        world.database.after_copy[:] = [copied]
        self._then(10.0, world.database.after_copy.clear)
        self._then(2.5, self._wear)
        for wait in (3.0, 4.5):
            self._then(wait, self._look_for_worn)
        world.run(10.0)

    def worn_twice(self) -> None:
        """The batch in flight stands in two segments of one server, and what is beside it in both is deleted."""
        world = self._world
        self._quiet()
        server = self._server()
        for _ in range(2):
            self._deliver(server)

        def in_flight() -> None:
            segment = None if server.writer is None else server.writer.segment
            if segment is None:
                return
            mirror = next((s for s in world.servers.values() if s.volume == segment.header.members[-1]), None)
            if mirror is not None and mirror is not server:
                self._cut([frozenset((server.name, mirror.name))], 2.0)
                self._deliver(server)

        self._then(0.3, in_flight)
        for _ in range(2):
            self._then(2.0, lambda: self._deliver(server))
        self._then(2.2, lambda: self._begin_segment(server))
        self._then(2.3, lambda: self._deliver(server))
        self._then(5.0, self._wear)
        for wait in (5.5, 7.5):
            self._then(wait, self._look_for_worn)
        world.run(9.0)


WEAR = {
    "wiped_holder": 0.03,
    "worn_twice": 0.03,
}

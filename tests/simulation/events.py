"""What may happen to a world, and how one run goes: trouble, then healing, then the checks.

Each seed has weights of its own, so that one run is nearly all power cuts, the next one all restored catalogs. Nothing
here harms the last good copy of anything: `Ledger.may_lose` is asked before a volume goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mailarray.catalog import replicas, volumes
from mailarray.contract.mirroring_table import DRAINING, SERVING
from mailarray.tracking.rebuild import rebuild
from mailarray.tracking.targets import counting
from tests.simulation.ledger import MAILBOXES
from tests.simulation.loop import NOBODY
from tests.simulation.servers import RESERVE, ROOM, Server
from tests.simulation.stories import STORIES
from tests.simulation.stories_of_wear import WEAR, WearStories
from tests.support.array_of_three import agent_at_work

if TYPE_CHECKING:
    from tests.simulation.world import World

GAP = 0.04  # seconds between two events, typical
HOT = 12  # weight of an event that a planted bug waits for
CALM_SECONDS = 120.0  # of virtual time, until which all must be at rest after all is healed


class Trouble(WearStories):
    """The events of one run. Every method that does not begin with `_` is one."""

    def __init__(self, world: World, hot: tuple[str, ...]) -> None:
        self._world = world
        self._dice = world.dice
        self._snapshots: list[bytes] = []
        weights = {name: weight for name, weight in WEIGHTS.items() if name in STEADY or self._dice.random() < 0.55}
        weights |= {name: 1.5 if (STORIES | WEAR).get(name, 1.0) < 0.1 else max(HOT, WEIGHTS[name]) for name in hot}
        self._names = list(weights)
        self._weights = list(weights.values())

    def one(self) -> None:
        """Whatever comes next."""
        name = self._dice.choices(self._names, self._weights)[0]
        self._world.note(name)
        event: Callable[[], None] = getattr(self, name)
        event()

    # -- mail ------------------------------------------------------------------------------------------
    def deliver(self) -> None:
        for _ in range(self._dice.choice((1, 1, 2, 4))):
            self._world.clients.deliver(self._server())

    def deliver_through_two(self) -> None:
        self._world.clients.deliver(*self._dice.sample(list(self._world.servers.values()), 2))

    def read(self) -> None:
        clients = self._world.clients
        clients.in_background(clients.read(self._dice.choice(MAILBOXES), 0))

    def expunge(self) -> None:
        clients = self._world.clients
        clients.in_background(clients.read(self._dice.choice(MAILBOXES), self._dice.choice((1, 2, 5))))

    def compact(self) -> None:
        """Mail is deleted, and after a moment every sidecar looks for segments that are worn."""
        if self._dice.random() < 0.5:
            self.roll_over()
        self.expunge()
        for seconds in (self._dice.choice((0.05, 0.5)), self._dice.choice((1.0, 2.5))):
            self._later(seconds, self._look_for_worn)

    # -- processes and machines ------------------------------------------------------------------------
    def kill(self) -> None:
        self._server().kill(self._dice.choice(("writer", "sidecar")))

    def kill_both(self) -> None:
        server = self._server()
        server.kill("writer")
        server.kill("sidecar")

    def power_cut(self) -> None:
        self._server().power_cut(self._dice.choice((0.1, 1.0, 4.0)))

    def power_cut_of_all(self) -> None:
        for server in self._world.servers.values():
            server.power_cut(self._dice.choice((0.1, 1.0, 4.0)))

    def die_in_a_step(self) -> None:
        steps = self._dice.choice((0, 1, 2, 3, 5, 8, 13))
        self._server().arm(self._dice.choice(("writer", "sidecar")), steps, self._dice.random() < 0.5)

    def stop(self) -> None:
        self._server().stop(self._dice.choice(("writer", "sidecar")), self._dice.choice((0.3, 1.5, 5.0)))

    def terminate(self) -> None:
        self._server().terminate(self._dice.choice(("writer", "sidecar")))

    def roll_over(self) -> None:
        self._begin_segment(self._server())

    def jump_clock(self) -> None:
        self._server().skew = self._dice.choice((0, 3600, -3600, -5)) * 1_000_000_000

    # -- disks -----------------------------------------------------------------------------------------
    def fail_disk(self) -> None:
        process = self._server().processes.get(self._dice.choice(("writer", "sidecar")))
        if process is not None:
            process.disk.failing = self._dice.choice(("write", "sync"))

    def fill_disk(self) -> None:
        server = self._server()
        server.room = self._dice.choice((0, RESERVE // 3, RESERVE - 1))
        self._later(self._dice.choice((1.0, 4.0)), lambda: setattr(server, "room", ROOM))

    def wipe(self) -> None:
        """An empty disk in the place of one that is not needed."""
        server = self._server()
        old = server.volume
        if old is None or not self._world.ledger.may_lose(old, told=self._dice.random() < 0.3):
            return
        self._replace_disk(server)
        self._later(self._dice.choice((0.1, 2.0)), server.power_on)

    def lose(self) -> None:
        """A server is cut off, somebody declares its volume lost, and it comes back with it."""
        world = self._world
        server = self._server()
        volume = server.volume
        in_use = [s for s in world.servers.values() if s.volume is not None and s.volume not in world.gone]
        if volume is None or volume in world.gone or len(in_use) <= world.copies:
            return
        seconds = self._dice.choice((1.0, 3.0, 6.0))
        if self._dice.random() < 0.5:
            server.power_cut(seconds)
        else:
            self._cut_off(server.name, seconds)

        def declare() -> None:
            if not self.over and world.ledger.may_lose(volume) and world.database.up:
                world.note(f"the volume of {server.name} is declared lost")
                world.gone.add(volume)
                world.database.transact(lambda c: volumes.mark_lost(c, volume))

        self._later(self._dice.random() * seconds, declare)

    # -- network ---------------------------------------------------------------------------------------
    def _cut_off(self, name: str, seconds: float) -> None:
        others = [*self._world.servers, "database", "access"]
        self._cut([frozenset((name, other)) for other in others if other != name], seconds)

    def cut_off(self) -> None:
        self._cut_off(self._server().name, self._dice.choice((0.5, 3.0, 8.0)))

    def partition(self) -> None:
        names = [*self._world.servers, "access"]
        self._cut([frozenset(self._dice.sample(names, 2))], self._dice.choice((0.5, 3.0, 8.0)))

    def cut_from_database(self) -> None:
        name = self._dice.choice([*self._world.servers, "access"])
        self._cut([frozenset((name, "database"))], self._dice.choice((0.5, 4.0)))

    def bad_network(self) -> None:
        network = self._world.network
        network.loss = self._dice.choice((0.0, 0.02, 0.1))
        network.twice = self._dice.choice((0.0, 0.05, 0.3))

    # -- catalog ---------------------------------------------------------------------------------------
    def catalog_away(self) -> None:
        database = self._world.database
        database.up = False
        database.silent = self._dice.random() < 0.3
        self._later(self._dice.choice((0.5, 3.0, 8.0)), lambda: setattr(database, "up", True))

    def catalog_bad(self) -> None:
        database = self._world.database
        database.loss = self._dice.choice((0.0, 0.02, 0.1))
        database.slow = self._dice.choice((0.0, 0.0, 0.02, 0.3))

    def snapshot(self) -> None:
        self._snapshots.append(self._world.database.snapshot())

    def restore(self) -> None:
        if self._snapshots:
            self._put_back(self._dice.choice(self._snapshots))

    def _look_at_uids(self) -> None:
        """Sidecars notice by what they remember, and that is saved once a second."""
        world = self._world
        processes = [server.processes.get("sidecar") for server in world.servers.values()]
        there = [
            process is not None
            and process.alive
            and not process.stopped
            and process.agent is not None
            and process.agent.memory.epoch > 0
            and process.disk.fuse is None
            and world.network.reaches(process.machine, "database")
            for process in processes
        ]
        world.ledger.look_at_uids(forget=not all(there) or not self._remembered())

    def _remembered(self) -> bool:
        """Of every volume, somebody remembers durably how often it registered: fewer are noticed."""
        raw = self._world.database.raw
        epoch = raw.execute("SELECT epoch FROM state").fetchone()[0]
        agents = [server.agent for server in self._world.servers.values() if server.agent is not None]
        saved = [(agent.volume.id, *agent.memory._saved) for agent in agents]
        for volume, counter in raw.execute("SELECT id, counter FROM volumes").fetchall():
            known = [
                own if volume == id else counters.get(volume, 0)
                for id, told_in, own, counters, *_ in saved
                if told_in == epoch
            ]
            if counter > max(known, default=0):
                return False
        return True

    def drop_catalog(self) -> None:
        """Made again from the volumes that can be read, while everything runs."""
        world = self._world
        if not world.database.up:
            return
        self._look_at_uids()
        world.ledger.catalog_replaced()
        there = [(s.name, s.path) for s in world.servers.values() if s.power and s.agent is not None]
        if self._dice.random() < 0.5:
            world.database.transact(volumes.reset)
            return

        async def again() -> None:
            await rebuild(world.database.catalog("access"), there, lambda *_: None)

        world.loop.create_task(again(), context=NOBODY)

    # -- who takes part --------------------------------------------------------------------------------
    def change_table(self) -> None:
        world = self._world
        listed = {server.name: server.state for server in world.table.servers}
        absent = [name for name in world.servers if name not in listed]
        draining = [name for name, state in listed.items() if state == DRAINING]
        if absent:
            world.change_table({absent[0]: SERVING})
            world.servers[absent[0]].start()
        elif draining:
            world.change_table({draining[0]: SERVING})
        elif len(listed) > world.copies:
            world.change_table({self._dice.choice(list(listed)): DRAINING})

    def wait(self) -> None:
        self._world.run(self._dice.choice((0.5, 1.5)))


STEADY = {"deliver", "read", "expunge", "compact"}
WEIGHTS: dict[str, float] = {
    "deliver": 50,
    "deliver_through_two": 4,
    "read": 5,
    "expunge": 6,
    "compact": 6,
    "kill": 5,
    "kill_both": 2,
    "power_cut": 4,
    "power_cut_of_all": 2,
    "die_in_a_step": 7,
    "stop": 3,
    "terminate": 2,
    "roll_over": 3,
    "jump_clock": 1,
    "fail_disk": 4,
    "fill_disk": 1,
    "wipe": 2,
    "lose": 2,
    "cut_off": 3,
    "partition": 4,
    "cut_from_database": 3,
    "bad_network": 2,
    "catalog_away": 4,
    "catalog_bad": 2,
    "snapshot": 3,
    "restore": 2,
    "drop_catalog": 1,
    "change_table": 2,
    "wait": 3,
    **STORIES,
    **WEAR,
}


def play(world: World, events: int, hot: tuple[str, ...] = ()) -> None:
    """One run, from an empty array to the checks. `hot` names events that are to be likely."""
    world.clients.start()
    for name, server in world.servers.items():
        if name != world.latecomer:
            server.start()
    world.run(1.0)
    trouble = Trouble(world, hot)
    for _ in range(events):
        if world.findings:
            return
        trouble.one()
        world.run(world.dice.expovariate(1 / GAP))
    trouble.over = True
    _heal(world)
    if not world.findings:
        _until_calm(world)
    if not world.findings:
        world.calm = True
        world.run(1.0)  # what was very slow before arrives
        world.loop.create_task(_check(world), context=world.clients.process.context)
        done: list[bool] = []
        world.checked = lambda: done.append(True)  # type: ignore[attr-defined]
        world.loop.run_until(world.loop.now + 30.0, lambda: bool(done))
        if not done:
            world.broken("the checks do not end")


async def _check(world: World) -> None:
    try:
        await world.ledger.check()
    finally:
        world.checked()  # type: ignore[attr-defined]


def _heal(world: World) -> None:
    world.note("healing")
    network, database = world.network, world.database
    network.cut.clear()
    network.late.clear()
    database.lag.clear()
    database.after_seal.clear()
    database.after_copy.clear()
    world.ledger.after_fence.clear()
    network.loss = network.twice = 0.0
    database.up, database.silent, database.loss, database.slow = True, False, 0.0, 0.0
    for server in world.servers.values():
        server.room = ROOM
        server.skew = 0
        server.restart_at_once = True
        for process in server.processes.values():
            process.disk.fuse = process.disk.failing = None
        server.power_on()
        server.start()
    for volume in world.gone:  # what a person had said to a catalog that was restored since, is said again
        database.transact(lambda c, v=volume: volumes.mark_lost(c, v))  # type: ignore[misc]
    states = {server.name: SERVING for server in world.table.servers if server.state != SERVING}
    states |= {name: SERVING for name in world.servers if world.table.server(name) is None}
    world.change_table(states)
    for server in world.servers.values():
        if server.volume is not None and server.volume in world.gone:
            _replace(world, server)
    for _ in range(3):
        for server in world.servers.values():
            world.clients.deliver(server)
        world.run(0.4)


def _replace(world: World, server: Server) -> None:
    """A volume that was declared lost and came back goes, when nothing is on it alone."""
    volume = server.volume
    assert volume is not None
    server.leave_writer()
    deadline = world.loop.now + CALM_SECONDS
    while not world.ledger.may_lose(volume, told=True):
        if world.loop.now > deadline:
            world.broken(f"what lies on the lost volume of {server.name} is not brought to others")
            return
        world.run(0.5)
    server.power_cut(None)
    server.new_volume()
    server.kinds = ["sidecar", "writer"]
    server.power_on()


def _until_calm(world: World) -> None:
    world.note("waiting for calm")
    for server in world.servers.values():
        server.leave_writer()
    deadline = world.loop.now + CALM_SECONDS
    while rest := _at_work(world):
        if world.findings:
            return
        if world.loop.now > deadline:
            world.broken("not at rest: " + "; ".join(rest))
            return
        world.run(0.5)


def _at_work(world: World) -> list[str]:
    """What is not at rest, in words."""
    rest = []
    for name, server in world.servers.items():
        agent = server.agent
        rest += agent_at_work(name, agent)
        if agent is None or agent.link.state is None:
            continue
        if server.writer is not None:
            rest.append(f"{name} has a writer")
        surplus = agent.returner.status()
        if surplus["segments"] and not surplus["problem"]:  # a holder whose disk failed it does not say that it stays
            rest.append(f"{name} has {surplus['segments']} copies too many")
        if agent.memory.lost - agent.memory.repaired:
            rest.append(f"{name} misses something of a lost volume")
    if rest:
        return rest
    database = world.database
    # A superseded one that a restored catalog has unsealed may be on no volume any more: nobody asks for its length.
    unsealed = "SELECT id FROM segments WHERE sealed_length IS NULL AND superseded_by IS NULL"
    for (id,) in database.raw.execute(unsealed):
        rest.append(f"segment {id.hex()} is not sealed")
    rows = database.transact(volumes.volumes)
    counted = counting(world.table, rows)
    short = replicas.short_segments(database.connection, counted).short
    rest += [f"segment {s.facts.id.hex()} is on {len(s.holders)} volumes" for s in short]
    return rest

"""Every kind of fault: what it needs, what it harms, how it begins and ends.

A fault with `harms` destroys bytes that were durable; the campaign does one such at a time, and only when all of the
victim's bytes are whole elsewhere (safety.py). All others may come together, one on a server at a time: nothing that
a sync has promised is touched by them. Called by `campaign.py` alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import random
import shutil
import signal
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from tests.faults.network import both_ways
from tests.faults.safety import Flipped, segments
from tests.faults.schedule import Planned
from tests.faults.stage import ACCESS, DATABASE, DISKS, LIBRARY, NETWORK, POSTGRESQL, ROLES, SCRUBBER, Stage
from tests.support.pushed_states import push

SLOWEST_SYNC = 0.4  # seconds that a slow disk adds to each sync
DAYS = 30  # that a clock jumps, at most
DRAIN_SECONDS = 240.0  # bound for a busy machine
MOST_LEFT = 200_000  # bytes that a full disk may still have


class Fault(ABC):
    """One fault. `begin`, then so many seconds, then `end`; `end` is called whatever became of `begin`."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    harms: ClassVar[bool] = False
    lasts: ClassVar[bool] = True  # False: it is over when it has begun

    def __init__(self, stage: Stage, planned: Planned, flipped: list[Flipped]) -> None:
        self.stage = stage
        self.seconds = planned.seconds
        self.dice = random.Random(planned.seed)
        self.index = planned.victim
        self.server = stage.names[planned.victim]
        self.other = stage.names[planned.other]
        self.flipped = flipped

    @property
    def touches(self) -> frozenset[str]:
        """Servers, or the database, that no other fault may be done to meanwhile."""
        return frozenset({self.server})

    @abstractmethod
    async def begin(self) -> str:
        """Do it; answers what was done, for the trace."""

    async def end(self) -> None:  # noqa: B027  # most do nothing
        """Take it back."""


class Kill(Fault):
    name = "kill"
    lasts = False

    async def begin(self) -> str:
        process = self.dice.choice([*self.stage.processes(self.server), ACCESS])
        return f"{process}{'' if self.stage.kill(process) else ', which was dead'}"


class KillPair(Fault):
    name = "kill-pair"
    lasts = False

    async def begin(self) -> str:
        for process in self.stage.processes(self.server):
            self.stage.kill(process)
        return self.server


class KillSeveral(Fault):
    """All processes of two servers, or of all and the access server; they stay away for a while."""

    name = "kill-several"
    needs = frozenset({LIBRARY})

    def __init__(self, stage: Stage, planned: Planned, flipped: list[Flipped]) -> None:
        super().__init__(stage, planned, flipped)
        self._victims = [self.server, self.other] if self.dice.random() < 0.6 else list(stage.names)
        self._stack = contextlib.AsyncExitStack()

    @property
    def touches(self) -> frozenset[str]:
        return frozenset(self._victims)

    async def begin(self) -> str:
        await asyncio.gather(*(self._stack.enter_async_context(self.stage.down(name)) for name in self._victims))
        return ", ".join(self._victims)

    async def end(self) -> None:
        await self._stack.aclose()


class Stop(Fault):
    """SIGSTOP for one process, or both of a server; SIGCONT later."""

    name = "stop"
    _pids: Sequence[int] = ()

    async def begin(self) -> str:
        own = self.stage.processes(self.server)
        names = self.dice.choice([own[:1], own[1:], own, [ACCESS]])
        running = self.stage.array.processes()
        self._pids = [running[name] for name in names if name in running]
        self._signal(signal.SIGSTOP)
        return ", ".join(names)

    async def end(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


class PowerCut(Fault):
    """Of one server: its disk stops in the middle of what it does, its processes die, and all starts again."""

    name = "power-cut"
    needs = frozenset({DISKS, LIBRARY})

    def __init__(self, stage: Stage, planned: Planned, flipped: list[Flipped]) -> None:
        super().__init__(stage, planned, flipped)
        self.victims = [self.index]
        self._stack = contextlib.AsyncExitStack()

    @property
    def touches(self) -> frozenset[str]:
        return frozenset(self.stage.names[index] for index in self.victims)

    async def begin(self) -> str:
        for index in self.victims:
            self.stage.disks[index].power_off()
        names = [self.stage.names[index] for index in self.victims]
        await asyncio.gather(*(self._stack.enter_async_context(self.stage.down(name)) for name in names))
        for index in self.victims:
            await asyncio.to_thread(self.stage.disks[index].power_on)
        return ", ".join(names)

    async def end(self) -> None:
        await self._stack.aclose()


class Blackout(PowerCut):
    """Of all servers at once."""

    name = "blackout"

    def __init__(self, stage: Stage, planned: Planned, flipped: list[Flipped]) -> None:
        super().__init__(stage, planned, flipped)
        self.victims = list(range(len(stage.names)))
        self.seconds /= 4


class DeadDisk(PowerCut):
    """Every call of a volume fails with EIO for a while; then the server gets its disk back as a power cut left it."""

    name = "dead-disk"

    async def begin(self) -> str:
        self.stage.disks[self.index].power_off()
        return self.server

    async def end(self) -> None:
        await super().begin()
        await super().end()


class Partition(Fault):
    """Two of the servers, the access server and the database do not reach each other; or one server reaches nobody."""

    name = "partition"
    needs = frozenset({NETWORK})
    _pairs: Sequence[tuple[str, str]] = ()

    async def begin(self) -> str:
        everybody = [*self.stage.names, ACCESS, *([DATABASE] if self.stage.database else [])]
        others = [name for name in everybody if name != self.server]
        whom = others if self.dice.random() < 0.4 else [self.dice.choice(others)]
        pairs = both_ways(self.server, whom)
        one_way = self.dice.random() < 0.2
        self._pairs = pairs[::2] if one_way else pairs
        self.stage.network.cut(*self._pairs)
        return f"{self.server} {'does not reach' if one_way else '|'} {', '.join(whom)}"

    async def end(self) -> None:
        self.stage.network.mend(*self._pairs)


class SlowDisk(Fault):
    name = "slow-disk"
    needs = frozenset({LIBRARY})

    async def begin(self) -> str:
        delay = self.dice.uniform(0.02, SLOWEST_SYNC)
        for role in ROLES:
            self.stage.control.set(f"{self.server}/{role}", sync_delay=int(delay * 1e6))
        return f"{self.server}, {delay:.2f} s more for each sync"

    async def end(self) -> None:
        for role in ROLES:
            self.stage.control.set(f"{self.server}/{role}", sync_delay=0)


class FullDisk(Fault):
    name = "full-disk"
    needs = frozenset({DISKS})

    async def begin(self) -> str:
        left = self.dice.choice((0, self.dice.randrange(MOST_LEFT)))
        await asyncio.to_thread(self.stage.disks[self.index].fill, left)
        return f"{self.server}, {left} bytes left"

    async def end(self) -> None:
        self.stage.disks[self.index].empty()


class IoError(Fault):
    """Writes or syncs of one process fail with EIO or ENOSPC."""

    name = "io-error"
    needs = frozenset({LIBRARY})
    _process = ""

    async def begin(self) -> str:
        self._process = f"{self.server}/{self.dice.choice(ROLES)}"
        call = self.dice.choice(("write_error", "sync_error"))
        number = self.dice.choice((errno.EIO, errno.ENOSPC))
        self.stage.control.set(self._process, **{call: number})
        return f"{self._process}, {call} {errno.errorcode[number]}"

    async def end(self) -> None:
        if self._process:
            self.stage.control.set(self._process, write_error=0, sync_error=0)


class TornWrite(Fault):
    """A process dies in the middle of a write to a segment, of which half arrives."""

    name = "torn-write"
    needs = frozenset({LIBRARY})
    _process = ""

    async def begin(self) -> str:
        self._process = f"{self.server}/{self.dice.choice(ROLES)}"
        self.stage.control.set(self._process, torn=1)
        return self._process

    async def end(self) -> None:
        if self._process:
            self.stage.control.set(self._process, torn=0)


class ClockJump(Fault):
    name = "clock-jump"
    needs = frozenset({LIBRARY})
    _process = ""

    async def begin(self) -> str:
        self._process = self.dice.choice([f"{self.server}/{role}" for role in ROLES] + ["access/access"])
        seconds = self.dice.choice((-1, 1)) * self.dice.choice((2, 90, 7200, self.dice.randrange(86_400 * DAYS)))
        self.stage.control.set(self._process, clock_offset=seconds * 10**9)
        return f"{self._process}, {seconds:+d} s"

    async def end(self) -> None:
        if self._process:
            self.stage.control.set(self._process, clock_offset=0)


class DatabaseKilled(Fault):
    name = "database-killed"
    needs = frozenset({POSTGRESQL})

    @property
    def touches(self) -> frozenset[str]:
        return frozenset({DATABASE})

    async def begin(self) -> str:
        assert self.stage.database is not None
        await asyncio.to_thread(self.stage.database.kill)
        return "its postmaster"

    async def end(self) -> None:
        assert self.stage.database is not None
        await asyncio.to_thread(self.stage.database.start_again)


class DatabaseRestored(DatabaseKilled):
    """The database comes back as it was at an earlier time; a backup of now is kept for the next one."""

    name = "database-restored"

    async def begin(self) -> str:
        stage = self.stage
        assert stage.database is not None
        backup = self.dice.choice(stage.backups[-3:])
        await asyncio.to_thread(stage.back_up_database)
        await asyncio.to_thread(stage.database.kill)
        await asyncio.to_thread(stage.database.restore, backup)
        return f"as of {backup}"


class FlippedByte(Fault):
    """One bit of a segment is wrong; servers are asked to read all through, and mend it from another replica."""

    name = "flipped-byte"
    needs = frozenset({SCRUBBER})
    harms = True
    lasts = False

    async def begin(self) -> str:
        volume = self.stage.array.volume(self.index)
        found = [(volume / "segments" / f"{s}.segment", length) for s, length in sorted(segments(volume)) if length]
        path, length = self.dice.choice([one for one in found if _is_sealed(one[0])] or found)
        offset = self.dice.randrange(length)
        with path.open("r+b") as file:
            file.seek(offset)
            good = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([good ^ (1 << self.dice.randrange(8))]))
            file.flush()
            os.fsync(file.fileno())
        self.flipped.append(Flipped(path, offset, good))
        await asyncio.to_thread(self.stage.scrub)
        return f"{self.server}, byte {offset} of {length} of {path.stem}"


class WipedVolume(Fault):
    name = "wiped-volume"
    needs = frozenset({LIBRARY})
    harms = True
    lasts = False

    async def begin(self) -> str:
        async with self.stage.down(self.server):
            await asyncio.to_thread(_wipe, self.stage.array.volume(self.index))
        return self.server


class RemovedServer(Fault):
    """A server is drained and taken away; later it is added again, with an empty disk."""

    name = "removed-server"
    needs = frozenset({LIBRARY})
    harms = True

    def __init__(self, stage: Stage, planned: Planned, flipped: list[Flipped]) -> None:
        super().__init__(stage, planned, flipped)
        self._stack = contextlib.AsyncExitStack()

    async def begin(self) -> str:
        end = asyncio.get_running_loop().time() + DRAIN_SECONDS
        began = asyncio.get_running_loop().time()
        while True:
            # Again and again, for those that were away, as the operator does.
            await asyncio.to_thread(self._say, "Draining")
            for _ in range(10):
                report = await asyncio.to_thread(self.stage.array.ask, f"{self.server}/sidecar")
                if report and (report["drain"] or {}).get("done"):
                    drained = asyncio.get_running_loop().time() - began
                    await self._stack.enter_async_context(self.stage.down(self.server))
                    await asyncio.to_thread(_wipe, self.stage.array.volume(self.index))
                    return f"{self.server}, drained in {drained:.1f} s"
                if asyncio.get_running_loop().time() > end:
                    raise AssertionError(f"{self.server} is not drained: {report and report['drain']}")
                await asyncio.sleep(0.5)

    async def end(self) -> None:
        await asyncio.to_thread(self._say, "Serving")
        await self._stack.aclose()

    def _say(self, state: str) -> None:
        push(self.stage.array, patient=True, **{self.server.replace("-", "_"): state})


KINDS: dict[str, type[Fault]] = {
    kind.name: kind
    for kind in (
        Kill, KillPair, KillSeveral, Stop, PowerCut, Blackout, DeadDisk, Partition, SlowDisk, FullDisk, IoError,
        TornWrite, ClockJump, DatabaseKilled, DatabaseRestored, FlippedByte, WipedVolume, RemovedServer,
    )
}  # fmt: skip


def _is_sealed(segment: Path) -> bool:
    fence = segment.with_suffix(".fence")
    return fence.exists() and json.loads(fence.read_text())["sealed_length"] is not None


def _wipe(volume: Path) -> None:
    for entry in volume.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

"""ENOSPC and EIO at every write that there is, one after another: what was acknowledged is there afterwards, once.

Each named call of a server's disk (tests/support/failing_disk.py) fails, once or for as long as the server runs, while
all servers are under load and are killed and started again. FAILING_DISK=all tries all four of each.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
from pathlib import Path

import pytest

from tests.faults.test_power_cut import Fleet, Ledger
from tests.support.array_of_three import Array, fast_clocks
from tests.support.failing_disk import FailingDisk

ROUNDS = 120  # at most; names are found on the way


class FailingFleet(Fleet):
    """An array whose disks fail."""

    def __init__(self, root: Path, seed: int) -> None:
        self.dice = random.Random(seed)
        self.failing = [FailingDisk() for _ in range(3)]
        self.array = Array(root, list(self.failing))
        self.ledger = Ledger()
        self._number = 0

    async def round(self, index: int) -> None:
        """Work everywhere; then the server is killed and starts again on what its disk has become."""
        await asyncio.gather(*(self.load(i, 2) for i in range(3)))
        await self.array.servers[index].kill_writer()
        await self.load((index + 1) % 3, 1)  # somebody else seals what the dead one wrote
        disk = self.failing[index]
        for _ in range(40):
            if disk.failed:
                break
            await asyncio.sleep(0.02)
        await self.array.servers[index].kill()
        disk.disarm()
        await self.array.servers[index].start()


WAYS = [(error, lasts) for error in (errno.ENOSPC, errno.EIO) for lasts in (False, True)]


@pytest.mark.timeout(280)
async def test_no_failed_write_loses_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    fast_clocks(monkeypatch)
    fleet = FailingFleet(tmp_path, seed)
    try:
        await fleet.array.start()
        await fleet.round(0)
        every = os.environ.get("FAILING_DISK") == "all"
        tried: set[tuple[str, tuple[int, bool]]] = set()
        hit: set[str] = set()
        for number in range(ROUNDS):
            names = sorted(set().union(*(disk.seen for disk in fleet.failing)))
            due = [(name, way) for way in WAYS for name in names if (name, way) not in tried]
            if not every:
                due = [(name, fleet.dice.choice(WAYS)) for name in names if name not in {name for name, _ in tried}]
            if not due:
                break
            name, (error, for_good) = due[0]
            tried.add(due[0])
            disk = fleet.failing[number % 3]
            disk.arm(name, error, for_good=for_good)
            await fleet.round(number % 3)
            if disk.failed:
                hit.add(name)
        await fleet.check()
        print(f"{len(fleet.ledger.acknowledged)} acknowledged, {len(tried)} failures tried at {sorted(hit)}")
        assert {"write .segment", "create .segment", "OWN_BATCH", "MIRROR_BATCH", "write .fence.new"} <= hit
        assert {"FENCE_FILE", "FENCE_NAME of a directory", "rename .fence.new", "write .json.new"} <= hit
    finally:
        await fleet.array.close()

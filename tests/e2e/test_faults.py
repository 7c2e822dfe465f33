"""A short fault campaign on pods and nodes: killed, cut off, wiped, without a database; in an order by the seed.

The ledger is that of `make faults` (docs/faults.md), the faults are those that happen to clusters. A disk is wiped
only when nothing is short of copies. SEED repeats the order and the victims.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable

import pytest

from mailarray_operator.api import names
from tests.e2e.installation import GROUP, Installation
from tests.e2e.mail_array import MailArray
from tests.e2e.test_volumes import under_replicated
from tests.e2e.traffic import Traffic

SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
BETWEEN = 80  # messages acknowledged after each fault, before the next one
CUT_SECONDS = 12.0  # longer than the silence after which mirrors seal
BACK_SECONDS = 180.0
SECONDS = 900

Fault = Callable[[], Awaitable[str]]


class Campaign:
    """The faults, on one array."""

    def __init__(self, array: MailArray, dice: random.Random) -> None:
        self._array = array
        self._dice = dice

    def plan(self) -> list[Fault]:
        """Each kind once, pods twice, in the seed's order."""
        faults: list[Fault] = [
            self.kill_pod,
            self.kill_pod,
            self.kill_all_pods,
            self.kill_database,
            self.cut_node,
            self.wipe_disk,
        ]
        self._dice.shuffle(faults)
        return faults

    async def kill_pod(self) -> str:
        """At once, as kill -9: no grace period. Its successor may start before the old processes are gone."""
        pod = self._dice.choice([*self._servers(), self._access()])
        await self._delete(f"pod/{pod}", "--grace-period=0", "--force")
        return f"{pod} killed"

    async def kill_all_pods(self) -> str:
        await self._delete(*(f"pod/{pod}" for pod in self._servers()), "--grace-period=0", "--force")
        return "all servers killed"

    async def kill_database(self) -> str:
        pods = [pod.name for pod in self._array.pods(names.DATABASE)]
        await self._delete(*(f"pod/{pod}" for pod in pods), "--grace-period=0", "--force")
        return f"{', '.join(pods)} killed"

    async def cut_node(self) -> str:
        box = self._array.cluster.box
        node = self._dice.choice(sorted({pod.node for pod in self._array.pods()}))
        await asyncio.to_thread(box.cut, node)
        try:
            await asyncio.sleep(CUT_SECONDS)
        finally:
            await asyncio.to_thread(box.heal, node)
        return f"{node} cut off for {CUT_SECONDS:g} s"

    async def wipe_disk(self) -> str:
        array = self._array
        await self._safe()
        server = self._dice.choice(self._servers())
        old = array.servers(GROUP)[server]["volume"]
        await self._delete(f"pvc/{names.claim(server)}", f"pod/{server}")

        def rebuilt() -> bool:
            now = array.servers(GROUP)[server]
            return bool(now.get("volume", old) != old and now["phase"] == "Serving")

        await asyncio.to_thread(array.wait_for, rebuilt, f"{server} is rebuilt", BACK_SECONDS)
        await self._safe()
        return f"{server}'s disk wiped, and rebuilt"

    async def _safe(self) -> None:
        array = self._array
        await asyncio.to_thread(array.wait_serving, GROUP, 3, BACK_SECONDS)
        await asyncio.to_thread(
            array.wait_for, lambda: under_replicated(array) == 0, "all copies are there", BACK_SECONDS
        )

    async def _delete(self, *words: str) -> None:
        await asyncio.to_thread(self._array.kubectl, "delete", *words, "--wait=false")

    def _servers(self) -> list[str]:
        return [names.server(GROUP, ordinal) for ordinal in range(3)]

    def _access(self) -> str:
        return next((pod.name for pod in self._array.pods(names.ACCESS)), names.server(GROUP, 0))


@pytest.mark.timeout(SECONDS)
async def test_a_short_campaign_on_pods_and_nodes(installation: Installation) -> None:
    array = installation.array
    dice = random.Random(SEED)
    campaign = Campaign(array, dice)
    began = time.monotonic()
    faults = 0
    async with Traffic(array, SEED) as traffic:
        await traffic.acknowledged(BETWEEN)
        for fault in campaign.plan():
            done = await fault()
            faults += 1
            print(f"{time.monotonic() - began:6.1f} s {traffic.ledger.acknowledged:6d}  {done}")
            await traffic.acknowledged(BETWEEN, BACK_SECONDS)
        await asyncio.to_thread(array.wait_serving, GROUP, 3, BACK_SECONDS)
    await asyncio.to_thread(array.wait_ready)
    await asyncio.to_thread(array.wait_settled, GROUP, BACK_SECONDS)
    await asyncio.to_thread(array.wait_for, lambda: under_replicated(array) == 0, "all copies are there", BACK_SECONDS)
    verdict = await traffic.judge()
    print(
        f"acknowledged {verdict.acknowledged}, lost {len(verdict.lost)}, damaged {len(verdict.damaged)}, "
        f"duplicated {len(verdict.duplicated)}, faults {faults}"
    )
    assert verdict.good, str(verdict)

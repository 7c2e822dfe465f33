"""Mail never stops: the StatefulSet is scaled 3 -> 5 -> 3, restarted, the operator upgraded, pods deleted."""

from __future__ import annotations

import asyncio
import os
import random
import time

import pytest

from mailarray_operator.api import names
from tests.e2e.installation import GROUP, Installation
from tests.e2e.traffic import Traffic

SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
DELETIONS = int(os.environ.get("DELETIONS", "4"))
BETWEEN = 10.0  # seconds between two deletions
STEP_SECONDS = 240.0


@pytest.mark.timeout(900)
async def test_all_that_was_acknowledged_is_read_back_exactly_once(installation: Installation) -> None:
    array = installation.array
    chance = random.Random(SEED)

    async def do(what: str, *arguments: str) -> None:
        print(f"{what} after {time.monotonic() - began:.0f} s, acknowledged {traffic.ledger.acknowledged}", flush=True)
        if arguments:
            await asyncio.to_thread(array.kubectl, *arguments)

    def pods() -> set[str]:
        return set(installation.pods().values())

    async def serving(count: int) -> None:
        await asyncio.to_thread(array.wait_serving, GROUP, count, STEP_SECONDS)

    async with Traffic(array, SEED) as traffic:
        began = time.monotonic()
        await traffic.acknowledged(200)

        await do("scale to 5", "scale", f"statefulset/{GROUP}", "--replicas=5")
        await serving(5)
        await traffic.acknowledged(200)

        await do("scale to 3", "scale", f"statefulset/{GROUP}", "--replicas=3")
        await serving(3)
        await asyncio.to_thread(array.wait_for, lambda: installation.replicas() == (3, 3), "three replicas", 60)
        await traffic.acknowledged(200)

        before = pods()
        await do("restart", "rollout", "restart", f"statefulset/{GROUP}")
        await asyncio.to_thread(array.wait_for, lambda: not pods() & before, "all pods are restarted", STEP_SECONDS)
        await serving(3)

        await do("upgrade the operator")
        before = pods()
        await asyncio.to_thread(installation.helm, "upgrade", "--set", "operator.logLevel=debug", "--wait")
        await traffic.acknowledged(300)
        assert pods() == before, "an upgrade of the operator restarted mail pods"

        for _ in range(DELETIONS):
            pod = chance.choice(sorted(installation.pods()))
            await do(f"delete {pod}", "delete", "pod", pod, "--wait=false")
            await asyncio.sleep(BETWEEN)
        await serving(3)
    await asyncio.to_thread(array.wait_ready)
    await asyncio.to_thread(array.wait_settled, GROUP)
    verdict = await traffic.judge()
    assert verdict.good, str(verdict)
    claims = array.kubectl("get", "pvc", "-o", "name")
    assert all(names.claim(names.server(GROUP, i)) in claims for i in range(5)), "a volume was not kept"

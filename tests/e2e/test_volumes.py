"""A server loses its volume and is rebuilt from its mirrors; a volume that cannot grow says so."""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from mailarray_operator.api import names
from tests.e2e.installation import GROUP, Installation
from tests.e2e.traffic import Traffic

SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
REBUILD_SECONDS = 180.0


@pytest.mark.timeout(420)
async def test_a_server_without_its_volume_is_rebuilt_under_a_new_id(installation: Installation) -> None:
    array = installation.array
    server = names.server(GROUP, 1)
    async with Traffic(array, SEED) as traffic:
        await traffic.acknowledged(300)
        old = array.servers(GROUP)[server]["volume"]
        claim = names.claim(server)
        await asyncio.to_thread(array.kubectl, "delete", f"pvc/{claim}", f"pod/{server}", "--wait=false")
        seen: list[tuple[str, int | None]] = []

        def rebuilt() -> bool:
            now = array.servers(GROUP)[server]
            state = (now["phase"], now.get("progress"))
            if state not in seen:
                seen.append(state)
            return now.get("volume", old) != old and now["phase"] == "Serving"

        await asyncio.to_thread(array.wait_for, rebuilt, f"{server} is rebuilt", REBUILD_SECONDS)
        print(f"\n{seen}")
        await asyncio.to_thread(
            array.wait_for, lambda: under_replicated(installation) == 0, "all copies are there", 120
        )
    assert any(phase == "Rebuilding" and progress is not None for phase, progress in seen), seen
    await asyncio.to_thread(array.wait_serving, GROUP, 3)
    verdict = await traffic.judge()
    assert verdict.good, str(verdict)


def under_replicated(installation: Installation) -> int:
    return int(installation.array.resource()["status"]["mirroring"]["underReplicatedSegments"])


def test_a_volume_that_cannot_grow_says_so_and_serves_on(installation: Installation) -> None:
    array = installation.array

    def size(wanted: str) -> None:
        patch = f'{{"spec":{{"storage":{{"size":"{wanted}"}}}}}}'
        array.kubectl("patch", "mailserver", GROUP, "--type=merge", "-p", patch)

    size("2Gi")
    array.wait_for(
        lambda: "does not allow" in str(array.get("mailserver", GROUP)["status"]), "a sentence about the claims", 30
    )
    assert array.condition("Ready")["status"] == "True"

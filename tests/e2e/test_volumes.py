"""A server loses its volume and is rebuilt from its mirrors; volumes grow."""

from __future__ import annotations

import asyncio
import os
import random
import smtplib

import pytest

from mailarray_operator.api import names
from tests.e2e.installation import ALICE, GROUP, Installation
from tests.e2e.mail_array import MailArray
from tests.e2e.traffic import Traffic

SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
REBUILD_SECONDS = 180.0
LARGE, LARGE_MESSAGES = 45 << 20, 14


@pytest.mark.timeout(420)
async def test_a_server_without_its_volume_is_rebuilt_under_a_new_id(installation: Installation) -> None:
    array = installation.array
    server = names.server(GROUP, 1)
    await asyncio.to_thread(send_large_messages, installation, server)
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
            return bool(now.get("volume", old) != old and now["phase"] == "Serving")

        try:
            await asyncio.to_thread(array.wait_for, rebuilt, f"{server} is rebuilt", REBUILD_SECONDS)
        finally:
            print(f"\n{old} -> {seen}")
        await asyncio.to_thread(array.wait_for, lambda: under_replicated(array) == 0, "all copies are there", 120)
    assert any(phase == "Rebuilding" and progress is not None for phase, progress in seen), seen
    await asyncio.to_thread(array.wait_serving, GROUP, 3)
    await asyncio.to_thread(array.wait_settled, GROUP)
    verdict = await traffic.judge()
    assert verdict.good, str(verdict)


def send_large_messages(installation: Installation, server: str) -> None:
    """So much that a rebuild takes seconds: the server writes them all, so all are on its volume."""
    text = b"Subject: large\r\n\r\n" + (b"x" * 76 + b"\r\n") * (LARGE // 78)
    with smtplib.SMTP(*installation.array.smtp(server)(), timeout=60) as client:
        for _ in range(LARGE_MESSAGES):
            client.sendmail("bob@elsewhere.example", ALICE, text)


def under_replicated(array: MailArray) -> int:
    return int(array.resource()["status"]["mirroring"]["underReplicatedSegments"])


def test_a_larger_size_makes_the_claims_grow(installation: Installation) -> None:
    array = installation.array
    before = installation.pods()
    array.kubectl("patch", "mailserver", GROUP, "--type=merge", "-p", '{"spec":{"storage":{"size":"2Gi"}}}')

    def asked() -> bool:
        claims = [array.get("pvc", names.claim(names.server(GROUP, i))) for i in range(3)]
        return all(claim["spec"]["resources"]["requests"]["storage"] in ("2Gi", str(2 << 30)) for claim in claims)

    array.wait_for(asked, "the claims ask for more", 30)
    array.wait_for(lambda: array.condition("VolumesAsAsked", GROUP)["status"] == "True", "the status says so", 30)
    assert installation.pods() == before, "a larger size restarted servers"

"""One MailCluster of 500 MailServers with 3 faked-ready pods each: how fast the operator reacts, and what it holds."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest

from mailarray_operator.cluster import kinds
from mailarray_operator.cluster.client import Client, Json, connect
from tests.e2e import control_plane_steps as steps
from tests.e2e.cluster import Cluster
from tests.support.fake_kubelet import Kubelets
from tests.support.fake_servers import fake_servers
from tests.support.operator_process import RunningOperator

GROUPS, SERVERS = 500, 3
CHANGES = 100
P99_SECONDS, GROWTH_MIB = 1.0, 100.0
SETTLE_SECONDS = 400
SPACE = "large"


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_500_groups(control_plane: Cluster, tmp_path: Path) -> None:
    kubeconfig = control_plane.kubeconfig
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    await steps.install_crds(kubeconfig)
    client = await connect(kubeconfig)
    with fake_servers():
        operator = RunningOperator(kubeconfig, tmp_path, f"--namespace={SPACE}", f"--operator-namespace={SPACE}")
        try:
            await steps.make_namespace(client, SPACE)
            operator.wait_ready()
            await asyncio.sleep(5)
            idle = operator.rss()
            print(f"idle {idle:.0f} MiB", flush=True)
            async with Kubelets(client, SPACE, disks=False).running() as kubelets:
                began = time.monotonic()
                await _make(client)
                await steps.until(lambda: _all_ready(client, kubelets), SETTLE_SECONDS, "all groups are ready")
                print(f"500 groups ready after {time.monotonic() - began:.0f} s")
                await asyncio.sleep(30)  # every server was asked at least twice
                waits = [await _change(client, chance.randrange(GROUPS), number) for number in range(CHANGES)]
                grown = operator.rss() - idle
        finally:
            operator.stop()
            await client.close()
    waits.sort()
    p50, p99 = waits[len(waits) // 2], waits[int(len(waits) * 0.99) - 1]
    print(f"reaction to a change: p50 {p50:.3f} s, p99 {p99:.3f} s; idle {idle:.0f} MiB, growth {grown:.0f} MiB")
    assert p99 <= P99_SECONDS
    assert grown <= GROWTH_MIB


async def _make(client: Client) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "accounts"}, "stringData": {"accounts": ""}}
    await client.post(kinds.SECRET.path(SPACE), secret)
    await client.post(kinds.MAIL_CLUSTER.path(SPACE), steps.mail_cluster("large"))
    seats = asyncio.Semaphore(16)

    async def make(number: int) -> None:
        async with seats:
            body = steps.mail_server(f"g{number}", "large", SERVERS)
            await client.post(kinds.MAIL_SERVER.path(SPACE), body)

    await asyncio.gather(*(make(number) for number in range(GROUPS)))


async def _all_ready(client: Client, kubelets: Kubelets) -> bool:
    if len(kubelets.ready) < GROUPS * SERVERS:
        return False
    cluster = await client.get(kinds.MAIL_CLUSTER.path(SPACE, "large"))
    servers = (cluster.get("status") or {}).get("servers") or {}
    return bool(servers.get("ready") == GROUPS * SERVERS)


async def _change(client: Client, number: int, turn: int) -> float:
    """Another template of one StatefulSet; seconds until it stands there."""
    name = f"g{number}"
    began = time.monotonic()
    patch = {"spec": {"template": {"metadata": {"annotations": {"example.com/turn": str(turn)}}}}}
    await client.patch(kinds.MAIL_SERVER.path(SPACE, name), patch)
    while time.monotonic() - began < 30:
        found: Json = await client.get(kinds.STATEFUL_SET.path(SPACE, name))
        if (found["spec"]["template"]["metadata"].get("annotations") or {}).get("example.com/turn") == str(turn):
            return time.monotonic() - began
        await asyncio.sleep(0.02)
    raise AssertionError(f"{name} is not changed after 30 s")

"""MX records follow load and loss: operator -> DNSEndpoint -> ExternalDNS -> PowerDNS -> whoever asks.

Senders that obey these records send all the time, and somebody asks for them several times a second.
"""

from __future__ import annotations

import asyncio
import os
import random
import time

import pytest

from mailarray_operator.api import names
from tests.e2e.crowd import Crowd
from tests.e2e.installation import GROUP, RELEASE, SESSIONS, TTL
from tests.e2e.mail_array import DOMAIN, MailArray
from tests.e2e.mail_exchangers import Watch
from tests.e2e.mx_mail import IN_SERVICE, all_in_service, best, host, mail_flows

SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
WORSE_SECONDS = 30.0 + TTL  # promised, from the start of the load
GONE_SECONDS = 15.0  # promised, from when the operator says that a server is lost or drains
BUSY = 2.0  # times as long is not a failure: everything shares one small machine
BACK_SECONDS = 240.0
QUIET_SECONDS = 2.0 * TTL  # a dwell, in which a change that should not be would come
CROWD = SESSIONS * 98 // 100


@pytest.mark.timeout(420)
async def test_a_loaded_server_stands_back_and_returns(published: MailArray) -> None:
    array = published
    victim = names.server(GROUP, SEED % 2)
    async with mail_flows(array, SEED) as (traffic, watch):
        before = watch.changes
        began = time.monotonic()
        async with Crowd(array.smtp(victim), CROWD) as crowd:
            loaded = time.monotonic()
            worse = await watch.until(
                lambda now: host(victim) in now and host(victim) not in best(now), f"{victim} stands back", 120
            )
            print(
                f"\n{CROWD} sessions of {victim} in {loaded - began:.1f} s, {crowd.turned_away} turned away; "
                f"worse after {worse - loaded:.1f} s"
            )
            said = await dig(array)
            assert f"{host(victim)}." in said and f"{IN_SERVICE} {host(victim)}." not in said, said
            await traffic.acknowledged(30)
        ended = time.monotonic()
        back = await watch.until(all_in_service, f"{victim} is in service again", BACK_SECONDS)
        print(f"in service again {back - ended:.1f} s after the load had ended")
        await asyncio.sleep(QUIET_SECONDS)
        changes = watch.changes - before
    assert changes <= 2, watch.told()
    assert worse - loaded <= BUSY * WORSE_SECONDS


async def dig(array: MailArray) -> str:
    """As a person asks, from a pod through the cluster's DNS."""
    words = ("exec", "client", "--", "dig", "+short", "MX", DOMAIN)
    return (await asyncio.to_thread(array.kubectl, *words)).strip()


@pytest.mark.timeout(420)
async def test_a_killed_and_a_draining_server_leave_at_once(published: MailArray) -> None:
    array = published
    killed, last = names.server(GROUP, 1 - SEED % 2), names.server(GROUP, 2)
    async with mail_flows(array, SEED) as (traffic, watch):
        node = next(pod.node for pod in array.pods() if pod.name == killed)
        await asyncio.to_thread(array.kubectl, "cordon", node)  # its volume is there, so it stays away
        try:
            began = time.monotonic()
            await asyncio.to_thread(array.kubectl, "delete", "pod", killed, "--grace-period=0", "--force")
            await left(array, watch, killed, "Lost", began)
            await traffic.acknowledged(30)
        finally:
            await asyncio.to_thread(array.kubectl, "uncordon", node)
        await asyncio.to_thread(array.wait_serving, GROUP, 3)
        await watch.until(lambda now: host(killed) in now, f"{killed} is in the MX records again", BACK_SECONDS)

        began = time.monotonic()
        await asyncio.to_thread(array.kubectl, "scale", f"mailserver/{GROUP}", "--replicas=2")
        try:
            await left(array, watch, last, "Draining", began)
        finally:  # the drain is taken back
            await asyncio.to_thread(array.kubectl, "scale", f"mailserver/{GROUP}", "--replicas=3")
        await asyncio.to_thread(array.wait_serving, GROUP, 3)
        await watch.until(all_in_service, "all are in service again", BACK_SECONDS)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_server_whose_node_is_cut_off_leaves(published: MailArray) -> None:
    array, box = published, published.cluster.box
    operator = array.get("pods", "-l", f"app.kubernetes.io/instance={RELEASE}")["items"][0]["spec"]["nodeName"]
    victim, node = next((pod.name, pod.node) for pod in array.pods() if pod.node != operator)
    async with mail_flows(array, SEED) as (traffic, watch):
        began = time.monotonic()
        box.cut(node)
        try:
            await left(array, watch, victim, "Lost", began)
            await traffic.acknowledged(30)
        finally:
            await asyncio.to_thread(box.heal, node)
        await asyncio.to_thread(array.wait_serving, GROUP, 3, BACK_SECONDS)
        await watch.until(all_in_service, f"{victim} is in service again", BACK_SECONDS)


async def left(array: MailArray, watch: Watch, server: str, phase: str, began: float) -> None:
    """Until it is out of the MX records, in time after the status said why."""

    def noticed() -> float:
        return time.monotonic() if array.servers(GROUP).get(server, {}).get("phase") == phase else 0.0

    seeing = asyncio.create_task(asyncio.to_thread(array.wait_for, noticed, f"{server} is {phase}", 120))
    gone = await watch.until(lambda now: host(server) not in now, f"{server} left the MX records", 120)
    seen = await seeing
    print(f"\n{server} {phase} after {seen - began:.1f} s, out of MX {gone - seen:.1f} s later")
    assert gone - seen <= BUSY * GONE_SECONDS

"""MX records follow load and loss: operator -> DNSEndpoint -> ExternalDNS -> PowerDNS -> whoever asks.

Senders that obey these records send all the time, and somebody asks for them several times a second. Servers are exposed
by node ports, so their addresses are published as well; a sender finds the port where a firewall in front of the nodes
would map it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from mailarray_operator.api import names
from tests.e2e.crowd import Crowd
from tests.e2e.installation import GROUP, SESSIONS, TTL, Installation
from tests.e2e.mail_array import DOMAIN, MailArray
from tests.e2e.mail_exchangers import Exchangers, Watch, addresses
from tests.e2e.traffic import Traffic

SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
WORSE_SECONDS = 30.0 + TTL  # promised, from the start of the load
GONE_SECONDS = 15.0  # promised, from when the operator says that a server is lost or drains
BUSY = 2.0  # times as long is not a failure: everything shares one small machine
BACK_SECONDS = 240.0
QUIET_SECONDS = 2.0 * TTL  # a dwell, in which a change that should not be would come
IN_SERVICE = 10
CROWD = SESSIONS * 98 // 100


def host(server: str) -> str:
    return f"{server}.{DOMAIN}"


def best(exchangers: Exchangers) -> set[str]:
    return {one for one, preference in exchangers.items() if preference == min(exchangers.values())}


@pytest.fixture(scope="module")
def array(installation: Installation) -> MailArray:
    """With MX records in DNS, and servers that are reached by a port of their nodes."""
    assert installation.array.cluster.box  # another cluster has another DNS
    array = installation.array
    expose(array, "NodePort")
    array.wait_serving(GROUP, 3)

    async def published() -> None:
        async with Watch(DOMAIN) as watch:
            await watch.until(all_in_service, "all servers are in service", 120)

    asyncio.run(published())
    for server in array.servers(GROUP):
        array.wait_for(lambda server=server: asyncio.run(addresses(host(server))), f"{server} has an address", 30)
    return array


def expose(array: MailArray, kind: str) -> None:
    patch = f'{{"spec":{{"expose":{{"type":"{kind}"}}}}}}'
    array.kubectl("patch", "mailserver", GROUP, "--type=merge", "-p", patch)


def all_in_service(exchangers: Exchangers) -> bool:
    return exchangers == {host(names.server(GROUP, i)): IN_SERVICE for i in range(3)}


class Routes:
    """From a mail exchanger's name to a socket: the address by DNS, the port by the Service."""

    def __init__(self, array: MailArray) -> None:
        self._ports = {
            host(server): array.get("service", server)["spec"]["ports"][0]["nodePort"]
            for server in array.servers(GROUP)
        }

    def __call__(self, exchanger: str) -> tuple[str, int]:
        found = asyncio.run(addresses(exchanger))
        if not found:
            raise OSError(f"{exchanger} has no address")
        return found[0], self._ports[exchanger]


@contextlib.asynccontextmanager
async def mail_flows(array: MailArray) -> AsyncIterator[tuple[Traffic, Watch]]:
    """Senders by MX, readers, and somebody who asks for the records; afterwards nothing is lost and none was empty."""
    async with Traffic(array, SEED, route=Routes(array)) as traffic, Watch(DOMAIN) as watch:
        await traffic.acknowledged(20)
        yield traffic, watch
    print(watch.told())
    taken: Counter[str] = sum((sender.taken for sender in traffic.by_mx), Counter())
    deferred: Counter[str] = sum((sender.deferred for sender in traffic.by_mx), Counter())
    print(f"taken {dict(sorted(taken.items()))}, deferred {dict(sorted(deferred.items()))}")
    assert watch.empty == 0, "there were no MX records for a while"
    await asyncio.to_thread(array.wait_ready)
    await asyncio.to_thread(array.wait_settled, GROUP)
    verdict = await traffic.judge()
    assert verdict.good, str(verdict)


@pytest.mark.timeout(420)
async def test_a_loaded_server_stands_back_and_returns(array: MailArray) -> None:
    victim = names.server(GROUP, SEED % 3)
    async with mail_flows(array) as (traffic, watch):
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
            assert (await dig(array)).count("\n") == 2
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
async def test_a_killed_and_a_draining_server_leave_at_once(array: MailArray) -> None:
    async with mail_flows(array) as (traffic, watch):
        victim = names.server(GROUP, SEED % 3)
        node = next(pod.node for pod in array.pods() if pod.name == victim)
        await asyncio.to_thread(array.kubectl, "cordon", node)
        try:
            killed = time.monotonic()
            await asyncio.to_thread(array.kubectl, "delete", "pod", victim, "--grace-period=0", "--force")
            await left(array, watch, victim, "Lost", killed)
            await traffic.acknowledged(30)
        finally:
            await asyncio.to_thread(array.kubectl, "uncordon", node)
        await asyncio.to_thread(array.wait_serving, GROUP, 3)
        await watch.until(all_in_service, f"{victim} is in service again", BACK_SECONDS)

        last = names.server(GROUP, 2)
        asked = time.monotonic()
        await asyncio.to_thread(array.kubectl, "scale", f"mailserver/{GROUP}", "--replicas=2")
        try:
            await left(array, watch, last, "Draining", asked)
        finally:
            await asyncio.to_thread(array.kubectl, "scale", f"mailserver/{GROUP}", "--replicas=3")
        await asyncio.to_thread(array.wait_serving, GROUP, 3)
        await watch.until(all_in_service, f"{last} is in service again", BACK_SECONDS)


async def left(array: MailArray, watch: Watch, server: str, phase: str, began: float) -> None:
    """Until it is out of the MX records, in time after the status said why."""

    def noticed() -> bool:
        return array.servers(GROUP).get(server, {}).get("phase") == phase

    seen = asyncio.create_task(asyncio.to_thread(array.wait_for, noticed, f"{server} is {phase}", 120))
    gone = await watch.until(lambda now: host(server) not in now, f"{server} left the MX records", 120)
    await seen
    print(f"\n{server} {phase}: out of MX after {gone - began:.1f} s")
    assert gone - began <= BUSY * GONE_SECONDS

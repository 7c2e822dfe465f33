"""ExternalDNS stopped, PowerDNS down, the API server away: mail flows, no record goes, the state says what is stale.

Each for MINUTES. Senders keep what they know while DNS is silent, as resolvers of a domain with a second name server
would.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
import urllib.request

import pytest

from tests.e2e.box.box import API_SERVER, EXTERNAL_DNS, POWERDNS
from tests.e2e.installation import RELEASE, TTL
from tests.e2e.mail_array import MailArray
from tests.e2e.mail_exchangers import Exchangers
from tests.e2e.mx_mail import all_in_service, mail_flows

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
AWAY_SECONDS = 60 * float(os.environ.get("MINUTES", "2"))
SAID_SECONDS = 240.0  # until the condition names what is broken; a change has two minutes and a TTL before that
BACK_SECONDS = 240.0
FLOW = 0.5  # messages a second, at least; there are six senders with a pause of 0.3 s
EXTERNAL = ("mx.other.example", 50)


def ask_for_external(array: MailArray, *wanted: tuple[str, int]) -> None:
    external = [{"hostname": hostname, "preference": preference} for hostname, preference in wanted]
    patch = json.dumps({"spec": {"mx": {"external": external}}})
    array.kubectl("patch", "mailcluster", array.name, "--type=merge", "-p", patch)


def with_external(exchangers: Exchangers) -> bool:
    hostname, preference = EXTERNAL
    return exchangers.get(hostname) == preference and len(exchangers) == 4


async def until_said(array: MailArray, status: str, reason: str) -> None:
    """By condition DNSPublished, which is printed."""

    def said() -> bool:
        found = array.condition("DNSPublished")
        return (found.get("status"), found.get("reason")) == (status, reason)

    await asyncio.to_thread(array.wait_for, said, f"DNSPublished is {status}, {reason}", SAID_SECONDS)
    print(f"\nDNSPublished: {array.condition('DNSPublished')['message']}")


def leads(operator: str) -> bool:
    """Whether the operator with that address leads, by its metrics, which need no API server."""
    with urllib.request.urlopen(f"http://{operator}:8080/metrics", timeout=5) as response:
        return "\nmailarray_operator_leader 1.0\n" in response.read().decode()


@pytest.mark.parametrize(("away", "reason"), [(EXTERNAL_DNS, "ExternalDNSNotReading"), (POWERDNS, "NameServersSilent")])
async def test_what_publishes_is_away(published: MailArray, away: str, reason: str) -> None:
    array, box = published, published.cluster.box
    await until_said(array, "True", "Published")
    async with mail_flows(array, SEED) as (traffic, watch):
        began, acknowledged = time.monotonic(), traffic.ledger.acknowledged
        await asyncio.to_thread(box.kill, away)
        try:
            await asyncio.to_thread(ask_for_external, array, EXTERNAL)
            await until_said(array, "False", reason)
            print(f"said after {time.monotonic() - began:.0f} s")
            await asyncio.sleep(max(0.0, began + AWAY_SECONDS - time.monotonic()))
            flowed = (traffic.ledger.acknowledged - acknowledged) / (time.monotonic() - began)
            assert all_in_service(watch.now), "a record was changed by nobody"
        finally:
            back = time.monotonic()
            await asyncio.to_thread(box.start, away)
        await watch.until(with_external, "what was asked for meanwhile is published", BACK_SECONDS)
        print(f"{flowed:.1f} messages a second while {away} was away; published {time.monotonic() - back:.0f} s after")
        await until_said(array, "True", "Published")
        await asyncio.to_thread(ask_for_external, array)
        await watch.until(all_in_service, "the external server is gone", BACK_SECONDS)
        assert flowed >= FLOW


async def test_the_api_server_is_away(published: MailArray) -> None:
    array, box = published, published.cluster.box
    await until_said(array, "True", "Published")
    (pod,) = array.get("pods", "-l", f"app.kubernetes.io/instance={RELEASE}")["items"]
    operator = pod["status"]["podIP"]
    assert leads(operator)
    async with mail_flows(array, SEED) as (traffic, watch):
        began, acknowledged, before = time.monotonic(), traffic.ledger.acknowledged, watch.changes
        await asyncio.to_thread(box.kill, API_SERVER)
        try:
            await asyncio.sleep(AWAY_SECONDS)
            flowed = (traffic.ledger.acknowledged - acknowledged) / (time.monotonic() - began)
            assert not await asyncio.to_thread(leads, operator), "it cannot know that nobody else leads"
            assert all_in_service(watch.now), "a record was changed without the API server"
            assert watch.changes == before
        finally:
            back = time.monotonic()
            await asyncio.to_thread(box.start, API_SERVER)
        # Nodes report again within seconds; until then servers may look lost, and leave, but for minTargets.
        await asyncio.sleep(2 * TTL)
        await watch.until(all_in_service, "all servers are in service", BACK_SECONDS)
        await until_said(array, "True", "Published")
        print(f"{flowed:.1f} messages a second without an API server; as before {time.monotonic() - back:.0f} s after")
        assert flowed >= FLOW

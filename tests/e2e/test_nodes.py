"""A node is cut off, a node loses its power, also the one with the database: nobody has to do anything.

Senders that reach other servers wait at most two seconds. What was registered is read within a second, everything
within five; a client connects with a limit of one second, and goes to another access server then.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import dataclass

import pytest

from mailarray_operator.api import names
from tests.e2e.installation import GROUP, Installation
from tests.e2e.mail_array import MailArray
from tests.e2e.traffic import Traffic
from tests.faults.readers import read_all

SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
PAUSE_SECONDS, REGISTERED_SECONDS, ALL_SECONDS = 2.0, 1.0, 5.0  # promised; docs/measurements.md has what was measured
BUSY = 3.0  # times as long is not a failure: everything, three nodes and all clients, shares one small machine
GONE_SECONDS = 45.0  # how long a node stays away: longer than Kubernetes needs to see it
BACK_SECONDS = 240.0


@dataclass(slots=True)
class Measured:
    """Of one loss, in seconds."""

    pause: float = 0.0
    registered: float = 0.0
    everything: float = 0.0


@pytest.fixture(scope="module")
def array(installation: Installation) -> MailArray:
    """With two access servers, on two nodes."""
    array = installation.array
    array.kubectl("patch", "mailcluster", array.name, "--type=merge", "-p", '{"spec":{"access":{"replicas":2}}}')

    def two() -> bool:
        ready = [pod.node for pod in array.pods(names.ACCESS) if pod.ready]
        return len(ready) == 2

    array.wait_for(two, "two access servers are ready", 60)
    array.wait_ready()
    return array


def node_of(array: MailArray, component: str) -> str:
    found: str = array.wait_for(
        lambda: next((pod.node for pod in array.pods(component) if pod.ready), None),
        f"a pod of {component} is ready",
        60,
    )
    return found


LONG = pytest.mark.long  # one loss in `make e2e`, the other three in `make e2e-long`


@pytest.mark.parametrize(
    ("fault", "holds"),
    [
        pytest.param("cut", "the database"),
        pytest.param("kill", "the database", marks=LONG),
        pytest.param("cut", "no database", marks=LONG),
        pytest.param("kill", "no database", marks=LONG),
    ],
)
async def test_a_node_goes_and_comes_back(array: MailArray, fault: str, holds: str) -> None:
    box = array.cluster.box
    database = node_of(array, names.DATABASE)
    others = [pod.node for pod in array.pods() if pod.node != database]
    node = database if holds == "the database" else others[SEED % len(others)]
    print(f"\n{fault} of {node}, which holds {holds}")
    avoid = frozenset({node})
    where = array.any_smtp(random.Random(SEED), avoid)
    measured = Measured()
    async with Traffic(array, SEED, where=where, avoid=avoid) as traffic:
        await traffic.acknowledged(150)
        await asyncio.sleep(1.0)  # what was acknowledged before is registered (50 ms are promised)
        known = traffic.ledger.confirmed(traffic.looked_at)
        for sender in traffic.senders:
            sender.gap = 0.0
        began = time.monotonic()
        try:
            await asyncio.to_thread(getattr(box, fault), node)
            gone = time.monotonic()
            measured.registered = await first_whole_read(array, avoid, known, traffic, gone)
            known = traffic.ledger.confirmed(traffic.looked_at)
            measured.everything = await first_whole_read(array, avoid, known, traffic, time.monotonic())
            await asyncio.sleep(max(0.0, began + GONE_SECONDS - time.monotonic()))
            measured.pause = max(sender.gap for sender in traffic.senders)
            print(measured)
        finally:
            await asyncio.to_thread(box.heal if fault == "cut" else box.start, node)
        await asyncio.to_thread(array.wait_serving, GROUP, 3, BACK_SECONDS)
        await traffic.acknowledged(100)
    await asyncio.to_thread(array.wait_ready)
    await asyncio.to_thread(array.wait_settled, GROUP)
    verdict = await traffic.judge()
    assert verdict.good, str(verdict)
    assert measured.pause <= BUSY * PAUSE_SECONDS, measured
    assert measured.registered <= BUSY * REGISTERED_SECONDS, measured
    assert measured.everything <= BUSY * ALL_SECONDS, measured


async def first_whole_read(
    array: MailArray, avoid: frozenset[str], known: set[str], traffic: Traffic, began: float
) -> float:
    """Seconds from `began` until a session has given all the known messages of the first mailbox."""
    where = array.any_pop3(random.Random(SEED), avoid)
    while True:
        texts = await read_all(where, traffic.looked_at, 60)
        found = {entry.name for text in texts if (entry := traffic.ledger.check_text(traffic.looked_at, text))}
        if known <= found:
            return time.monotonic() - began
        assert time.monotonic() - began < 60, f"{len(known - found)} messages are not there"

"""Mail that goes by the MX records that are published: who sends it, who asks for the records, and the verdict.

Servers are exposed by node ports, so their addresses are published as well; a sender finds the port where a firewall in
front of the nodes would map it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator

import dns.exception

from mailarray_operator.api import names
from tests.e2e.installation import GROUP, TTL
from tests.e2e.mail_array import DOMAIN, MailArray
from tests.e2e.mail_exchangers import Exchangers, Watch, addresses
from tests.e2e.traffic import Traffic

IN_SERVICE = 10  # preference
PUBLISHED_SECONDS = 120.0


def host(server: str) -> str:
    """The name of a server, as the operator makes it when nobody gives another."""
    return f"{server}.{DOMAIN}"


def all_in_service(exchangers: Exchangers) -> bool:
    """Three servers, and none stands back."""
    return exchangers == {host(names.server(GROUP, i)): IN_SERVICE for i in range(3)}


def best(exchangers: Exchangers) -> set[str]:
    """Whom senders try first."""
    return {one for one, preference in exchangers.items() if preference == min(exchangers.values())}


def publish(array: MailArray) -> None:
    """Expose the servers, and return when all of them are in DNS."""
    patch = '{"spec":{"expose":{"type":"NodePort"}}}'
    array.kubectl("patch", "mailserver", GROUP, "--type=merge", "-p", patch)
    array.wait_serving(GROUP, 3)
    asyncio.run(_published())


async def _published() -> None:
    async with Watch(DOMAIN) as watch:
        await watch.until(all_in_service, "all servers are in service", PUBLISHED_SECONDS)
    async with asyncio.timeout(PUBLISHED_SECONDS):
        for i in range(3):
            while not await addresses(host(names.server(GROUP, i))):  # noqa: ASYNC110 - DNS tells nobody
                await asyncio.sleep(0.5)


class Routes:
    """From a mail exchanger's name to a socket: the address by DNS, kept for the TTL, and the port by the Service.

    While DNS is silent the last address counts, as it does in a resolver of a domain with several name servers.
    """

    def __init__(self, array: MailArray) -> None:
        self._addresses: dict[str, str] = {}
        self._until: dict[str, float] = {}  # monotonic; asked again after that
        self._ports = {
            host(server): array.get("service", server)["spec"]["ports"][0]["nodePort"]
            for server in array.servers(GROUP)
        }

    def __call__(self, exchanger: str) -> tuple[str, int]:
        if time.monotonic() >= self._until.get(exchanger, 0.0):
            self._until[exchanger] = time.monotonic() + TTL
            self._ask(exchanger)
        if exchanger not in self._addresses or exchanger not in self._ports:
            raise OSError(f"{exchanger} has no address")
        return self._addresses[exchanger], self._ports[exchanger]

    def _ask(self, exchanger: str) -> None:
        with contextlib.suppress(OSError, dns.exception.DNSException):
            found = asyncio.run(addresses(exchanger))
            self._addresses.pop(exchanger, None)
            if found:
                self._addresses[exchanger] = found[0]


@contextlib.asynccontextmanager
async def mail_flows(array: MailArray, seed: int) -> AsyncIterator[tuple[Traffic, Watch]]:
    """Senders by MX, readers, and somebody who asks for the records; afterwards nothing is lost and none was empty."""
    routes = await asyncio.to_thread(Routes, array)
    async with Traffic(array, seed, route=routes) as traffic, Watch(DOMAIN) as watch:
        try:
            await traffic.acknowledged(20)
            yield traffic, watch
        finally:
            print(watch.told())
            taken: Counter[str] = sum((sender.taken for sender in traffic.by_mx), Counter())
            deferred: Counter[str] = sum((sender.deferred for sender in traffic.by_mx), Counter())
            print(f"taken {dict(sorted(taken.items()))}, deferred {dict(sorted(deferred.items()))}")
    assert watch.empty == 0, "there were no MX records for a while"
    await asyncio.to_thread(array.wait_ready)
    await asyncio.to_thread(array.wait_settled, GROUP)
    verdict = await traffic.judge()
    assert verdict.good, str(verdict)

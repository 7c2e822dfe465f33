"""What DNS says: the name servers of a zone are asked themselves, so that no cache stands in between. Wraps dnspython.

Invariant: every question has a deadline, and so many are under way at once; an answer is what was answered, and a name
server that does not answer is a sentence, never an empty answer.
Which servers: those that the operator was told, else the NS of the zone that the system's resolver knows. Refuses to
judge; called by the steering.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import dns.asyncquery
import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

QUERY_SECONDS = 2.0
TRIES = 2
AT_ONCE = 64
SERVERS_SECONDS = 300.0  # name servers of a zone, or the addresses of those that were told, are remembered
MAX_SERVERS = 4  # of a zone that are asked: all of them answer alike, or the first ones show that they do not
PORT = 53

Question = tuple[str, str]  # name, type
Records = tuple[str, ...]
Address = tuple[str, int]


class NoAnswer(NamedTuple):
    """One sentence."""

    why: str


class Resolver:
    """See the module."""

    def __init__(self, servers: Sequence[str] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._told = tuple(servers)
        self._clock = clock
        self._seats = asyncio.Semaphore(AT_ONCE)
        self._known: dict[str, tuple[float, tuple[Address, ...]]] = {}

    async def ask(
        self, questions: Iterable[Question], zones: Mapping[str, str]
    ) -> dict[Question, list[Records | NoAnswer]]:
        """What each name server answers, sorted and in lower case. `zones`: name -> the domain whose servers to ask."""
        found: dict[Question, list[Records | NoAnswer]] = {}
        servers: dict[str, tuple[Address, ...] | NoAnswer] = {}
        wanted = list(questions)
        for domain in sorted({zones.get(name, name) for name, _ in wanted}):
            servers[domain] = await self._servers(domain)

        async def one(question: Question) -> None:
            where = servers[zones.get(question[0], question[0])]
            if isinstance(where, NoAnswer):
                found[question] = [where]
            elif not where:
                found[question] = [()]  # no zone holds it
            else:
                found[question] = list(await asyncio.gather(*(self._query(question, address) for address in where)))

        await asyncio.gather(*(one(question) for question in wanted))
        return found

    async def _servers(self, domain: str) -> tuple[Address, ...] | NoAnswer:
        cached = self._known.get("" if self._told else domain)
        if cached is not None and self._clock() < cached[0]:
            return cached[1]
        try:
            found = await self._look_up_told() if self._told else await self._look_up(domain)
        except (dns.exception.DNSException, OSError, ValueError) as error:
            return NoAnswer(_sentence(error, f"the name servers of {domain} cannot be found"))
        self._known["" if self._told else domain] = (self._clock() + SERVERS_SECONDS, found)
        return found

    async def _look_up_told(self) -> tuple[Address, ...]:
        found: list[Address] = []
        for server in self._told:
            host, port = split(server)
            infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
            found += [(str(info[4][0]), port) for info in infos]
        return tuple(dict.fromkeys(found))

    async def _look_up(self, domain: str) -> tuple[Address, ...]:
        """Empty when no zone but the root holds the domain."""
        resolver = dns.asyncresolver.Resolver()
        resolver.lifetime = QUERY_SECONDS * TRIES
        zone = await dns.asyncresolver.zone_for_name(domain, resolver=resolver)
        if zone == dns.name.root:
            return ()
        servers = [str(record.target) for record in await resolver.resolve(zone, "NS")]
        found: list[Address] = []
        for server in random.sample(servers, min(MAX_SERVERS, len(servers))):
            for type_ in ("A", "AAAA"):
                with contextlib.suppress(dns.exception.DNSException):
                    found += [(str(record), PORT) for record in await resolver.resolve(server, type_)]
                    break  # one family is enough: it is the same server
        if not found:
            raise ValueError(f"no name server of {zone} has an address")
        return tuple(found)

    async def _query(self, question: Question, address: Address) -> Records | NoAnswer:
        last = NoAnswer("")
        for _ in range(TRIES):
            async with self._seats:
                answer = await self._query_once(question, address)
            if not isinstance(answer, NoAnswer):
                return answer
            last = answer
        return last

    async def _query_once(self, question: Question, address: Address) -> Records | NoAnswer:
        name, type_ = question
        try:
            message = dns.message.make_query(name, type_)
            answer, _ = await dns.asyncquery.udp_with_fallback(
                message, address[0], timeout=QUERY_SECONDS, port=address[1], ignore_unexpected=True
            )
        except (dns.exception.DNSException, OSError, EOFError) as error:
            return NoAnswer(_sentence(error, f"{address[0]} cannot be asked"))
        if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            return NoAnswer(f"{address[0]} answers {dns.rcode.to_text(answer.rcode())} to {name} {type_}")
        kind = dns.rdatatype.from_text(type_)
        records = [_text(record) for rrset in answer.answer if rrset.rdtype == kind for record in rrset]
        return tuple(sorted(records))


def split(server: str) -> Address:
    """Host and port of what the operator was told: 10.0.0.53, dns.example:5353, [2001:db8::53]:53, 2001:db8::53."""
    if server.startswith("["):
        host, _, rest = server[1:].partition("]")
        return host, int(rest.removeprefix(":") or PORT)
    host, colon, port = server.rpartition(":")
    if not colon or ":" in host:
        return server, PORT
    return host, int(port)


def _text(record: object) -> str:
    """A record as DNSEndpoints have it: in lower case, no dot at the end."""
    return str(record).rstrip(".").lower()


def _sentence(error: BaseException, what: str) -> str:
    if isinstance(error, dns.exception.Timeout):
        return f"{what} in time"
    return f"{what}: {error or type(error).__name__}"

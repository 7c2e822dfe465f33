"""What a sender sees in DNS, asked of the domain's own name server: the MX records, and where their servers are.

`Watch` asks all the time, as the judge of a run: it keeps every answer that was another than the one before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import dns.asyncquery
import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from tests.e2e.box import BoxError, network

ASK_SECONDS = 2.0  # for one answer; the name server is on the same machine
BETWEEN = 0.2  # seconds between two questions of a watch

Exchangers = dict[str, int]  # preference by host


@dataclass(frozen=True, slots=True)
class Answer:
    """Of one question."""

    exchangers: Exchangers
    ttl: int  # seconds


async def mail_exchangers(domain: str, server: str = network.NAME_SERVER_ADDRESS) -> Answer:
    """The MX records of a domain; OSError or dns.exception.DNSException when there is no answer to that."""
    found: Exchangers = {}
    ttl = 0
    for records in await _ask(domain, "MX", server):
        ttl = records.ttl
        found |= {record.exchange.to_text(omit_final_dot=True): record.preference for record in records}
    return Answer(found, ttl)


async def addresses(host: str, server: str = network.NAME_SERVER_ADDRESS) -> list[str]:
    """The IPv4 addresses of a host."""
    return [record.address for records in await _ask(host, "A", server) for record in records]


async def _ask(name: str, kind: str, server: str) -> list[dns.rrset.RRset]:
    question = dns.message.make_query(name, kind)
    answer, _ = await dns.asyncquery.udp_with_fallback(question, server, timeout=ASK_SECONDS)
    if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise OSError(f"{server} answers {dns.rcode.to_text(answer.rcode())} about {name}")
    wanted = dns.rdatatype.from_text(kind)
    return [records for records in answer.answer if records.rdtype == wanted]


@dataclass(slots=True)
class Watch:
    """Asks for the MX records of a domain, again and again. For `async with`."""

    domain: str
    asked: int = 0
    empty: int = 0  # answers without any MX record
    silent: int = 0  # questions without an answer
    seen: list[tuple[float, Exchangers]] = field(default_factory=list)  # when (monotonic), and what came then
    _task: asyncio.Task[None] | None = None
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def __aenter__(self) -> Watch:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def now(self) -> Exchangers:
        """The last answer."""
        return self.seen[-1][1] if self.seen else {}

    @property
    def changes(self) -> int:
        """How often the answer was another one."""
        return max(0, len(self.seen) - 1)

    async def until(self, holds: Callable[[Exchangers], bool], what: str, seconds: float) -> float:
        """Until an answer is like that: when it came, on the monotonic clock."""
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: holds(self.now))
        except TimeoutError as error:
            raise BoxError(f"not in {seconds:.0f} s: {what}; the MX records are {self.now}") from error
        return self.seen[-1][0]

    def told(self) -> str:
        """The story, a line for each change."""
        begin = self.seen[0][0] if self.seen else 0.0
        lines = [
            f"  {at - begin:6.1f} s  " + ", ".join(f"{p} {host}" for host, p in sorted(found.items()))
            for at, found in self.seen
        ]
        counts = f"{self.asked} questions, {self.empty} answers without MX, {self.silent} without an answer"
        return "\n".join([f"MX of {self.domain}: {counts}", *lines])

    async def _watch(self) -> None:
        while True:
            self.asked += 1
            try:
                found = (await mail_exchangers(self.domain)).exchangers
            except (OSError, dns.exception.DNSException):
                self.silent += 1
            else:
                self.empty += not found
                if not self.seen or found != self.now:
                    async with self._changed:
                        self.seen.append((time.monotonic(), found))
                        self._changed.notify_all()
            await asyncio.sleep(BETWEEN)

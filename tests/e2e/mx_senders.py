"""Senders as the world has them.

They look up the MX records and keep them for their TTL, try the best preference first and any one of equals, go to the
next server at a 4xx or a dead connection, and open a session for each message.
"""

from __future__ import annotations

import asyncio
import random
import smtplib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import dns.exception

from tests.e2e.mail_exchangers import Answer, mail_exchangers
from tests.faults.ledger import Ledger
from tests.faults.where import CONNECT_SECONDS

ANSWER_SECONDS = 20.0
SILENT_SECONDS = 10.0  # until a DNS that was silent is asked again
COME_BACK = 1.0  # seconds until a message that no server took is tried again; a real sender waits minutes

Route = Callable[[str], tuple[str, int]]  # where a mail exchanger is; OSError when that is not known


class Records:
    """The MX records of a domain, as a resolver keeps them. When it is asked and DNS is silent, the old ones stay."""

    def __init__(self, domain: str) -> None:
        self._domain = domain
        self._answer: Answer | None = None
        self._until = 0.0

    async def in_order(self, chance: random.Random) -> list[str]:
        """Hosts as RFC 5321 section 5.1 has them tried."""
        if time.monotonic() >= self._until:
            try:
                answer = await mail_exchangers(self._domain)
            except (OSError, dns.exception.DNSException):
                self._until = time.monotonic() + SILENT_SECONDS
            else:
                self._answer, self._until = answer, time.monotonic() + answer.ttl
        found = dict(self._answer.exchangers) if self._answer else {}
        return sorted(found, key=lambda host: (found[host], chance.random()))


@dataclass(slots=True)
class MxSender:
    """One of them. `run` until told to stop."""

    records: Records
    route: Route
    ledger: Ledger
    mailboxes: tuple[str, ...]
    random: random.Random
    pause: float  # seconds between messages, in the mean
    longest: float = 0.0  # seconds from the first attempt with a message to its 250
    taken: Counter[str] = field(default_factory=Counter)  # messages by host
    deferred: Counter[str] = field(default_factory=Counter)  # attempts that did not succeed, by host

    async def run(self, stop: asyncio.Event) -> None:
        """Send until told to stop; the message under way is finished."""
        while not stop.is_set():
            await self._send_one(stop)
            await asyncio.sleep(2 * self.pause * self.random.random())

    async def _send_one(self, stop: asyncio.Event) -> None:
        entry, text = self.ledger.new((self.random.choice(self.mailboxes),))
        began = time.monotonic()
        while not stop.is_set():
            for host in await self.records.in_order(self.random):
                try:
                    taken = await asyncio.to_thread(self._attempt, host, entry.mailboxes[0], text)
                except (OSError, smtplib.SMTPException):  # nobody knows whether it was taken: not to be sent again
                    self.deferred[host] += 1
                    return
                if taken:
                    self.taken[host] += 1
                    self.longest = max(self.longest, time.monotonic() - began)
                    self.ledger.acknowledge(entry)
                    return
                self.deferred[host] += 1
            await asyncio.sleep(COME_BACK)

    def _attempt(self, host: str, mailbox: str, text: bytes) -> bool:
        """Whether the server took it; an error when that is not known."""
        try:
            session = smtplib.SMTP(*self.route(host), local_hostname="sender.example", timeout=CONNECT_SECONDS)
        except (OSError, smtplib.SMTPException):
            return False
        with session:
            try:
                if session.sock:
                    session.sock.settimeout(ANSWER_SECONDS)
                session.ehlo_or_helo_if_needed()
                if session.mail("sender@elsewhere.example")[0] != 250 or session.rcpt(mailbox)[0] != 250:
                    return False
            except (OSError, smtplib.SMTPException):
                return False
            return session.data(text)[0] == 250

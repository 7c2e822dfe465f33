"""Mail that never stops while something is done to the array, and the verdict at the end."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

from tests.e2e.mail_array import DOMAIN, MailArray
from tests.e2e.mx_senders import MxSender, Records, Route
from tests.faults.ledger import Ledger, Verdict
from tests.faults.readers import Reader, read_all
from tests.faults.senders import Sender
from tests.faults.where import Where

SETS, SIZE = 16, 8  # of mailboxes: each traffic has a set of its own, in which no other's mail lies
MAILBOXES = tuple(f"box{i}@{DOMAIN}" for i in range(SETS * SIZE))
_sets = iter(range(SETS))
SENDERS, READERS = 6, 2
PAUSE = 0.15  # seconds between a sender's bursts, in the mean
MX_PAUSE = 0.3  # seconds between messages of a sender that goes by MX records: a session each
READ_SECONDS = 90.0


class Traffic:
    """For `async with`: senders and readers at work inside; `judge` afterwards. Readers avoid those nodes.

    With a `route` to mail exchangers, senders go by the domain's MX records.
    """

    def __init__(
        self,
        array: MailArray,
        seed: int,
        *,
        where: Where | None = None,
        route: Route | None = None,
        avoid: frozenset[str] = frozenset(),
    ) -> None:
        print(f"\nSEED={seed}")
        self.array = array
        self._chance = random.Random(seed)
        first = SIZE * next(_sets)
        self.mailboxes = MAILBOXES[first : first + SIZE]
        self.looked_at = self.mailboxes[0]  # by a test alone: readers would answer it with IN-USE now and then
        self.ledger = Ledger(self._chance.randrange(1 << 31))
        self.by_mx: list[MxSender] = []
        self.senders: list[Sender] = []
        for _ in range(SENDERS):
            chance = self._another()
            if route:  # each has a resolver of its own
                self.by_mx.append(MxSender(Records(DOMAIN), route, self.ledger, self.mailboxes, chance, MX_PAUSE))
            else:
                anywhere = where or array.any_smtp(self._another())
                self.senders.append(Sender(anywhere, self.ledger, self.mailboxes, chance, PAUSE))
        self.readers = [
            Reader(
                array.any_pop3(self._another(), avoid),
                self.ledger,
                self.mailboxes[1:],
                self.mailboxes[-1],
                self._another(),
            )
            for _ in range(READERS)
        ]
        self._stop = asyncio.Event()
        self._at_work: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Traffic:
        workers: list[Sender | MxSender | Reader] = [*self.senders, *self.by_mx, *self.readers]
        self._at_work = [asyncio.create_task(worker.run(self._stop)) for worker in workers]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._at_work)

    async def acknowledged(self, more: int, seconds: float = 60) -> None:
        """Until so many more messages were acknowledged."""
        goal = self.ledger.acknowledged + more
        async with asyncio.timeout(seconds):
            while self.ledger.acknowledged < goal:  # noqa: ASYNC110 - senders know of nobody who waits
                await asyncio.sleep(0.05)

    async def judge(self) -> Verdict:
        """Read everything back and compare; the verdict is printed."""
        began = time.monotonic()
        where = self.array.any_pop3(self._another())
        texts = await asyncio.gather(*(read_all(where, mailbox, READ_SECONDS) for mailbox in self.mailboxes))
        verdict = self.ledger.judge(dict(zip(self.mailboxes, texts, strict=True)))
        refused = sum((reader.refused for reader in self.readers), Counter())
        senders: list[Sender | MxSender] = [*self.senders, *self.by_mx]
        print(
            f"{verdict}; longest answer {max(s.longest for s in senders):.1f} s; "
            f"sessions read {sum(r.sessions for r in self.readers)}, not had {dict(refused)}; "
            f"read in {time.monotonic() - began:.1f} s"
        )
        print(*verdict.examples(), sep="\n")
        return verdict

    def _another(self) -> random.Random:
        return random.Random(self._chance.randrange(1 << 31))

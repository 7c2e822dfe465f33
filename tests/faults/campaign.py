"""A campaign: senders and readers at work, one fault after another, and at the end the ledger against the mailboxes.

Order: start, hurt until the messages are acknowledged and the faults are done, heal, wait until every server says that
nothing is short of copies, read every mailbox, stop, verify the journals. The verdict is the ledger's; a campaign also
fails when the array does not come to rest, or when a journal is damaged at its end.

Senders try most of what had no answer again, with the same Message-ID and the same bytes, as mail servers do; the rest
is given up, and may be there once. A message that is there twice after all is counted,
and one in ten thousand is allowed: the array promises to drop second deliveries, within bounds.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.faults.faults import KINDS, Fault
from tests.faults.ledger import Ledger, Verdict
from tests.faults.readers import Reader, read_all
from tests.faults.safety import Flipped, at_rest_problem, reports, second_deliveries_problem, wait_until_safe
from tests.faults.schedule import Planned, plan
from tests.faults.senders import Sender
from tests.faults.stage import DATABASE, Stage
from tests.faults.where import local
from tests.support.array import DOMAIN

SENDERS_PER_SERVER = 4
READERS = 3
PERSISTENCE = 0.8  # of what had no answer is sent again
DUPLICATES = 1e-4  # what is aimed at, over many messages
PAUSE = 0.08  # seconds between a sender's bursts, in the mean
PATIENT_PAUSE = 0.8  # the same, while more is acknowledged than the plan needs: the mail is to last for all the faults
MAILBOXES = tuple(f"box{i}@{DOMAIN}" for i in range(16))
BIN = MAILBOXES[-1]
AT_ONCE = 3  # faults that may be under way
IMPATIENCE = 5.0  # seconds without the next fault; then it comes before its messages were acknowledged
REST_SECONDS = 300.0  # until all is at rest after the last fault: bound for a busy machine
READ_SECONDS = 300.0
BACKUP_EVERY = 12  # faults between two backups of the database


@dataclass(frozen=True, slots=True)
class Order:
    """What a person asked for."""

    seed: int
    messages: int
    faults: int
    kinds: tuple[str, ...]
    duplicates: float = DUPLICATES  # of the acknowledged messages may be there twice


@dataclass(slots=True)
class Result:
    """What became of it."""

    verdict: Verdict
    faults: int = 0
    problems: list[str] = field(default_factory=list)  # other than the verdict's
    duplicates: float = DUPLICATES  # allowed

    @property
    def good(self) -> bool:
        """Whether every promise was kept."""
        v = self.verdict
        few = len(v.duplicated) <= v.acknowledged * self.duplicates
        return not (v.lost or v.damaged or v.undead or self.problems) and few

    def last_line(self) -> str:
        """As it is promised."""
        v = self.verdict
        return (
            f"acknowledged {v.acknowledged}, lost {len(v.lost)}, damaged {len(v.damaged)}, "
            f"duplicated {len(v.duplicated)}, faults {self.faults}"
        )


class Campaign:
    """One run of an order on a stage."""

    def __init__(self, stage: Stage, order: Order, say: Callable[[str], None]) -> None:
        self._stage = stage
        self._order = order
        self._say_line = say
        self._dice = random.Random(order.seed)
        self.ledger = Ledger(self._dice.randrange(1 << 31))
        self._flipped: list[Flipped] = []
        self._busy: set[str] = set()  # servers, and the database, to which something is being done
        self._under_way: set[asyncio.Task[None]] = set()
        self._problems: list[str] = []
        self._done: Counter[str] = Counter()
        self._due = order.messages // 10  # acknowledged messages that the next step of the plan waits for
        self._began = time.monotonic()

    async def run(self) -> Result:
        """The whole campaign. Raises AssertionError when the array does not come to rest, or a fault cannot be done."""
        stage, order = self._stage, self._order
        await stage.start()
        if stage.database is not None:
            await asyncio.to_thread(stage.back_up_database)
        workers = self._workers()
        stop = asyncio.Event()
        at_work = [asyncio.create_task(worker.run(stop)) for worker in workers]
        pace = asyncio.create_task(self._keep_pace([worker for worker in workers if isinstance(worker, Sender)]))
        self._began = time.monotonic()
        try:
            await self._hurt()
            self._due = order.messages
            while self.ledger.acknowledged < order.messages:  # noqa: ASYNC110  # nothing tells it
                await asyncio.sleep(0.05)
        finally:
            stop.set()
            await asyncio.gather(*at_work)
            pace.cancel()
        self._say(f"healed; {self.ledger.acknowledged} acknowledged of {len(self.ledger.entries)} sent")
        self._say_what_they_saw(workers)
        await self._come_to_rest()
        verdict = await self._read_back()
        await asyncio.to_thread(stage.array.stop)
        for index, name in enumerate(stage.names):
            done = await asyncio.to_thread(
                stage.array.cli, "journal", "verify", str(stage.array.volume(index)), timeout=600
            )
            if done.returncode:
                self._problems.append(f"journal of {name}: {(done.stdout + done.stderr)[-1500:]}")
        self._say(f"faults {dict(sorted(self._done.items()))}")
        return Result(verdict, self._done.total(), self._problems, self._order.duplicates)

    @property
    def faults(self) -> int:
        """Done so far."""
        return self._done.total()

    # -- hurting -----------------------------------------------------------------------------------------
    async def _hurt(self) -> None:
        order = self._order
        try:
            for planned in plan(order.seed, order.faults, order.kinds, len(self._stage.names), order.messages):
                await self._wait_for_messages(planned.after)
                if planned.number % BACKUP_EVERY == 0 and self._stage.database is not None:
                    await self._back_up()
                await self._begin(planned)
            await self._all_over()
        finally:
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _wait_for_messages(self, count: int) -> None:
        self._due = count
        end = time.monotonic() + IMPATIENCE
        while self.ledger.acknowledged < count and time.monotonic() < end:
            await asyncio.sleep(0.01)
            for task in [task for task in self._under_way if task.done()]:
                self._under_way.remove(task)
                task.result()

    async def _begin(self, planned: Planned) -> None:
        fault = KINDS[planned.kind](self._stage, planned, self._flipped)
        if fault.harms:
            await self._all_over()
            self._say(f"{planned} waits until all is whole elsewhere")
            await wait_until_safe(self._stage, planned.victim, self._flipped, self._say)
        while len(self._under_way) >= AT_ONCE or self._busy & fault.touches:
            await self._one_over()
        self._busy |= fault.touches
        task = asyncio.create_task(self._do(planned, fault))
        self._under_way.add(task)
        if fault.harms:
            await self._all_over()  # the next one may come when the harm is done, not before

    async def _do(self, planned: Planned, fault: Fault) -> None:
        try:
            what = await fault.begin()
            self._done[fault.name] += 1
            self._say(f"{planned} {what}" + (f", {fault.seconds:.1f} s" if fault.lasts else ""))
            if fault.lasts:
                await asyncio.sleep(fault.seconds)
        finally:
            await fault.end()
            self._busy -= fault.touches
        if fault.lasts:
            self._say(f"{planned} is over")

    async def _one_over(self) -> None:
        """Raises what went wrong with it."""
        done, self._under_way = await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _all_over(self) -> None:
        while self._under_way:
            await self._one_over()

    async def _back_up(self) -> None:
        while DATABASE in self._busy:
            await self._one_over()
        await asyncio.to_thread(self._stage.back_up_database)

    # -- the end -----------------------------------------------------------------------------------------
    async def _come_to_rest(self) -> None:
        stage = self._stage
        began = time.monotonic()
        await asyncio.to_thread(stage.array.wait_ready, REST_SECONDS)
        await asyncio.to_thread(stage.array.wait_settled, REST_SECONDS)
        end = time.monotonic() + REST_SECONDS
        while True:
            found = await reports(stage)
            problem = at_rest_problem(found) or second_deliveries_problem(found)
            if problem is None:
                break
            if time.monotonic() > end:
                raise AssertionError(f"not at rest within {REST_SECONDS:g} s: {problem}")
            await asyncio.sleep(0.2)
        for index in range(len(stage.names)):
            await wait_until_safe(stage, index, self._flipped, self._say, max(1.0, end - time.monotonic()))
        self._say(f"at rest after {time.monotonic() - began:.1f} s")

    async def _read_back(self) -> Verdict:
        verdict = Verdict(self.ledger.acknowledged)
        began = time.monotonic()
        found = 0
        for mailbox in MAILBOXES:  # one after the other: a long campaign does not fit into memory
            texts = await read_all(local(self._stage.array.pop3), mailbox, READ_SECONDS)
            found += len(texts)
            self.ledger.judge_mailbox(verdict, mailbox, texts)
        verdict.damaged = list(self.ledger.damaged)
        self._say(f"{found} messages read back in {time.monotonic() - began:.1f} s, {self.ledger.deleted} were deleted")
        return verdict

    # -- people ------------------------------------------------------------------------------------------
    async def _keep_pace(self, senders: Sequence[Sender]) -> None:
        while True:
            pause = PATIENT_PAUSE if self.ledger.acknowledged > self._due else PAUSE
            for sender in senders:
                sender.pause = pause
            await asyncio.sleep(0.1)

    def _workers(self) -> list[Sender | Reader]:
        array = self._stage.array

        def another() -> random.Random:
            return random.Random(self._dice.randrange(1 << 31))

        senders = [
            Sender(local(array.smtp(index)), self.ledger, MAILBOXES, another(), PAUSE, PERSISTENCE)
            for index in range(len(array.names))
            for _ in range(SENDERS_PER_SERVER)
        ]
        return [*senders, *(Reader(local(array.pop3), self.ledger, MAILBOXES, BIN, another()) for _ in range(READERS))]

    def _say_what_they_saw(self, workers: Sequence[Sender | Reader]) -> None:
        readers = [worker for worker in workers if isinstance(worker, Reader)]
        senders = [worker for worker in workers if isinstance(worker, Sender)]
        for who, refused in (
            ("senders", sum((sender.refused for sender in senders), Counter[str]())),
            ("readers", sum((reader.refused for reader in readers), Counter[str]())),
        ):
            for reason, times in refused.most_common():
                self._say(f"{who}: {times} times {reason}")
        sessions = sum(reader.sessions for reader in readers)
        longest, retries = max(sender.longest for sender in senders), sum(sender.retries for sender in senders)
        self._say(f"longest answer {longest:.1f} s; {retries} messages sent again; {sessions} sessions read")

    def _say(self, text: str) -> None:
        self._say_line(f"{time.monotonic() - self._began:7.1f} s {self.ledger.acknowledged:7d}  {text}")

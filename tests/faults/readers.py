"""Readers: they look into mailboxes while the array is hurt, delete from one of them, and read all at the end."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from dataclasses import dataclass, field

from tests.faults.ledger import Entry, Fate, Ledger
from tests.faults.where import Where
from tests.support.array import PASSWORD
from tests.support.pop3_dialog import Client

SESSION_SECONDS = 30.0
COME_BACK = 0.2  # seconds
READ_AT_ONCE = 20  # messages of one look
PIPELINED = 50  # RETRs under way when a whole mailbox is read


class NotNow(Exception):
    """The mailbox cannot be had now, or the session broke."""


@dataclass(slots=True)
class Reader:
    """One client that looks into mailboxes in turn. `bin` is the mailbox that it deletes from."""

    where: Where
    ledger: Ledger
    mailboxes: tuple[str, ...]
    bin: str
    random: random.Random
    sessions: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # by reason

    async def run(self, stop: asyncio.Event) -> None:
        """Until told to stop."""
        while not stop.is_set():
            try:
                async with asyncio.timeout(SESSION_SECONDS):
                    await self._look(self.random.choice(self.mailboxes))
                self.sessions += 1
            except (OSError, EOFError, TimeoutError, NotNow) as error:
                self.refused[str(error) if isinstance(error, NotNow) else type(error).__name__] += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), COME_BACK)

    async def _look(self, mailbox: str) -> None:
        async with _connected(self.where) as client:
            count = await _open(client, mailbox)
            deleting: list[Entry] = []
            for number in self.random.sample(range(1, count + 1), min(count, READ_AT_ONCE)):
                text = await _retrieve(client, number)
                entry = self.ledger.check_text(mailbox, text)
                if entry is not None and mailbox == self.bin and self.random.random() < 0.5:
                    if not (await client.ask(f"DELE {number}")).startswith("+OK"):
                        raise NotNow("DELE refused")
                    deleting.append(entry)
            for entry in deleting:
                entry.deleted.setdefault(mailbox, Fate.UNKNOWN)
            if (await client.ask("QUIT")).startswith("+OK"):
                for entry in deleting:
                    entry.deleted[mailbox] = Fate.CONFIRMED
                self.ledger.deleted += len(deleting)


async def read_all(where: Where, mailbox: str, seconds: float) -> list[bytes]:
    """The whole mailbox. Comes back while it is locked by a session whose access server died, or cannot be had."""
    end = asyncio.get_running_loop().time() + seconds
    while True:
        try:
            async with asyncio.timeout(seconds), _connected(where) as client:
                count = await _open(client, mailbox)
                texts = []
                for first in range(1, count + 1, PIPELINED):
                    numbers = range(first, min(first + PIPELINED, count + 1))
                    for number in numbers:
                        client.send(f"RETR {number}")
                    texts += [await _answer(client) for _ in numbers]
                await client.ask("QUIT")
                return texts
        except (OSError, EOFError, NotNow, TimeoutError) as error:
            if asyncio.get_running_loop().time() > end:
                raise AssertionError(f"{mailbox} cannot be read: {error!r}") from error
            await asyncio.sleep(COME_BACK)


def _connected(where: Where) -> Client:
    host, port = where()
    return Client(port, host)


async def _open(client: Client, mailbox: str) -> int:
    if not (await client.line()).startswith("+OK"):
        raise NotNow("no greeting")
    for command in (f"USER {mailbox}", f"PASS {PASSWORD}"):
        answer = await client.ask(command)
        if not answer.startswith("+OK"):
            raise NotNow(answer)
    return int((await client.ask("STAT")).split()[1])


async def _retrieve(client: Client, number: int) -> bytes:
    client.send(f"RETR {number}")
    return await _answer(client)


async def _answer(client: Client) -> bytes:
    answer = await client.line()
    if not answer.startswith("+OK"):
        raise NotNow(answer)
    return await client.text()

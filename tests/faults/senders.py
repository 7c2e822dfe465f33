"""Senders that never stop: each keeps a session with one server, writes down what it heard, comes back after a loss."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from dataclasses import dataclass, field

from tests.faults.ledger import Entry, Ledger
from tests.faults.where import CONNECT_SECONDS, Where

ANSWER_SECONDS = 20.0  # longer than any pause that is allowed; then the session is given up, as a sender would
COME_BACK = 0.1  # seconds until a lost session is opened again
BURST = 12  # messages in a row, so that kills meet batches of several; then a pause


@dataclass(slots=True)
class Sender:
    """One client of one server. `run` until cancelled."""

    where: Where
    ledger: Ledger
    mailboxes: tuple[str, ...]
    random: random.Random
    pause: float  # seconds between bursts
    persistence: float = 0.0  # the share of messages without an answer that are sent again, as mail servers do
    longest: float = 0.0  # seconds that an answer to a whole message took
    gap: float = 0.0  # the longest time between two acknowledgements, pauses between bursts left out
    refused: Counter[str] = field(default_factory=Counter)  # sessions that ended otherwise than hoped for, by reason
    retries: int = 0
    _under_way: tuple[Entry, bytes] | None = None  # begun, and not answered yet
    _since: float = 0.0  # when it last had something to send, or was acknowledged

    async def run(self, stop: asyncio.Event) -> None:
        """Send until told to stop; the message under way is finished."""
        self._since = asyncio.get_running_loop().time()
        while not stop.is_set():
            writer: asyncio.StreamWriter | None = None
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    async with asyncio.timeout(CONNECT_SECONDS):
                        reader, writer = await asyncio.open_connection(*self.where())
                    await self._expect(reader, 220)
                    writer.write(b"EHLO sender.example\r\n")
                    await self._expect(reader, 250)
                await self._send_bursts(reader, writer, stop)
            except (OSError, EOFError, TimeoutError, _Refused) as error:
                self.refused[str(error) if isinstance(error, _Refused) else type(error).__name__] += 1
                await asyncio.sleep(COME_BACK)
            finally:
                if writer is not None:
                    writer.close()
                    with contextlib.suppress(OSError):
                        await writer.wait_closed()

    async def _send_bursts(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stop: asyncio.Event
    ) -> None:
        while not stop.is_set():
            for _ in range(self.random.randint(1, BURST)):
                count = 2 if len(self.mailboxes) > 1 and self.random.random() < 0.1 else 1
                entry, text = self._next() or self.ledger.new(tuple(self.random.sample(self.mailboxes, count)))
                started = asyncio.get_running_loop().time()
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._send(reader, writer, entry, text)
                now = asyncio.get_running_loop().time()
                self.longest = max(self.longest, now - started)
                self.gap = max(self.gap, now - self._since)
                self._since = now
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self.pause * 2 * self.random.random())
            self._since = asyncio.get_running_loop().time()

    def _next(self) -> tuple[Entry, bytes] | None:
        """What had no answer, when it is not given up."""
        again, self._under_way = self._under_way, None
        if again is None or self.random.random() >= self.persistence:
            return None
        self.retries += 1
        again[0].sent_again = True
        return again

    async def _send(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, entry: Entry, text: bytes
    ) -> None:
        self._under_way = entry, text
        commands = ["MAIL FROM:<sender@elsewhere.example>", *(f"RCPT TO:<{m}>" for m in entry.mailboxes), "DATA"]
        writer.write("".join(c + "\r\n" for c in commands).encode())
        for _ in commands[:-1]:
            await self._expect(reader, 250)
        await self._expect(reader, 354)
        stuffed = text.replace(b"\r\n.", b"\r\n..")
        writer.write(stuffed + b".\r\n")
        await self._expect(reader, 250)
        self._under_way = None
        self.ledger.acknowledge(entry)

    async def _expect(self, reader: asyncio.StreamReader, code: int) -> None:
        while True:
            line = await reader.readline()
            if not line.endswith(b"\n"):
                raise EOFError
            if line[3:4] != b"-":
                break
        if int(line[:3]) != code:
            # A new session keeps the client simple: what was pipelined after a refusal is dropped with the old one.
            raise _Refused(line.decode().strip())


class _Refused(Exception):
    """Another reply than was hoped for; the message counts as sent without an answer."""

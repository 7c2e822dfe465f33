"""A session's reading ahead: a client that takes one message after the other finds the next ones in memory.

Following messages are read in parallel from all servers (patent: compiled from all servers), those that lie near each
other in a segment by one read. One object for each session; a budget is shared by all sessions of the process.

Invariants:
- At most WINDOW_BYTES are read ahead for a session, and BUDGET_BYTES for the process; then no more is.
- What was read ahead and not asked for is dropped when the client goes elsewhere or leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from mailarray.access.maildrop import Message
from mailarray.access.replicas import NoReplica, ReplicaReader

WINDOW_BYTES = 1024 * 1024  # for one session
WINDOW_MESSAGES = 64  # for one session; also the most reads under way for it
LARGEST_AHEAD = 256 * 1024  # longer messages are read when asked for: the client is busy with them long enough
BUDGET_BYTES = 64 * 1024 * 1024  # for all sessions
NEAR_BYTES = 16 * 1024  # between two bodies: read along, since that costs less than a request of 200 microseconds
LONGEST_RUN = 1024 * 1024  # bytes of one read, those between the bodies included
FIRST_WINDOW = 4  # messages; doubled with each message that was wanted


class Budget:
    """Bytes that may still be read ahead in this process."""

    def __init__(self, size: int = BUDGET_BYTES) -> None:
        self.left = size


def near(before: Message, after: Message) -> bool:
    """Whether one read gets both: the same replicas, and little between them."""
    if not before.locations or not after.locations:
        return False
    a, b = before.locations[0], after.locations[0]
    gap = b.offset - (a.offset + a.length)
    return a.segment == b.segment and a.members == b.members and 0 <= gap <= NEAR_BYTES


def runs(messages: Sequence[Message], indexes: Sequence[int]) -> Iterator[list[int]]:
    """Cut consecutive indexes into runs of messages that are near each other."""
    run: list[int] = []
    for index in indexes:
        if run and not (near(messages[run[-1]], messages[index]) and _span(messages, run[0], index) <= LONGEST_RUN):
            yield run
            run = []
        run.append(index)
    if run:
        yield run


def _span(messages: Sequence[Message], first: int, last: int) -> int:
    end = messages[last].locations[0]
    return end.offset + end.length - messages[first].locations[0].offset


class ReadAhead:
    """The bodies that one session is likely to ask for next."""

    def __init__(self, reader: ReplicaReader, messages: Sequence[Message], budget: Budget) -> None:
        self._reader = reader
        self._messages = messages
        self._budget = budget
        self._ahead: dict[int, asyncio.Task[list[bytes]]] = {}
        self._position: dict[int, int] = {}  # index -> where it is in its task's list
        self._held = 0  # bytes of `_ahead`
        self._next = 0  # the index that a client that reads in order wants next
        self._planned = 0  # first index that is not read ahead
        self._window = FIRST_WINDOW

    def ready(self, index: int) -> bool:
        """Whether `body` answers without waiting."""
        task = self._ahead.get(index)
        return task is not None and task.done()

    async def body(self, index: int) -> bytes:
        """A whole, verified body. Raises NoReplica."""
        self.passed(index)
        task = self._ahead.get(index)
        if task is None:
            self._planned = max(self._planned, index)
            self._plan()
            task = self._ahead.get(index)
        else:
            self._plan()
        if task is not None:
            try:
                return (await asyncio.shield(task))[self._position[index]]
            except NoReplica:
                pass  # one body of a run may be what no replica gives: try this one alone
            finally:
                self._forget(index)
        return await self._reader.body(self._messages[index])

    def passed(self, index: int) -> None:
        """The client asked for this message; `body` says so by itself."""
        if index == self._next:
            self._window = min(WINDOW_MESSAGES, max(FIRST_WINDOW, self._window * 2)) if index else FIRST_WINDOW
        elif index not in self._ahead:
            self.drop()
            self._window = 0  # reading at random: nothing ahead, until two in a row
        self._next = index + 1

    def moved(self, messages: Sequence[Message]) -> None:
        """The same messages, some of them in other places by now."""
        self.drop()
        self._messages = messages

    def drop(self) -> None:
        """Give up what was read ahead."""
        for task in set(self._ahead.values()):
            task.cancel()
        for index in list(self._ahead):
            self._forget(index)
        self._planned = 0

    def _forget(self, index: int) -> None:
        if self._ahead.pop(index, None) is not None:
            del self._position[index]
            self._held -= self._messages[index].length
            self._budget.left += self._messages[index].length

    def _plan(self) -> None:
        # Reading goes ahead in halves of the window, so that there is always something to read together.
        if len(self._ahead) > self._window // 2:
            return
        wanted: list[int] = []
        index = max(self._planned, self._next - 1)
        end = min(len(self._messages), self._next + self._window)
        while index < end:
            length = self._messages[index].length
            if length > LARGEST_AHEAD or self._held + length > WINDOW_BYTES or length > self._budget.left:
                break
            self._held += length
            self._budget.left -= length
            wanted.append(index)
            index += 1
        self._planned = max(self._planned, index)
        for run in runs(self._messages, wanted):
            task = asyncio.create_task(self._fetch([self._messages[i] for i in run]))
            task.add_done_callback(_look)
            for position, i in enumerate(run):
                self._ahead[i] = task
                self._position[i] = position

    async def _fetch(self, messages: Sequence[Message]) -> list[bytes]:
        if len(messages) == 1:
            return [await self._reader.body(messages[0])]
        return await self._reader.run(messages)


def _look(task: asyncio.Task[list[bytes]]) -> None:
    if not task.cancelled():
        task.exception()  # whoever asks for the message hears it; nobody may ask

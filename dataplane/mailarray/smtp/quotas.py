"""Is a mailbox too full for one more message? Answered at RCPT from memory, for mailboxes that have a quota.

Bytes = what the catalog said lately of the mailboxes that mail came for (`quota_keeper.py` asks), and what this server
took for them since. Invariants:

- Nobody waits for a database at RCPT. A mailbox of which nothing is known takes mail, and is asked for at once.
- A mailbox may come to hold more than its quota by what arrives between two answers at all servers, and by the one
  message whose sender did not announce its size; never by what came after an answer that said it was full.
- With the catalog away the last answers hold, and what this server takes is added to them.
- Memory is bounded: the mailboxes that were asked for longest ago are forgotten.

Pure, but for the wish to be asked for. Used by sessions; a quota of 0 or none is no limit, and never comes here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from mailarray.model.message import Delivery
from mailarray.smtp import replies
from mailarray.smtp.replies import Refusal

MAX_MAILBOXES = 65536  # with a quota and mail lately; some 15 MB


class _Fill:
    """What is known of one mailbox."""

    __slots__ = ("known", "new", "wanted")

    def __init__(self) -> None:
        self.known: int | None = None  # bytes, as the catalog said
        self.new = 0  # bytes taken here that the answer does not hold yet
        self.wanted = True  # mail came for it since it was asked for


class Quotas:
    """See the module."""

    def __init__(self) -> None:
        self._fills: dict[str, _Fill] = {}  # the one that was wanted last stands at the end
        self.unknown = asyncio.Event()  # a mailbox is wanted of which nothing is known

    def refusal(self, mailbox: str, quota: int, size: int) -> Refusal | None:
        """Why it takes no message of this size (0: not announced), or None."""
        if size > quota:
            return replies.LARGER_THAN_QUOTA
        fill = self._fills.pop(mailbox, None)
        if fill is None:
            if len(self._fills) >= MAX_MAILBOXES:
                del self._fills[next(iter(self._fills))]
            fill = _Fill()
        self._fills[mailbox] = fill
        fill.wanted = True
        if fill.known is None:
            self.unknown.set()
            return None
        return replies.MAILBOX_FULL if fill.known + fill.new + max(size, 1) > quota else None

    def accepted(self, deliveries: Iterable[Delivery], size: int) -> None:
        """A message was taken."""
        if self._fills:
            for delivery in deliveries:
                fill = self._fills.get(delivery[0])
                if fill is not None:
                    fill.new += size

    def wanted(self, *, all: bool = True) -> dict[str, int]:
        """Mailboxes to ask for, with what was taken for them so far: give that back to `learn`.

        Those that mail came for since the last time, or only those of which nothing is known.
        """
        self.unknown.clear()
        found = {}
        for mailbox, fill in self._fills.items():
            if fill.known is None or (all and fill.wanted):
                found[mailbox] = fill.new
                fill.wanted = False
        return found

    def learn(self, asked: Mapping[str, int], used: Mapping[str, int | None]) -> None:
        """An answer: bytes by mailbox; one that is missing holds nothing, None says nothing."""
        for mailbox, taken in asked.items():
            fill = self._fills.get(mailbox)
            known = used.get(mailbox, 0)
            if fill is not None and known is not None:
                fill.known = known
                fill.new = max(0, fill.new - taken)

    def want_again(self, asked: Iterable[str]) -> None:
        """There was no answer."""
        for mailbox in asked:
            fill = self._fills.get(mailbox)
            if fill is not None:
                fill.wanted = True

"""Opening a mailbox: its lock, and the list of its messages as it is at this moment (RFC 1939 section 8).

The list comes from the catalog; with the catalog away or closed, from the sidecars of all servers. It never
reads a body and deletes nothing. Sessions call it at login.

Invariants:
- Never half a mailbox (rule 20): without the catalog, all volumes but `copies` - 1 must have answered.
- A session lists its mailbox once; again only for messages that cannot be read where they lay, and when that did not
  help, not before AGAIN times as long as it took: a listing without the catalog costs every server some work a message.
- A mailbox is open once in this process, and once in the array as long as the catalog answers.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mailarray.access.array import ServerArray
from mailarray.access.metrics import OPENED
from mailarray.access.sidecars import MailboxIncomplete, compile_mailbox
from mailarray.catalog.catalog import CatalogClosed, CatalogUnavailable
from mailarray.catalog.rows import Location, MailboxEntry, TombstoneRow
from mailarray.model.ids import MessageId, PlacementId

log = logging.getLogger(__name__)

LEASE_SECONDS = 15.0  # how long a mailbox stays locked after its access server died; renewed at each third of it
AGAIN = 10  # so many times what a listing in vain took, nothing is listed again: a tenth of the time at most
CATALOG_PATIENCE = 3.0  # seconds; a catalog that takes longer is away


class MailboxCatalog(Protocol):
    """The part of the catalog that an access server uses; see catalog.py for what each call promises."""

    def mailbox(self, address: str) -> Coroutine[Any, Any, list[MailboxEntry]]: ...

    def expunge(self, tombstones: Sequence[TombstoneRow]) -> Coroutine[Any, Any, None]: ...

    def acquire_lease(self, mailbox: str, holder: str, seconds: float) -> Coroutine[Any, Any, bool]: ...

    def release_lease(self, mailbox: str, holder: str) -> Coroutine[Any, Any, None]: ...


class MaildropInUse(Exception):
    """Another session has the mailbox open."""


class MaildropUnavailable(Exception):
    """The mailbox cannot be listed whole now."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a mailbox, and where its body lies."""

    placement: PlacementId
    message: MessageId
    length: int  # bytes of the body
    checksum: int  # CRC-32C of the body
    locations: tuple[Location, ...]

    @property
    def uidl(self) -> str:
        """RFC 1939 section 7: the same in every session, whatever is rebuilt."""
        return str(self.placement)


class Maildrop:
    """An open mailbox. Call `close` once, however the session ends."""

    def __init__(self, opener: MaildropOpener, mailbox: str, holder: str) -> None:
        self.mailbox = mailbox
        self.messages: tuple[Message, ...] = ()
        self._opener = opener
        self._holder = holder
        self._leased = False
        self._renewal: asyncio.Task[None] | None = None
        self._not_before = float("-inf")  # by the loop's clock: the next listing for messages that were not found

    async def lock(self) -> None:
        """Take the lease; without it when the catalog is away. Raises MaildropInUse."""
        try:
            async with asyncio.timeout(CATALOG_PATIENCE):
                self._leased = await self._opener.catalog.acquire_lease(self.mailbox, self._holder, LEASE_SECONDS)
        except (CatalogUnavailable, TimeoutError) as error:
            # A call that took too long may still be carried out: then the lease is ours to give back.
            self._leased = isinstance(error, TimeoutError)
            log.warning("mailbox opens without a lease", extra={"mailbox": self.mailbox})
            return
        if not self._leased:
            raise MaildropInUse
        self._renewal = asyncio.create_task(self._renew())

    async def find_again(self, message: Message) -> Message | None:
        """Where a message of this session lies now: its segment may have been compacted since the list was made. None
        when nobody says, or it lies where it lay; also for a while after that was so. Raises nothing."""
        clock = asyncio.get_running_loop().time
        began = clock()
        if began < self._not_before:
            return None
        found = await self._look_again(message)
        if found is None:
            self._not_before = clock() + AGAIN * (clock() - began)
        return found

    async def _look_again(self, message: Message) -> Message | None:
        try:
            listed = {found.placement: found for found in await self._opener.listing(self.mailbox)}
        except MaildropUnavailable as error:
            log.warning("message not found again", extra={"mailbox": self.mailbox, "reason": str(error)})
            return None
        # What was expunged by another session meanwhile stays as it was: this session's list does not change.
        self.messages = tuple(listed.get(known.placement, known) for known in self.messages)
        found = listed.get(message.placement)
        return found if found is not None and found.locations != message.locations else None

    async def _renew(self) -> None:
        # Losing the lease ends nothing: the list is a snapshot of messages that never change, and a deletion
        # that two sessions ask for is the same tombstone twice.
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            try:
                async with asyncio.timeout(CATALOG_PATIENCE):
                    held = await self._opener.catalog.acquire_lease(self.mailbox, self._holder, LEASE_SECONDS)
                if not held:
                    log.warning("lease lost to another session", extra={"mailbox": self.mailbox})
                    return
            except (CatalogUnavailable, TimeoutError):
                log.info("lease not renewed, catalog away", extra={"mailbox": self.mailbox})

    async def close(self) -> None:
        """Give the lock back; raises nothing."""
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
            self._renewal = None
        try:
            if self._leased:
                self._leased = False
                async with asyncio.timeout(CATALOG_PATIENCE):
                    await self._opener.catalog.release_lease(self.mailbox, self._holder)
        except (CatalogUnavailable, TimeoutError):
            log.info("lease not released, it runs out by itself", extra={"mailbox": self.mailbox})
        finally:
            self._opener.closed(self)


class MaildropOpener:
    """Opens mailboxes for the sessions of one access server."""

    def __init__(self, catalog: MailboxCatalog, array: ServerArray, *, name: str, copies: int) -> None:
        self.catalog = catalog
        self._array = array
        self._copies = copies
        self._name = f"{name}/{uuid.uuid4().hex[:8]}"
        self._opened = 0
        self._open: dict[str, Maildrop] = {}

    async def open(self, mailbox: str) -> Maildrop:
        """Lock and list a mailbox. Raises MaildropInUse or MaildropUnavailable."""
        if mailbox in self._open:
            raise MaildropInUse
        self._opened += 1
        drop = Maildrop(self, mailbox, f"{self._name}/{self._opened}")
        self._open[mailbox] = drop
        try:
            await drop.lock()
            drop.messages = await self.listing(mailbox)
        except BaseException:
            await asyncio.shield(drop.close())
            raise
        return drop

    def closed(self, drop: Maildrop) -> None:
        """Called by the maildrop when its lock is given back."""
        self._open.pop(drop.mailbox, None)

    async def listing(self, mailbox: str) -> tuple[Message, ...]:
        """What is in a mailbox now. Raises MaildropUnavailable."""
        try:
            async with asyncio.timeout(CATALOG_PATIENCE):
                entries = await self.catalog.mailbox(mailbox)
        except (CatalogUnavailable, CatalogClosed, TimeoutError) as error:
            log.warning("mailbox is read from the sidecars", extra={"mailbox": mailbox, "reason": repr(error)})
        else:
            OPENED.labels("catalog").inc()
            return tuple(Message(e.placement, e.message, e.length, e.checksum, e.locations) for e in entries)
        try:
            found = await compile_mailbox(self._array, mailbox, self._copies)
        except MailboxIncomplete as error:
            raise MaildropUnavailable(str(error)) from error
        OPENED.labels("sidecars").inc()
        return tuple(Message(f.placement, f.message, f.length, f.checksum, f.locations) for f in found)

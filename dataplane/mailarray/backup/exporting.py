"""Reading mailboxes for an export, as access servers do: from the catalog, and with it away from all sidecars.

Never half a mailbox (rule 20): without the catalog all servers but `copies` - 1 must answer. One message at a time in
memory. Deleted messages are not there. Called by `mailarray export`; an array that does not run is read by
`journal/inspect.py` from its volumes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from mailarray.access.array import ServerArray
from mailarray.access.maildrop import Message
from mailarray.access.replicas import NoReplica, ReplicaReader
from mailarray.access.sidecars import MailboxIncomplete, compile_mailbox
from mailarray.backup.source import SourceError
from mailarray.catalog.catalog import Catalog, CatalogClosed, CatalogUnavailable


@dataclass(frozen=True, slots=True)
class Exported:
    """One message; without a body when no server gives it whole."""

    uidl: str
    received_at: int  # microseconds since 1970
    body: bytes | None


class MailboxReader:
    """Reads mailboxes of an array that runs. The `ServerArray` must have been started."""

    def __init__(self, array: ServerArray, catalog: Catalog | None, copies: int) -> None:
        self._array = array
        self._catalog = catalog
        self._copies = copies
        self._reader = ReplicaReader(array)

    async def addresses(self) -> list[str]:
        """All mailboxes that ever had mail. Raises SourceError when the catalog is away: nobody else knows them all."""
        found: list[str] = []
        try:
            if self._catalog is None or not (await self._catalog.state()).open:
                raise CatalogUnavailable("it is being rebuilt" if self._catalog else "it is not there")
            while page := await self._catalog.mailbox_addresses(found[-1] if found else ""):
                found += page
        except CatalogUnavailable as error:
            raise SourceError(
                f"the catalog does not say which mailboxes there are ({error}): export them one by one with --mailbox, "
                "or stop the array and export from its volumes"
            ) from None
        return found

    async def messages(self, address: str) -> AsyncIterator[Exported]:
        """A mailbox as it is at this moment, in its order. Raises SourceError."""
        for message, received_at in await self._list(address):
            try:
                body: bytes | None = await self._reader.body(message)
            except NoReplica:
                body = None
            yield Exported(message.uidl, received_at, body)

    async def _list(self, address: str) -> list[tuple[Message, int]]:
        try:
            if self._catalog is None:
                raise CatalogUnavailable("it is not there")
            entries = await self._catalog.mailbox(address)
            return [
                (Message(e.placement, e.message, e.length, e.checksum, e.locations), e.received_at) for e in entries
            ]
        except (CatalogUnavailable, CatalogClosed):
            pass
        try:
            found = await compile_mailbox(self._array, address, self._copies)
        except MailboxIncomplete as error:
            raise SourceError(f"{address} cannot be read whole: {error}") from None
        return [(Message(f.placement, f.message, f.length, f.checksum, f.locations), f.received_at) for f in found]

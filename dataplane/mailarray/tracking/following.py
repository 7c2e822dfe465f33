"""Following the own writer: its announcements, and the registration of what it acknowledged, within milliseconds.

Invariant (rule 17): of the segment that is being written, only what the writer announced as acknowledged is registered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from functools import partial
from pathlib import Path

from mailarray.catalog.catalog import CatalogUnavailable
from mailarray.mirroring.announce import SOCKET_NAME, Announcement, parse
from mailarray.model.ids import IncarnationId, SegmentId
from mailarray.tracking.catalog_link import CatalogLink
from mailarray.tracking.registering import DamagedRun, Registrar, read_run
from mailarray.tracking.shelf import Holding, Shelf
from mailarray.tracking.watching import SILENCE

log = logging.getLogger(__name__)

MAX_DATAGRAM = 65536  # bytes; an announcement has at most 32 closed segments
GATHER = 0.012  # seconds that registration waits for more: rows are several times cheaper by the hundred


class Follower:
    """See the module."""

    def __init__(self, shelf: Shelf, link: CatalogLink, registrar: Registrar, settle: asyncio.Event) -> None:
        self._shelf = shelf
        self._link = link
        self._registrar = registrar
        self._settle = settle  # set when there may be something to seal
        self._news = asyncio.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self.announcement: Announcement | None = None
        self._last_take_over: tuple[IncarnationId, SegmentId | None, int] | None = None
        self._searched_for: IncarnationId | None = None  # what writers before this one left has been found
        self.last_word = 0.0  # monotonic
        self._current: Holding | None = None
        self.cursor = 0  # of the current segment; meaningful while `current` is set, in that epoch of the catalog
        self._cursor_epoch = -1

    def listen(self, run_directory: Path) -> None:
        """Open the socket for announcements; uvloop has no UNIX datagrams, so it is only told when to look."""
        path = run_directory / SOCKET_NAME
        path.unlink(missing_ok=True)
        self._socket.bind(str(path))
        asyncio.get_running_loop().add_reader(self._socket, self._receive)

    def _receive(self) -> None:
        latest: bytes | None = None
        with contextlib.suppress(BlockingIOError):
            while True:
                latest = self._socket.recv(MAX_DATAGRAM)
        if latest is not None:  # each one says all, so the last one does
            try:
                self.hear(parse(latest))
            except ValueError as error:
                log.warning("announcement not understood", extra={"reason": str(error)})

    def hear(self, announcement: Announcement) -> None:
        """The writer's word. One that a later word overtook tells nothing, and might name a segment as left, or as
        written, that is so no more."""
        known = self.announcement
        if known is not None and known.incarnation == announcement.incarnation and announcement.number < known.number:
            return
        self.announcement = announcement
        self.last_word = time.monotonic()
        self._news.set()

    @property
    def writer_lives(self) -> bool:
        """There was a word within T."""
        return self.announcement is not None and time.monotonic() - self.last_word < SILENCE

    def holds(self, segment: SegmentId) -> bool:
        """The writer, as far as we heard, may still append to this own segment."""
        return self.announcement is None or self.announcement.segment == segment

    @property
    def knows_all(self) -> bool:
        """What is acknowledged here is known: of each own segment this process or the writer's last word speaks.

        Not so after a start until the writer was heard, or is known to be dead: own segments are then left alone.
        """
        written = None if self.announcement is None else self.announcement.segment
        if self.announcement is not None and self.announcement.incarnation != self._searched_for:
            return False
        return all(not h.own or h.member is not None or h.segment == written for h in self._shelf)

    @property
    def current(self) -> Holding | None:
        """The segment that the writer is writing; None also when it was fenced here behind a dead writer's back."""
        return self._current if self._current is not None and self._current.member is None else None

    @current.setter
    def current(self, holding: Holding | None) -> None:
        self._current = holding

    @property
    def lag_bytes(self) -> int:
        """Of the segment that is being written: acknowledged, not registered."""
        if self.current is None:
            return 0
        state = self._link.state
        registered = self.cursor if state is None or state.epoch == self._cursor_epoch else 0
        return max(0, self.current.acknowledged - registered)

    def told(self, epoch: int) -> bool:
        """Of the segment that is being written, all is registered in this epoch up to its mark."""
        current = self.current
        if current is None:
            return True
        mark = current.mark(epoch, current.acknowledged)
        return not mark or (self._cursor_epoch == epoch and self.cursor >= mark)

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await self._news.wait()
            await asyncio.sleep(GATHER)
            self._news.clear()
            assert self.announcement is not None
            try:
                await self._obey(self.announcement)
            except CatalogUnavailable as error:
                self._link.away(error)
            except OSError as error:
                log.error("own segment unreadable", extra={"reason": str(error)})

    async def _obey(self, announcement: Announcement) -> None:
        await self._take_over(announcement)
        if announcement.segment is None or announcement.acknowledged == 0:
            return  # nothing that may be registered
        holding = self._shelf.adopt_current(announcement.segment, announcement.acknowledged)
        if holding.member is not None:
            return  # fenced meanwhile; the writer will leave it
        if self.current is not holding:
            self.current, self.cursor = holding, 0
        await self._register(holding)

    async def _take_over(self, announcement: Announcement) -> None:
        """Own segments that the writer has left are ours to promise for, and so are those of writers before it."""
        if announcement.incarnation != self._searched_for:
            headers = await self._shelf.left_unheard()
            self._shelf.adopt_unheard(h for h in headers if h.incarnation != announcement.incarnation)
            self._searched_for = announcement.incarnation
        for left in announcement.closed:
            if left != announcement.segment:
                self._shelf.adopt_left(left)
        word = (announcement.incarnation, announcement.segment, len(self._shelf.holdings))
        if word == self._last_take_over:
            return  # the same as at the last look: it is looked at after every batch
        for holding in self._shelf:
            if holding.own and holding.member is None and holding.segment != announcement.segment:
                async with holding.turn:
                    if holding.member is None:
                        await self._shelf.recover(holding, announcement.closed.get(holding.segment))
                if self.current is holding:
                    self.current = None
                self._settle.set()
        self._last_take_over = word

    async def _register(self, holding: Holding) -> None:
        facts, header = holding.facts, holding.header
        assert facts is not None and header is not None
        state = self._link.state
        if state is None:
            return  # the settler connects again; the next word finds it up
        if state.epoch != self._cursor_epoch:  # a catalog that was restored or made anew wants it all again (rule 19)
            self.cursor, self._cursor_epoch = 0, state.epoch
        fd = holding.fd(self._shelf.volume)
        while self.cursor < holding.acknowledged and holding.member is None:
            start = self.cursor
            read = partial(read_run, fd, holding.segment, header.length, start, holding.acknowledged)
            try:
                run = await self._shelf.run(read)
            except DamagedRun as error:
                log.error("own segment damaged", extra={"segment": holding.segment.hex(), "reason": str(error)})
                return  # it is mended once the writer has left it
            refused = await self._registrar.register(facts, run, None)
            if refused is None:
                self.cursor = run.end
            elif refused.reason == "cursor" and refused.cursor != start:
                self.cursor = refused.cursor
            else:
                if refused.reason == "epoch":
                    await self._link.check_in()
                return

    def close(self) -> None:
        """Close the socket."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

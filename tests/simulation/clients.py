"""Senders and readers of the simulated array. Readers are the production parts of an access server."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from typing import TYPE_CHECKING, Any

from mailarray.access.array import ServerArray
from mailarray.access.expunge import Expunger
from mailarray.access.late_catalog import LateCatalog
from mailarray.access.maildrop import MaildropInUse, MaildropOpener, MaildropUnavailable
from mailarray.access.replicas import NoReplica, ReplicaReader
from mailarray.access.sidecars import compile_mailbox
from mailarray.journal.format import crc32c
from mailarray.journal.spool import MemoryBody
from mailarray.model.ids import new_message_id
from mailarray.model.message import Committed, Delivery, Identity, IncomingMessage, Outcome
from tests.simulation.ledger import MAILBOXES, Attempt
from tests.simulation.servers import Process, Server

if TYPE_CHECKING:
    from tests.simulation.world import World


class Clients:
    """See the module."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._number = 0
        self._compiled: set[object] = set()  # sessions, by task, whose mailbox was read from the sidecars

    async def compile_mailbox(self, array: Any, mailbox: str, copies: int) -> Any:
        """In the place of access.sidecars.compile_mailbox, as the maildrop calls it."""
        self._compiled.add(asyncio.current_task())
        return await compile_mailbox(array, mailbox, copies)

    def start(self) -> None:
        """The access server, on a machine of its own."""
        world = self._world
        process = self.process = Process(world, "access", "access")
        self.array = ServerArray(world.table_file, world.token_file)

        async def connect() -> Any:
            return world.database.catalog("access")

        self.catalog = LateCatalog(connect)
        self.opener = MaildropOpener(self.catalog, self.array, name="access", copies=world.copies)
        self.expunger = Expunger(self.catalog, self.array)
        self.reader = ReplicaReader(self.array)

        async def start() -> None:
            await self.array.start()
            await self.catalog.start(0.0)

        world.loop.create_task(start(), context=process.context)

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        self._world.loop.create_task(work, context=self.process.context)

    # -- senders ---------------------------------------------------------------------------------------
    def deliver(self, *servers: Server) -> None:
        """One message; through several servers under one id, as placement may do it."""
        world = self._world
        dice = world.dice
        self._number += 1
        boxes = tuple(dice.sample(MAILBOXES, dice.choice((1, 1, 1, 2, 3))))
        size = dice.choice((0, 30, 30, 200, 200, 1500, 9000))
        text = b"Subject: %d\r\n\r\n" % self._number + dice.randbytes(size)
        attempt = world.ledger.bodies[text] = Attempt(text, boxes)
        identity = Identity(new_message_id(), world.time_ns() // 1000) if len(servers) > 1 else None
        checksum = crc32c(text)
        for server in servers:
            writer = server.writer
            if writer is None or writer.draining or writer.refusal() is not None:
                continue

            def done(outcome: Outcome) -> None:
                if isinstance(outcome, Committed):
                    world.ledger.acknowledged(outcome.id, attempt)
                    if world.detail:
                        world.note(f"250 for {outcome.id.hex()}")

            body = MemoryBody([text], len(text), checksum)
            message = IncomingMessage("s@out.example", tuple(Delivery(b, b) for b in boxes), body, identity=identity)
            server.processes["writer"].context.run(writer.submit, message, done)

    # -- readers ---------------------------------------------------------------------------------------
    async def read(self, mailbox: str, deletions: int, spare: Collection[bytes] = ()) -> None:
        """One POP3 session: list, fetch a few, delete some, but none of the messages to spare."""
        world, ledger = self._world, self._world.ledger
        began, catalog = world.loop.now, ledger.catalog_seen()
        try:
            drop = await self.opener.open(mailbox)
        except (MaildropInUse, MaildropUnavailable) as error:
            if world.detail:
                world.note(f"{mailbox} not opened: {error!r}")
            return
        through_sidecars = asyncio.current_task() in self._compiled
        world.note(f"{mailbox}: {len(drop.messages)} messages" + (" from the sidecars" if through_sidecars else ""))
        ledger.saw(mailbox, drop.messages, began, through_sidecars, catalog)
        messages = list(drop.messages)
        world.dice.shuffle(messages)
        for message in messages[:2]:
            try:
                body = await self.reader.body(message)
            except NoReplica:
                continue
            known = ledger.bodies.get(body)
            if known is None or mailbox not in known.boxes:
                world.broken(f"a reader of {mailbox} got other bytes")
        doomed = [m for m in messages if m.message not in spare][:deletions]
        if doomed:
            placements = [m.placement for m in doomed]
            ledger.deleting.update(placements)
            if await self.expunger.expunge(mailbox, doomed):
                world.note(f"{len(doomed)} deleted from {mailbox}")
                ledger.deleted.update(dict.fromkeys(placements, world.loop.now))
        await drop.close()

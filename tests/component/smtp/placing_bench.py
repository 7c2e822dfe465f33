"""Three real servers and the sink of the first one, for tests of messages that are handed over.

slow-0 receives; fast-0 and fast-1 are the group that rules name. All parts are the production ones, over loopback.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from mailarray.contract.settings import PlacementRule, PlacementSettings, PlacementWhen
from mailarray.journal.disk import Disk
from mailarray.journal.format import decode_segment_header
from mailarray.journal.volume import open_volume
from mailarray.mirroring.hand_over import Keepers
from mailarray.mirroring.writer import JournalWriter
from mailarray.model.ids import MessageId
from mailarray.model.message import Committed, Delivery, IncomingMessage, Outcome
from mailarray.smtp.placing import PlacingSink
from tests.support.array_of_three import TOKEN, Array, ArrayServer
from tests.unit.mirroring.doubles import held

ANNA = "anna@mail.example"
RULES = (
    PlacementRule(name="urgent", when=PlacementWhen(urgency="High"), group="fast"),
    PlacementRule(name="large", when=PlacementWhen(min_size=300_000), group="fast"),
    PlacementRule(name="own", when=PlacementWhen(recipients=("own@mail.example",)), group="slow"),
    PlacementRule(name="nowhere", when=PlacementWhen(recipients=("nowhere@mail.example",)), group="gone"),
)
TIMEOUT = 0.4  # seconds for a hand-over
URGENT = b"X-Priority: 1\r\n\r\n"
USUAL = b"Subject: x\r\n\r\n"


class Placing:
    """The array, and the sink of slow-0."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self.slow, self.fast, self.other = array.servers
        self._sinks: list[PlacingSink] = []
        self.sink = self.sink_of(self.slow)

    def sink_of(self, server: ArrayServer) -> PlacingSink:
        writer = running(server)
        name = server.settings.server
        keepers = Keepers(name, TOKEN, lambda: writer.mirrors.table)
        sink = PlacingSink(
            PlacementSettings(rules=RULES, hand_over_timeout=TIMEOUT),
            name.rpartition("-")[0],
            writer,
            keepers,
            64 << 20,
        )
        self._sinks.append(sink)
        return sink

    def submit(self, text: bytes, *mailboxes: str, sink: PlacingSink | None = None) -> asyncio.Future[Outcome]:
        sink = sink or self.sink
        body = sink.open_body()
        body.write(text)
        heard: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        deliveries = tuple(Delivery(box, box) for box in mailboxes or (ANNA,))
        sink.submit(IncomingMessage("s@out.example", deliveries, body.finish()), heard.set_result)
        assert not heard.done(), "never from within submit"
        return heard

    async def accept(self, text: bytes, *mailboxes: str, sink: PlacingSink | None = None) -> MessageId:
        outcome = await self.submit(text, *mailboxes, sink=sink)
        assert isinstance(outcome, Committed), outcome
        return outcome.id

    def written_by(self, id: MessageId) -> list[str]:
        """The servers in whose own segments a message stands, once for each time."""
        found = []
        for server in self.array.servers:
            volume = open_volume(Path(server.settings.volume), Disk())
            for segment, ids in held(volume).items():
                header = decode_segment_header(volume.segment_path(segment).read_bytes())
                found += [server.settings.server] * (header.writer == volume.id and id in ids)
        return found

    async def expect_once(self, *ids: MessageId, locations: int | None = 1, mailbox: str = ANNA) -> None:
        """After all writers were killed and everything is at rest, the mailbox holds exactly these messages."""
        for server in self.array.servers:
            await server.kill_writer()
        await self.array.settled()
        entries = await (await self.array.catalog()).mailbox(mailbox)
        assert sorted(entry.message for entry in entries) == sorted(ids)
        if locations is not None:
            assert [len(entry.locations) for entry in entries] == [locations] * len(ids)

    def counts(self, rule: str) -> dict[str, int]:
        rules: Any = self.sink.status()["rules"]
        (found,) = [r for r in rules if r["name"] == rule]
        return {how: found[how] for how in ("here", "handed_over", "kept") if found[how]}

    def only_fast_0(self) -> None:
        """Make the choice certain: fast-1 failed just now."""
        for _ in range(2):
            keeper = self.sink._keepers.choose("fast")
            assert keeper is not None
            keeper.under_way -= 1
            if keeper.server.name == "fast-1":
                keeper._failed("by the test")

    async def close(self) -> None:
        for sink in self._sinks:
            await sink.stop()
        await self.array.close()


def running(server: ArrayServer) -> JournalWriter:
    assert server.writer is not None
    return server.writer

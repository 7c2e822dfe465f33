"""Messages handed over between real writers: kept by the other server or by this one, exactly one message each time.

slow-0 receives; fast-0 and fast-1 are the group that rules name. All parts are the production ones, over loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mailarray.contract import paths
from mailarray.contract.settings import PlacementRule, PlacementSettings, PlacementWhen, StorageSettings
from mailarray.journal.disk import Disk
from mailarray.journal.format import Tombstone, crc32c, decode_segment_header
from mailarray.journal.spool import MemoryBody
from mailarray.journal.volume import open_volume
from mailarray.mirroring import hand_over
from mailarray.mirroring.hand_over import Keepers
from mailarray.mirroring.record_frame import encode_frame
from mailarray.mirroring.writer import BUSY, JournalWriter
from mailarray.model.ids import MessageId, PlacementId, new_message_id
from mailarray.model.message import Committed, Delivery, Identity, IncomingMessage, Outcome, Refused
from mailarray.smtp import placing, process, record_port
from mailarray.smtp.listener import SmtpListener
from mailarray.smtp.load_report import LoadMeter
from mailarray.smtp.placing import PlacingSink
from tests.support.array_of_three import TOKEN, Array, ArrayServer, fast_clocks
from tests.unit.mirroring.doubles import held
from tests.unit.smtp.doubles import MemoryDirectory

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


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Placing]:
    fast_clocks(monkeypatch)
    storage = StorageSettings(reserve=0, mirror_timeout=2.0)
    array = Array(tmp_path, [Disk(), Disk(), Disk()], storage, names=("slow-0", "fast-0", "fast-1"))
    await array.start()
    made = Placing(array)
    yield made
    await made.close()


async def test_a_message_is_kept_by_the_group_that_its_rule_names(bench: Placing) -> None:
    urgent = [await bench.accept(URGENT) for _ in range(4)]
    usual = await bench.accept(USUAL)
    own = await bench.accept(USUAL, "own@mail.example")
    nowhere = await bench.accept(USUAL, "nowhere@mail.example")
    assert [bench.written_by(id) for id in urgent] == [["fast-0"], ["fast-1"]] * 2
    assert [bench.written_by(id) for id in (usual, own, nowhere)] == [["slow-0"]] * 3
    assert bench.counts("urgent") == {"handed_over": 4}
    assert bench.counts("own") == {"here": 1}
    assert bench.counts("nowhere") == {"kept": 1}
    await bench.expect_once(*urgent, usual)
    assert bench.sink.refusal() is None and bench.sink.at_rest


async def test_the_record_is_the_one_that_was_received(bench: Placing) -> None:
    text = URGENT + b"line\r\n" * 1000
    before = time.time_ns() // 1000
    id = await bench.accept(text, ANNA, "bert@mail.example")
    await bench.expect_once(id)
    catalog = await bench.array.catalog()
    (anna,), (bert,) = await catalog.mailbox(ANNA), await catalog.mailbox("bert@mail.example")
    assert (str(anna.placement), str(bert.placement)) == (f"{id.hex()}.0", f"{id.hex()}.1")
    assert before <= anna.received_at <= time.time_ns() // 1000
    assert (anna.length, anna.checksum) == (len(text), crc32c(text))
    bodies = [ids[id] for ids in held(open_volume(Path(bench.fast.settings.volume), Disk())).values() if id in ids]
    assert bodies and set(bodies) == {text}


async def test_a_large_body_is_streamed_from_the_spool_to_the_spool(bench: Placing) -> None:
    text = USUAL + b"0123456789abcde\n" * (9 << 16)  # 9 MiB: spooled, and sent in parts
    heard = bench.submit(text)
    assert bench.sink._memory == 0 and bench.sink._bytes == len(text)
    outcome = await heard
    assert isinstance(outcome, Committed)
    (keeper,) = bench.written_by(outcome.id)
    assert keeper.startswith("fast")
    assert bench.counts("large") == {"handed_over": 1} and bench.sink._bytes == 0
    await bench.expect_once(outcome.id)


async def test_too_late_after_the_other_one_wrote_it_is_one_message_in_two_places(
    bench: Placing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is on time, the answer is not (rule 16)."""
    bench.only_fast_0()
    writer, answer = running(bench.fast), asyncio.Event()
    submit = writer.submit

    def slow(message: IncomingMessage, done: Callable[[Outcome], None]) -> None:
        async def later(outcome: Outcome) -> None:
            await answer.wait()
            done(outcome)

        submit(message, lambda outcome: tasks.append(asyncio.ensure_future(later(outcome))))

    tasks: list[asyncio.Future[None]] = []
    monkeypatch.setattr(writer, "submit", slow)
    started = time.monotonic()
    id = await bench.accept(URGENT)
    assert time.monotonic() - started >= TIMEOUT
    assert sorted(bench.written_by(id)) == ["fast-0", "slow-0"]
    assert bench.counts("urgent") == {"kept": 1}
    await bench.expect_once(id, locations=2)
    answer.set()
    await asyncio.gather(*tasks)


async def test_too_late_before_the_other_one_wrote_it_is_one_message_too(
    bench: Placing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other server hangs, the sender hears 250 from this one; much later the other one wakes up and writes."""
    bench.only_fast_0()
    writer, waiting = running(bench.fast), []
    submit = writer.submit
    monkeypatch.setattr(writer, "submit", lambda message, done: waiting.append((message, done)))
    id = await bench.accept(URGENT)
    assert bench.written_by(id) == ["slow-0"]
    written = asyncio.Event()
    ((message, done),) = waiting

    def heard(outcome: Outcome) -> None:
        done(outcome)
        written.set()

    submit(message, heard)
    await written.wait()
    assert sorted(bench.written_by(id)) == ["fast-0", "slow-0"]
    await bench.expect_once(id, locations=2)


async def test_what_was_deleted_meanwhile_does_not_come_back(bench: Placing, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader is done with the message before the other server gets round to writing it (rule 21)."""
    bench.only_fast_0()
    writer, waiting = running(bench.fast), []
    submit = writer.submit
    monkeypatch.setattr(writer, "submit", lambda message, done: waiting.append(message))
    id = await bench.accept(URGENT)
    assert isinstance(await bench.slow.expunge(Tombstone(PlacementId(id, 0), id, ANNA)), Committed)
    written = asyncio.Event()
    submit(waiting[0], lambda outcome: written.set())
    await written.wait()
    assert sorted(bench.written_by(id)) == ["fast-0", "slow-0"]
    await bench.expect_once()


async def test_others_do_not_wait_for_a_hand_over(bench: Placing, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.only_fast_0()
    monkeypatch.setattr(running(bench.fast), "submit", lambda message, done: None)
    hanging = bench.submit(URGENT)
    for _ in range(3):
        await bench.accept(USUAL)
    assert not hanging.done() and not bench.sink.at_rest
    assert isinstance(await hanging, Committed)
    # It is left alone now, so the next one is not late at all.
    started = time.monotonic()
    await bench.accept(URGENT)
    assert time.monotonic() - started < TIMEOUT / 2


WORDS = {
    "draining": "this server is draining",
    "stopping": "The server is stopping",
    "overloaded": "Too much mail is waiting",
    "receiving too much": "takes in too many messages at once",
    "no room for bodies": "No space left on device",
}


class FullSpool:
    """The volume takes no body."""

    length = 0

    def write(self, chunk: bytes) -> None:
        raise OSError(28, "No space left on device")

    def discard(self) -> None:
        pass


@pytest.mark.parametrize("how", WORDS)
async def test_a_refusal_is_answered_at_once_and_the_message_stays(
    bench: Placing, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    fast, other = running(bench.fast), running(bench.other)
    if how == "draining":
        monkeypatch.setattr(JournalWriter, "draining", property(lambda writer: writer in (fast, other)))
    elif how == "stopping":
        for writer in (fast, other):
            writer.refuse_new_mail()
    elif how == "overloaded":
        for writer in (fast, other):
            monkeypatch.setattr(writer, "refusal", lambda: BUSY)
    elif how == "receiving too much":
        monkeypatch.setattr(record_port, "MAX_RECEIVING", 0)
    else:
        for writer in (fast, other):
            monkeypatch.setattr(writer, "open_body", FullSpool)
    started = time.monotonic()
    ids = [await bench.accept(URGENT), await bench.accept(URGENT + b"x" * 500_000), await bench.accept(URGENT)]
    assert time.monotonic() - started < 3 * TIMEOUT
    assert [bench.written_by(id) for id in ids] == [["slow-0"]] * 3
    assert bench.counts("urgent") == {"kept": 3}
    errors: Any = bench.sink.status()["servers"]
    assert WORDS[how] in " ".join(server["error"] for server in errors)
    await bench.expect_once(*ids)


async def test_a_table_that_drains_the_group_is_obeyed(bench: Placing) -> None:
    await bench.array.push(fast_0="Draining")
    ids = [await bench.accept(URGENT) for _ in range(3)]
    assert [bench.written_by(id) for id in ids] == [["fast-1"]] * 3
    await bench.other.kill_writer()
    last = await bench.accept(URGENT)
    assert bench.written_by(last) == ["slow-0"]


async def test_a_killed_server_costs_no_message_and_takes_part_again(bench: Placing) -> None:
    await bench.fast.kill_writer()
    ids = [await bench.accept(URGENT) for _ in range(6)]
    await bench.fast.start_writer()
    assert bench.counts("urgent") == {"handed_over": 5, "kept": 1}
    async with asyncio.timeout(10):
        while "fast-0" not in bench.written_by(ids[-1]):
            ids.append(await bench.accept(URGENT))
            await asyncio.sleep(0.05)
    await bench.expect_once(*ids)  # one location each: nothing was written before the connection was refused


async def test_killed_in_the_middle(bench: Placing) -> None:
    """Whatever was under way at the other server is accepted here or there; each is one message."""
    bench.only_fast_0()
    heard = [bench.submit(URGENT + b"%d" % i) for i in range(20)]
    await asyncio.sleep(0)
    while running(bench.fast).accepted == 0 and not all(h.done() for h in heard):  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    await bench.fast.kill_writer()
    outcomes = await asyncio.gather(*heard)
    ids = [outcome.id for outcome in outcomes if isinstance(outcome, Committed)]
    assert len(set(ids)) == 20
    await bench.expect_once(*ids, locations=None)


async def test_memory_of_hand_overs_is_bounded(bench: Placing, monkeypatch: pytest.MonkeyPatch) -> None:
    for server in (bench.fast, bench.other):
        monkeypatch.setattr(running(server), "submit", lambda message, done: None)
    monkeypatch.setattr(placing, "MAX_BYTES", 1000)
    heard = [bench.submit(URGENT + b"x" * 900) for _ in range(3)]
    assert len(bench.sink._tasks) == 1, "the others stay here at once"
    await asyncio.gather(*heard[1:])
    assert bench.sink.refusal() is None
    monkeypatch.setattr(bench.sink, "_soft_pending_bytes", 800)
    assert bench.sink.refusal() == BUSY, "what is being handed over counts"
    assert not heard[0].done()
    assert all(isinstance(outcome, Committed) for outcome in await asyncio.gather(*heard))


async def test_a_burst_is_spread_up_to_the_limit_and_the_rest_stays(
    bench: Placing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hand_over, "MAX_UNDER_WAY", 3)
    ids = await asyncio.gather(*(bench.accept(URGENT) for _ in range(10)))
    assert bench.counts("urgent") == {"handed_over": 6, "kept": 4}
    await bench.expect_once(*ids)


async def test_when_nobody_can_keep_it_the_sender_hears_so(bench: Placing) -> None:
    for server in (bench.fast, bench.other):
        await server.kill()  # no mirror is left for slow-0 either
    outcome = await bench.submit(URGENT)
    assert isinstance(outcome, Refused) and outcome.code == 451
    assert bench.sink.at_rest and bench.sink._bytes == 0


async def test_stopping_waits_for_what_is_under_way(bench: Placing, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.only_fast_0()
    monkeypatch.setattr(running(bench.fast), "submit", lambda message, done: None)
    heard = bench.submit(URGENT)
    stopping = asyncio.create_task(bench.sink.stop())
    await asyncio.sleep(0)
    late = bench.submit(URGENT)
    await stopping
    assert bench.sink.at_rest
    assert isinstance(await heard, Committed) and isinstance(await late, Committed)
    assert bench.counts("urgent") == {"kept": 2}


async def test_a_draining_server_is_not_at_rest_while_a_message_may_come_back(
    bench: Placing, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.only_fast_0()
    settings, writer = bench.slow.settings, running(bench.slow)
    listener = SmtpListener(settings.smtp, MemoryDirectory(), bench.sink)
    monkeypatch.setattr(running(bench.fast), "submit", lambda message, done: None)
    heard = bench.submit(URGENT)
    await bench.array.push(slow_0="Draining")
    meter = LoadMeter(settings, writer, listener)

    def status(sink: PlacingSink | None = bench.sink) -> dict[str, Any]:
        return process.status(settings, writer, listener, meter, sink)

    assert status()["draining"] and writer.at_rest and not status()["at_rest"]
    assert isinstance(await heard, Committed)
    await bench.array.until(lambda: status()["at_rest"])
    assert status(None)["placement"] is None


class Asker:
    """Speaks to fast-0's internal port as a receiving server does."""

    def __init__(self, bench: Placing, http: aiohttp.ClientSession) -> None:
        self._http = http
        self._address = bench.fast.settings.writer

    async def put(self, id: MessageId, data: Any, *, path: str | None = None) -> tuple[int, str]:
        url = f"http://{self._address}{path or paths.record_path(id.hex())}"
        async with self._http.put(url, data=data) as response:
            return response.status, await response.text()


@pytest.fixture
async def asker(bench: Placing) -> AsyncIterator[Asker]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        yield Asker(bench, http)


def framed(id: MessageId, body: bytes, at: int = 7) -> bytes:
    memory = MemoryBody([body], len(body), crc32c(body))
    return encode_frame(IncomingMessage("s@out.example", (Delivery(ANNA, ANNA),), memory), Identity(id, at)) + body


async def test_a_repeated_put_writes_nothing(bench: Placing, asker: Asker) -> None:
    id = new_message_id()
    answers = await asyncio.gather(*(asker.put(id, framed(id, b"hello")) for _ in range(3)))
    answers += [await asker.put(id, framed(id, b"hello"))]
    assert [status for status, _ in answers] == [200] * 4
    assert id.hex() in answers[0][1]
    assert bench.written_by(id) == ["fast-0"]
    assert running(bench.fast).accepted == 1
    for other in (framed(id, b"hallo"), framed(id, b"hello", at=8), framed(id, b"hello!")):
        assert (await asker.put(id, other))[0] == 409
    running(bench.fast).refuse_new_mail()
    assert (await asker.put(id, framed(id, b"hello")))[0] == 200, "it is acknowledged, whatever else is refused"
    await bench.expect_once(id)


async def test_what_is_no_record_is_refused_and_leaves_nothing(bench: Placing, asker: Asker) -> None:
    id = new_message_id()
    good = framed(id, b"hello")
    flipped = good[:-1] + b"O"
    envelope = bytearray(good)
    envelope[80] ^= 1
    for bad in (
        b"",
        b"nonsense",
        good[:20],
        good[:-1],
        good + b"x",
        flipped,
        bytes(envelope),
        framed(new_message_id(), b"x"),
    ):
        status, text = await asker.put(id, bad)
        assert (status, "error" in text) == (400, True), bad
    assert (await asker.put(id, good, path="/v1/records/xyz"))[0] == 400
    assert bench.written_by(id) == [] and running(bench.fast).pending_bytes == 0
    assert (await asker.put(id, good))[0] == 200


async def test_an_asker_that_goes_away_leaves_nothing(
    bench: Placing, asker: Asker, caplog: pytest.LogCaptureFixture
) -> None:
    id = new_message_id()
    good = framed(id, b"x" * 500_000)

    async def half() -> AsyncIterator[bytes]:
        yield good[:300_000]
        raise ConnectionResetError("gone")

    with contextlib.suppress(aiohttp.ClientError, ConnectionResetError):
        await asker.put(id, half())
    for part in (good[:30], good[:100], good[:300_000]):
        _, wire = await asyncio.open_connection(bench.fast.settings.writer.host, bench.fast.settings.writer.port)
        head = f"PUT {paths.record_path(id.hex())} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        wire.write(f"{head}Content-Length: {len(good)}\r\n\r\n".encode() + part)
        await wire.drain()
        await asyncio.sleep(0.05)
        wire.transport.abort()
    assert bench.written_by(id) == []
    assert (await asker.put(id, good))[0] == 200
    assert bench.written_by(id) == ["fast-0"]
    assert "Traceback" not in caplog.text


async def test_refused_by_the_writer_it_may_be_tried_again(
    bench: Placing, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = new_message_id()
    refused = Refused(451, "4.3.0", "No mirror server can be reached, try again later")
    with monkeypatch.context() as patch:
        call_soon = asyncio.get_running_loop().call_soon
        patch.setattr(running(bench.fast), "submit", lambda message, done: call_soon(done, refused))
        status, text = await asker.put(id, framed(id, b"hello"))
        assert status == 503 and "No mirror" in text
    assert (await asker.put(id, framed(id, b"hello")))[0] == 200


async def test_the_token_is_asked_for(bench: Placing) -> None:
    id = new_message_id()
    async with aiohttp.ClientSession() as http:
        assert (await Asker(bench, http).put(id, framed(id, b"hello")))[0] == 401

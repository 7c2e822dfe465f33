"""Messages handed over between real writers: kept by the other server or by this one, exactly one message each time.

slow-0 receives; fast-0 and fast-1 are the group that rules name. All parts are the production ones, over loopback.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailarray.journal.disk import Disk
from mailarray.journal.format import Tombstone, crc32c
from mailarray.journal.volume import open_volume
from mailarray.mirroring import hand_over
from mailarray.mirroring.writer import BUSY, JournalWriter
from mailarray.model.ids import PlacementId
from mailarray.model.message import Committed, IncomingMessage, Outcome, Refused
from mailarray.smtp import placing, process, record_port
from mailarray.smtp.listener import SmtpListener
from mailarray.smtp.load_report import LoadMeter
from mailarray.smtp.placing import PlacingSink
from tests.component.smtp.placing_bench import ANNA, TIMEOUT, URGENT, USUAL, Placing, running
from tests.unit.mirroring.doubles import held
from tests.unit.smtp.doubles import MemoryDirectory


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

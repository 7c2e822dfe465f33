"""Whole POP3 sessions over sockets, with a fake array behind."""

from __future__ import annotations

import asyncio
import dataclasses
import logging

import pytest

from mailarray.access.replicas import CHUNK_BYTES
from mailarray.contract import mirroring_ring
from tests.support.access_fakes import MAILBOX, PASSWORD, FakeArray
from tests.support.pop3_dialog import Client


async def test_a_mailbox_is_read_deleted_and_read_again(array: FakeArray) -> None:
    first = array.deliver(b"Subject: one\r\n\r\n.dot\r\n")
    second = array.deliver(b"Subject: two\r\n\r\nno line end", on=(1, 2))
    await array.start()
    async with Client(array.port) as client:
        await client.play(
            f"""
            S: +OK pop.mail.example Mailarray POP3 server ready
            C: USER {MAILBOX}
            S: +OK
            C: PASS {PASSWORD}
            S: +OK 2 messages (49 octets)
            C: UIDL
            S: +OK 2 messages
            S: 1 {first}
            S: 2 {second}
            S: .
            C: RETR 1
            S: +OK 22 octets
            S: Subject: one
            S:
            S: ..dot
            S: .
            C: RETR 2
            S: +OK 27 octets
            S: Subject: two
            S:
            S: no line end
            S: .
            C: DELE 1
            S: +OK message 1 deleted
            C: QUIT
            S: +OK bye
            """
        )
        assert await client.line() == ""
    assert [t["placement"] for s in array.servers for t in s.tombstones] == [str(first)]
    assert [t.placement for t in array.catalog.expunged] == [first]
    assert array.catalog.leases == {}
    async with Client(array.port) as client:
        assert await client.log_in(MAILBOX, PASSWORD) == "+OK 1 messages (27 octets)"


async def test_an_empty_mailbox_says_so(array: FakeArray) -> None:
    await array.start()
    async with Client(array.port) as client:
        assert await client.log_in(MAILBOX, PASSWORD) == "+OK no messages"


async def test_a_wrong_password_and_an_unknown_account_hear_the_same_and_are_logged(
    array: FakeArray, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await array.start()
    async with Client(array.port) as client:
        wrong = await client.log_in(MAILBOX, "secret guess")
        assert wrong == "-ERR [AUTH] wrong name or password"
        await client.ask("USER nobody@mail.example")
        assert await client.ask(f"PASS {PASSWORD}") == wrong
    refused = [r.__dict__ for r in caplog.records if r.getMessage() == "login refused"]
    assert [(r["login"], r["client"]) for r in refused] == [
        (MAILBOX, "127.0.0.1"),
        ("nobody@mail.example", "127.0.0.1"),
    ]
    assert not any("secret guess" in str(r.__dict__) for r in caplog.records)


async def test_too_many_wrong_passwords_end_the_session(array: FakeArray) -> None:
    await array.start()
    async with Client(array.port) as client:
        await client.line()
        for _ in range(5):
            await client.ask(f"USER {MAILBOX}")
            assert await client.ask("PASS wrong") == "-ERR [AUTH] wrong name or password"
        assert await client.line() == ""


async def test_a_mailbox_is_open_once(array: FakeArray) -> None:
    await array.start()
    array.catalog.leases["bob@mail.example"] = "another access server"
    array.directory.passwords["bob@mail.example"] = "pw"
    async with Client(array.port) as one, Client(array.port) as two, Client(array.port) as three:
        assert await one.log_in(MAILBOX, PASSWORD) == "+OK no messages"
        assert (await two.log_in(MAILBOX, PASSWORD)).startswith("-ERR [IN-USE]")
        assert (await three.log_in("bob@mail.example", "pw")).startswith("-ERR [IN-USE]")
        assert await one.ask("QUIT") == "+OK bye"
        await two.ask(f"USER {MAILBOX}")
        assert await two.ask(f"PASS {PASSWORD}") == "+OK no messages"


async def test_a_client_that_vanishes_deletes_nothing_and_gives_the_mailbox_back(array: FakeArray) -> None:
    array.deliver(b"x\r\n")
    await array.start()
    async with Client(array.port) as client:
        await client.log_in(MAILBOX, PASSWORD)
        assert (await client.ask("DELE 1")).startswith("+OK")
    await asyncio.wait_for(array.catalog.released.wait(), 5)
    assert array.catalog.leases == {}
    assert all(not s.tombstones for s in array.servers)


async def test_deletions_that_nobody_acknowledges_are_said(array: FakeArray, monkeypatch: pytest.MonkeyPatch) -> None:
    array.deliver(b"x\r\n")
    await array.start()
    for server in array.servers:
        server.refuses_tombstones = True
    async with Client(array.port) as client:
        await client.log_in(MAILBOX, PASSWORD)
        await client.ask("DELE 1")
        assert await client.ask("QUIT") == "-ERR [SYS/TEMP] some deleted messages not removed"
    assert array.catalog.expunged == []
    async with Client(array.port) as client:
        assert await client.log_in(MAILBOX, PASSWORD) == "+OK 1 messages (3 octets)"


async def test_deletions_go_to_the_next_writer_when_one_hangs(array: FakeArray) -> None:
    array.deliver(b"x\r\n")
    await array.start()
    array.servers[0].refuses_tombstones = True
    array.servers[1].refuses_tombstones = True
    async with Client(array.port) as client:
        await client.log_in(MAILBOX, PASSWORD)
        await client.ask("DELE 1")
        assert await client.ask("QUIT") == "+OK bye"
    assert len(array.servers[2].tombstones) == 1


async def test_deletions_are_brought_to_a_draining_writer_last(array: FakeArray) -> None:
    for _ in range(6):
        array.deliver(b"x\r\n")
    await array.start()
    assert array.access is not None
    servers = array.access.array.servers()
    drained = [dataclasses.replace(s, state="Draining" if i < 2 else "Serving") for i, s in enumerate(servers)]
    assert array.access.array.take_table(mirroring_ring.ring(drained, array.access.array.table_generation + 1))
    for _ in range(3):  # whoever's turn it is
        async with Client(array.port) as client:
            await client.log_in(MAILBOX, PASSWORD)
            await client.ask("DELE 1")
            assert await client.ask("QUIT") == "+OK bye"
    assert [len(server.tombstones) for server in array.servers] == [0, 0, 3]


async def test_a_thousand_pipelined_messages_arrive_in_order(array: FakeArray) -> None:
    bodies = [f"Subject: {i}\r\n\r\n{'x' * 4000}\r\n".encode() for i in range(1000)]
    for i, body in enumerate(bodies):
        array.deliver(body, on=((0, 1), (1, 2), (2, 0))[i * 3 // 1000])
    await array.start()
    async with Client(array.port) as client:
        await client.log_in(MAILBOX, PASSWORD)
        client.writer.write(b"".join(b"RETR %d\r\n" % n for n in range(1, 1001)))
        for body in bodies:
            assert (await client.line()).startswith("+OK")
            assert await client.text() == body


async def test_a_client_that_asks_and_does_not_read_costs_bounded_memory(array: FakeArray) -> None:
    for i in range(2000):
        array.deliver(b"%d\r\n" % i)
    await array.start()
    async with Client(array.port) as client:
        await client.log_in(MAILBOX, PASSWORD)
        client.writer.write(b"UIDL\r\n" * 2000)  # 180 MB of answers, when asked for at once
        await asyncio.sleep(0)
        count = 0
        for _ in range(20):
            assert (await client.line()) == "+OK 2000 messages"
            count += (await client.text()).count(b"\n")
        assert count == 40_000


async def test_connection_limits(array: FakeArray) -> None:
    await array.start(max_connections_per_address=1)
    async with Client(array.port) as one:
        assert (await one.line()).startswith("+OK")
        async with Client(array.port) as two:
            assert await two.line() == "-ERR [SYS/TEMP] too many connections, try again later"
            assert await two.line() == ""


async def test_an_idle_session_is_ended_without_deleting(array: FakeArray) -> None:
    array.deliver(b"x\r\n")
    await array.start(idle_timeout=0.2)
    async with Client(array.port) as client:
        await client.log_in(MAILBOX, PASSWORD)
        await client.ask("DELE 1")
        with pytest.raises((ConnectionResetError, EOFError)):
            if not await client.line():
                raise EOFError
    assert all(not s.tombstones for s in array.servers)


async def test_a_half_closed_connection_still_gets_its_answers(array: FakeArray) -> None:
    array.deliver(b"x\r\n")
    await array.start()
    async with Client(array.port) as client:
        client.writer.write(f"USER {MAILBOX}\r\nPASS {PASSWORD}\r\nDELE 1\r\nQUIT\r\n".encode())
        client.writer.write_eof()
        assert (await client.reader.read()).decode().splitlines()[-1] == "+OK bye"
    assert len(array.catalog.expunged) == 1


async def test_stop_gives_mailboxes_back(array: FakeArray) -> None:
    await array.start()
    async with Client(array.port) as client:
        await client.log_in(MAILBOX, PASSWORD)
        assert array.access is not None
        await array.access.stop()
        assert array.catalog.leases == {}


async def test_a_long_message_waits_for_its_reader(array: FakeArray) -> None:
    body = b"x" * 998 + b"\r\n"
    array.deliver(body * 40_000, on=(0,))
    await array.start()
    async with Client(array.port) as client:
        await client.log_in(MAILBOX, PASSWORD)
        assert array.access is not None
        (session,) = array.access.listener._sessions
        client.send("RETR 1")
        while session._writable.is_set():  # noqa: ASYNC110 - the transport sets it
            await asyncio.sleep(0.005)
        async with Client(array.port) as other:  # meanwhile the server is free for others
            await other.line()
            for _ in range(500):
                assert await other.ask("CAPA") == "+OK"
                await other.text()
        taken = array.servers[0].gets
        assert taken * CHUNK_BYTES < 16 * 1024 * 1024  # what the kernel's socket buffers take, and two pieces
        assert await client.line() == "+OK 40000000 octets"
        assert await client.text() == body * 40_000
    assert array.servers[0].gets > taken


async def test_a_client_that_leaves_while_its_mailbox_is_given_back_leaves_no_session(array: FakeArray) -> None:
    await array.start()
    release, gate = array.catalog.release_lease, asyncio.Event()

    async def slow(mailbox: str, holder: str) -> None:
        await gate.wait()
        await release(mailbox, holder)

    array.catalog.release_lease = slow  # type: ignore[method-assign]
    async with Client(array.port) as client:
        await client.log_in(MAILBOX, PASSWORD)
        client.writer.write_eof()
        assert array.access is not None
        (session,) = array.access.listener._sessions
        while not session._finishing:  # noqa: ASYNC110
            await asyncio.sleep(0)
        session.abort()
        while not session._lost:  # noqa: ASYNC110
            await asyncio.sleep(0)
        gate.set()
    await asyncio.wait_for(array.catalog.released.wait(), 5)
    await asyncio.wait_for(array.access.listener._empty.wait(), 5)
    assert array.catalog.leases == {}


def compact(array: FakeArray, body: bytes, on: tuple[int, ...], *, told: bool) -> None:
    """The one message lies in another segment from now on, and nowhere else; `told`: the catalog knows."""
    (entry,) = array.catalog.entries[MAILBOX]
    for server in array.servers:
        server.segments.clear()
        server.listing.clear()
    array.deliver(body, on=on, message=entry.message, new_segment=True)
    moved = array.catalog.entries[MAILBOX].pop()
    if told:
        array.catalog.entries[MAILBOX] = [entry._replace(locations=moved.locations)]


@pytest.mark.parametrize("told", [True, False], ids=["by the catalog", "by the sidecars"])
@pytest.mark.parametrize("lines", [100, 50_000])
async def test_a_message_that_was_moved_since_the_login_is_found_again(
    array: FakeArray, told: bool, lines: int
) -> None:
    body = b"Subject: x\r\n\r\n" + b"a line of a text that is long enough\r\n" * lines
    array.deliver(body)
    await array.start()
    async with Client(array.port) as client:
        assert await client.log_in(MAILBOX, PASSWORD) == f"+OK 1 messages ({len(body)} octets)"
        array.catalog.away = not told
        for on in ((1, 2), (0, 2)):
            compact(array, body, on, told=told)
            assert await client.retrieve(1) == body

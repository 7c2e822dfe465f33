"""The listener with real sockets: limits, idling, stopping, pausing, PROXY, STARTTLS."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import tracemalloc
from pathlib import Path

import pytest
import uvloop

from mailarray.contract.settings import SmtpLimits, TlsSettings
from mailarray.tls import TlsError
from tests.component.smtp.wire import (
    TIMEOUT,
    Client,
    listener,
    name_of,
    trusting_anything,
)
from tests.support.certificates import put, write_certificate
from tests.unit.smtp.doubles import content_of, text_of


async def until(condition: object, *, seconds: float = TIMEOUT) -> None:
    """Wait until condition() holds; nothing tells a test when a server has noticed that a client is gone."""
    assert callable(condition)
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def test_a_message_over_a_socket() -> None:
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
    async with listener() as (server, sink):
        client = await Client.connect(server.port)
        await client.envelope()
        assert server.sessions == 1
        assert (await client.ask(b"hello\r\n.")).startswith(b"250 2.0.0 Ok: queued as ")
        assert (await client.ask(b"QUIT")).startswith(b"221")
        assert await client.at_end()
        assert content_of(sink.messages[0]) == b"hello\r\n"
        assert b"Received: from client.example ([127.0.0.1])\r\n" in text_of(sink.messages[0])
        await until(lambda: server.sessions == 0)


async def test_connection_limits() -> None:
    async with listener(limits=SmtpLimits(max_connections=2)) as (server, _):
        clients = [await Client.connect(server.port) for _ in range(3)]
        assert [(await client.reply())[:9] for client in clients] == [b"220 mx.ma", b"220 mx.ma", b"421 4.3.2"]
        assert await clients[2].at_end()
        clients[0].close()
        clients[2].close()
        await until(lambda: server.sessions == 1)
        again = await Client.connect(server.port)
        assert (await again.reply()).startswith(b"220")
    async with listener(limits=SmtpLimits(max_connections_per_address=1)) as (server, _):
        clients = [await Client.connect(server.port) for _ in range(2)]
        assert [(await client.reply())[:9] for client in clients] == [b"220 mx.ma", b"421 4.7.0"]
        assert await clients[1].at_end()


async def test_idle_session_is_closed() -> None:
    async with listener(limits=SmtpLimits(idle_timeout=0.1)) as (server, _):
        client = await Client.connect(server.port)
        assert (await client.reply()).startswith(b"220")
        assert (await client.reply()).startswith(b"421 4.4.2")
        assert await client.at_end()


async def test_waiting_for_an_outcome_is_not_idling() -> None:
    async with listener(limits=SmtpLimits(idle_timeout=0.05), hold=True) as (server, sink):
        client = await Client.connect(server.port)
        await client.envelope()
        client.send(b"x\r\n.\r\n")
        await until(lambda: sink.waiting)
        (connection,) = server._connections
        for _ in range(3):  # sweeps go by
            connection.idle = 1.0
            await until(lambda: connection.idle == 0.0)
        sink.waiting.pop()(sink.next_outcome())
        assert (await client.reply()).startswith(b"250")


async def test_stop() -> None:
    async with listener(hold=True) as (server, sink):
        idle, submitted, writing = [await Client.connect(server.port) for _ in range(3)]
        await idle.reply()
        for client in (submitted, writing):
            await client.envelope()
        submitted.send(b"one\r\n.\r\n")
        writing.send(b"two")
        await until(lambda: sink.waiting and sink.open_writers == 1)
        stopping = asyncio.ensure_future(server.stop(TIMEOUT))
        assert (await idle.reply()).startswith(b"421 4.3.2")
        idle.close()
        with pytest.raises(OSError):
            await Client.connect(server.port)
        writing.send(b"\r\n.\r\n")
        await until(lambda: len(sink.waiting) == 2)
        for done in sink.waiting:
            done(sink.next_outcome())
        for client in (submitted, writing):
            assert (await client.reply()).startswith(b"250 2.0.0")
            assert (await client.reply()).startswith(b"421 4.3.2")
            assert await client.at_end()
            client.close()
        await asyncio.wait_for(stopping, TIMEOUT)
        assert server.sessions == 0 and len(sink.messages) == 2


async def test_drain_and_serve_again() -> None:
    async with listener(hold=True) as (server, sink):
        idle, submitted, writing, slow = [await Client.connect(server.port) for _ in range(4)]
        await idle.reply()
        for client in (submitted, writing, slow):
            await client.envelope()
        submitted.send(b"one\r\n.\r\n")
        writing.send(b"two")
        await until(lambda: sink.waiting and sink.open_writers == 2)
        assert server.transactions == 3
        server.drain()
        server.drain()
        assert (await idle.reply()).startswith(b"421 4.3.2") and await idle.at_end()
        late = await Client.connect(server.port)
        assert (await late.reply()).startswith(b"421 4.3.2") and await late.at_end()
        writing.send(b"\r\n.\r\n")
        await until(lambda: len(sink.waiting) == 2)
        while sink.waiting:
            sink.waiting.pop()(sink.next_outcome())
        for client in (submitted, writing):  # RFC 5321 3.8: the transaction ends, then the session
            assert (await client.reply()).startswith(b"250 2.0.0")
            assert (await client.reply()).startswith(b"421 4.3.2") and await client.at_end()
            client.close()
        await until(lambda: server.transactions == 1)
        server.serve_again()
        slow.send(b"three\r\n.\r\n")
        await until(lambda: sink.waiting)
        sink.waiting.pop()(sink.next_outcome())
        assert (await slow.reply()).startswith(b"250 2.0.0")
        await until(lambda: server.transactions == 0)
        assert (await slow.ask(b"NOOP")).startswith(b"250")  # it was not ended by the drain that is over
        again = await Client.connect(server.port)
        assert (await again.reply()).startswith(b"220")


async def test_a_transaction_that_is_given_up_while_draining_is_the_last_of_its_session() -> None:
    async with listener() as (server, _):
        first, second = await Client.connect(server.port), await Client.connect(server.port)
        for client in (first, second):
            await client.reply()
            assert (await client.ask(b"HELO client.example")).startswith(b"250")
            assert (await client.ask(b"MAIL FROM:<a@far.example>")).startswith(b"250")
        server.drain()
        first.send(b"RSET\r\nMAIL FROM:<a@far.example>\r\n")
        assert (await first.reply()).startswith(b"250")
        assert (await first.reply()).startswith(b"421 4.3.2") and await first.at_end()
        assert (await second.ask(b"RSET")).startswith(b"250")
        assert (await second.reply()).startswith(b"421 4.3.2") and await second.at_end()  # by the sweep


async def test_stop_cuts_what_does_not_end() -> None:
    async with listener(hold=True) as (server, sink):
        client = await Client.connect(server.port)
        await client.envelope()
        client.send(b"never ending")
        await until(lambda: sink.open_writers == 1)
        await server.stop(0.05)
        assert await client.at_end()
        assert server.sessions == 0 and sink.open_writers == 0 and not sink.messages


async def test_client_vanishes_in_data() -> None:
    async with listener(hold=True) as (server, sink):
        client = await Client.connect(server.port)
        await client.envelope()
        client.send(b"half")
        await until(lambda: sink.open_writers == 1)
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await until(lambda: server.sessions == 0)
        assert sink.open_writers == 0 and not sink.messages


async def test_client_vanishes_after_submit() -> None:
    async with listener(hold=True) as (server, sink):
        client = await Client.connect(server.port)
        await client.envelope()
        client.send(b"whole\r\n.\r\n")
        await until(lambda: sink.waiting)
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await until(lambda: server.sessions == 0)
        sink.waiting.pop()(sink.next_outcome())


async def test_half_closed_client_hears_its_reply() -> None:
    async with listener(hold=True) as (server, sink):
        client = await Client.connect(server.port)
        await client.envelope()
        client.send(b"whole\r\n.\r\nNOOP\r\n")
        client.writer.write_eof()
        await until(lambda: sink.waiting)
        sink.waiting.pop()(sink.next_outcome())
        assert (await client.reply()).startswith(b"250 2.0.0 Ok: queued")
        assert (await client.reply()) == b"250 2.0.0 Ok\r\n"
        assert await client.at_end()


async def test_reading_pauses_while_an_outcome_is_awaited() -> None:
    async with listener(hold=True, limits=SmtpLimits(max_commands_without_mail=10**9)) as (server, sink):
        client = await Client.connect(server.port)
        await client.envelope()
        client.send(b"x\r\n.\r\n")
        await until(lambda: sink.waiting)
        (connection,) = server._connections
        client.send((b"NOOP " + b"x" * 2000 + b"\r\n") * 6000)  # 12 MB: more than the kernel takes
        await until(lambda: connection._paused)
        assert connection.session is not None and len(connection.session._held) <= 1024 * 1024
        sink.waiting.pop()(sink.next_outcome())
        for _ in range(1000):
            assert (await client.reply()).startswith(b"250")
        client.close()


async def test_the_last_reply_reaches_a_client_that_is_still_sending() -> None:
    async with listener() as (server, sink):
        client = await Client.connect(server.port)
        await client.envelope()
        client.send(b"x\n.\r\nMAIL FROM:<evil@example.org>\r\n" + b"y" * 4_000_000)
        assert (await client.reply()).startswith(b"550 5.5.2")
        assert await client.at_end()
        client.close()
        await until(lambda: server.sessions == 0)
        assert not sink.messages


async def test_memory_is_flat_while_twenty_mebibytes_arrive() -> None:
    async with listener() as (server, sink):

        class Nowhere:
            length = 0

            def write(self, chunk: bytes) -> None:
                self.length += len(chunk)

            def finish(self) -> object:
                raise OSError(28, "No space left on device")

            def discard(self) -> None:
                pass

        nowhere = Nowhere()
        sink.open_body = lambda: nowhere  # type: ignore[method-assign, assignment, return-value]
        client = await Client.connect(server.port)
        await client.envelope()
        line = b"x" * 76 + b"\r\n"
        block = line * 840
        tracemalloc.start()
        for _ in range(20 * 1024 * 1024 // len(block)):
            client.send(block)
            await client.writer.drain()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (await client.ask(b".")).startswith(b"452 4.3.1")
        assert nowhere.length > 19 * 1024 * 1024
        assert peak < 4 * 1024 * 1024


PROXY = b"PROXY TCP4 192.0.2.7 198.51.100.1 999 25\r\n"


async def test_proxy_header_from_a_listed_network() -> None:
    async with listener(proxies=("127.0.0.0/8",)) as (server, sink):
        client = await Client.connect(server.port)
        client.send(PROXY[:9])
        client.send(PROXY[9:])
        await client.envelope()
        await client.ask(b".")
        assert b"Received: from client.example ([192.0.2.7])\r\n" in text_of(sink.messages[0])


async def test_proxy_clients_are_counted_by_their_own_address() -> None:
    async with listener(proxies=("127.0.0.1/32",), limits=SmtpLimits(max_connections_per_address=1)) as (server, _):
        heard = []
        clients = []
        for host in (b"192.0.2.7", b"192.0.2.8", b"192.0.2.7"):
            client = await Client.connect(server.port)
            clients.append(client)
            client.send(PROXY.replace(b"192.0.2.7", host))
            heard.append((await client.reply())[:3])
        assert heard == [b"220", b"220", b"421"]


async def test_listed_network_must_send_a_header(caplog: pytest.LogCaptureFixture) -> None:
    async with listener(proxies=("127.0.0.1/32",), limits=SmtpLimits(idle_timeout=0.1)) as (server, _):
        client = await Client.connect(server.port)
        client.send(b"EHLO client.example\r\n")
        assert await client.at_end()
        assert "PROXY header refused" in caplog.messages
        silent = await Client.connect(server.port)
        assert await silent.at_end()
        await until(lambda: server.sessions == 0)


async def test_proxy_header_from_others_is_an_unknown_command() -> None:
    async with listener(proxies=("192.0.2.0/24",)) as (server, _):
        client = await Client.connect(server.port)
        assert (await client.reply()).startswith(b"220")
        assert (await client.ask(PROXY[:-2])).startswith(b"500")


async def test_starttls_and_reload(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    files = write_certificate(tmp_path, "first")
    async with listener(tls=files) as (server, sink):
        old = await Client.connect(server.port)
        await old.reply()
        assert b"250 STARTTLS\r\n" in await old.ask(b"EHLO client.example")
        await old.start_tls(trusting_anything())
        assert name_of(old) == "first"
        assert (await old.ask(b"MAIL FROM:<>")).startswith(b"503")  # nothing is remembered
        assert b"STARTTLS" not in await old.ask(b"EHLO client.example")

        write_certificate(tmp_path, "second")
        new = await Client.connect(server.port)
        await new.reply()
        await new.start_tls(trusting_anything())
        assert name_of(new) == "second"

        put(files.certificate, b"not a certificate")
        for _ in range(2):
            bad = await Client.connect(server.port)
            await bad.reply()
            await bad.start_tls(trusting_anything())
            assert name_of(bad) == "second"
        assert caplog.messages.count("new certificate is not usable, the old one stays") == 1

        assert (await old.ask(b"MAIL FROM:<>")).startswith(b"250")  # the old session lives
        for command in (b"RCPT TO:<anna@mail.example>", b"DATA"):
            await old.ask(command)
        old.send(b"z" * 1_000_000 + b"\r\n")
        assert (await old.ask(b".")).startswith(b"250")
        assert b"with ESMTPS\r\n" in text_of(sink.messages[0])
        assert len(content_of(sink.messages[0])) == 1_000_002
        assert (await old.ask(b"QUIT")).startswith(b"221")


async def test_failed_handshake_leaves_nothing(tmp_path: Path) -> None:
    async with listener(tls=write_certificate(tmp_path, "first")) as (server, _):
        client = await Client.connect(server.port)
        await client.reply()
        assert (await client.ask(b"STARTTLS")).startswith(b"220")
        client.send(b"EHLO this is no handshake\r\nMAIL FROM:<>\r\n")
        await until(lambda: server.sessions == 0)
        client = await Client.connect(server.port)
        await client.reply()
        await client.ask(b"STARTTLS")
        client.close()  # vanishes before the handshake
        await until(lambda: server.sessions == 0)
        assert not server._per_address


async def test_pipelined_starttls_is_refused(tmp_path: Path) -> None:
    async with listener(tls=write_certificate(tmp_path, "first")) as (server, _):
        client = await Client.connect(server.port)
        await client.reply()
        client.send(b"STARTTLS\r\nMAIL FROM:<injected@example.org>\r\n")
        assert (await client.reply()).startswith(b"501 5.5.1")
        assert await client.at_end()


async def test_stop_while_tls_session_is_idle(tmp_path: Path) -> None:
    async with listener(tls=write_certificate(tmp_path, "first")) as (server, _):
        client = await Client.connect(server.port)
        await client.reply()
        await client.start_tls(trusting_anything())
        await client.ask(b"EHLO client.example")
        stopping = asyncio.ensure_future(server.stop(TIMEOUT))
        assert (await client.reply()).startswith(b"421 4.3.2")
        client.close()
        await asyncio.wait_for(stopping, TIMEOUT)


def test_bad_files_are_told_at_start(tmp_path: Path) -> None:
    from mailarray.tls import TlsContext

    with pytest.raises(TlsError, match="cannot read"):
        TlsContext(TlsSettings(certificate=str(tmp_path / "none"), key=str(tmp_path / "none")))
    files = write_certificate(tmp_path, "first")
    Path(files.key).write_bytes(b"no key")
    with pytest.raises(TlsError, match="cannot be used"):
        TlsContext(files)


async def test_a_shared_port_is_left_to_the_others_and_taken_again() -> None:
    async with listener(port=0) as (first, _), listener(port=first.port) as (second, kept):
        assert second.port == first.port
        clients = [await Client.connect(first.port) for _ in range(40)]
        for client in clients:
            assert (await client.reply()).startswith(b"220")
        await until(lambda: first.sessions + second.sessions == 40)
        assert first.sessions and second.sessions, "the kernel gives connections to both"
        held = first.sessions
        await first.share_port(False)
        assert not first.listening and first.sessions == held
        later = [await Client.connect(second.port) for _ in range(10)]
        for client in later:
            assert (await client.reply()).startswith(b"220")
        assert second.sessions == 50 - held
        await later[0].ask(b"EHLO client.example")
        await first.share_port(True)
        assert first.listening and first.port == second.port
        more = [await Client.connect(first.port) for _ in range(40)]
        for client in more:
            assert (await client.reply()).startswith(b"220")
        assert first.sessions > held
        for client in (*clients, *later, *more):
            client.close()
        assert not kept.messages


async def test_a_port_of_its_own_is_not_shared() -> None:
    async with listener() as (server, _):
        await server.share_port(False)
        assert server.listening
        with pytest.raises(OSError, match="in use"):
            async with listener(port=server.port):
                pass

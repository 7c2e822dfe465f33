"""STLS with real certificates, and their reload."""

from __future__ import annotations

import asyncio
import contextlib
import poplib
import ssl
from pathlib import Path

import pytest

from mailarray.access import listener
from mailarray.contract.settings import Listen
from tests.support.access_fakes import MAILBOX, PASSWORD, FakeArray
from tests.support.certificates import write_certificate
from tests.support.pop3_dialog import Client

BODY = b"Subject: one\r\n\r\n" + (b"y" * 70 + b"\r\n") * 30_000


def fetch(port: int, certificate: str, body: bool = True) -> tuple[list[bytes], bytes]:
    client = poplib.POP3("127.0.0.1", port, timeout=20)
    client.stls(ssl.create_default_context(cafile=certificate))
    assert isinstance(client.sock, ssl.SSLSocket)
    peer = client.sock.getpeercert(binary_form=True)
    assert peer is not None
    client.user(MAILBOX)
    client.pass_(PASSWORD)
    lines = client.retr(1)[1] if body else []
    client.quit()
    return lines, peer


async def test_stls(array: FakeArray, tmp_path: Path) -> None:
    tls = write_certificate(tmp_path)
    array.deliver(BODY)
    await array.start(tls=tls)
    lines, _ = await asyncio.to_thread(fetch, array.port, tls.certificate)
    assert b"\r\n".join(lines) + b"\r\n" == BODY


def test_stls_on_asyncio_s_own_loop(tmp_path: Path) -> None:
    async def session() -> None:
        array = FakeArray(tmp_path)
        try:
            await test_stls(array, tmp_path)
        finally:
            await array.stop()

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(session())


async def test_the_certificate_is_reloaded_and_running_sessions_stay(array: FakeArray, tmp_path: Path) -> None:
    tls = write_certificate(tmp_path)
    await array.start(tls=tls)
    _, before = await asyncio.to_thread(fetch, array.port, tls.certificate, False)
    async with Client(array.port) as client:
        await client.line()
        assert await client.ask("STLS") == "+OK begin TLS"
        context = ssl.create_default_context(cafile=tls.certificate)
        await client.writer.start_tls(context, server_hostname="localhost")
        write_certificate(tmp_path)
        _, after = await asyncio.to_thread(fetch, array.port, tls.certificate, False)
        assert before != after
        (tmp_path / "ca").write_bytes((tmp_path / "tls.crt").read_bytes())
        (tmp_path / "tls.key").write_text("half a file")
        _, still = await asyncio.to_thread(fetch, array.port, str(tmp_path / "ca"), False)
        assert still == after  # the last pair that fits together
        assert await client.ask(f"USER {MAILBOX}") == "+OK"
        assert await client.ask(f"PASS {PASSWORD}") == "+OK no messages"
        assert await client.ask("QUIT") == "+OK bye"


async def test_a_handshake_that_is_none_ends_the_session(array: FakeArray, tmp_path: Path) -> None:
    await array.start(tls=write_certificate(tmp_path))
    async with Client(array.port) as client:
        await client.line()
        await client.ask("STLS")
        client.send("USER somebody")
        with pytest.raises((ConnectionResetError, EOFError)):
            while await client.reader.read(1000):
                pass
            raise EOFError
    assert array.access is not None
    assert array.access.listener.sessions == 0


async def test_from_elsewhere_nobody_logs_in_without_tls(
    array: FakeArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "is_loopback", lambda _address: False)
    await array.start(tls=write_certificate(tmp_path))
    async with Client(array.port) as client:
        await client.line()
        assert await client.ask(f"USER {MAILBOX}") == "-ERR login needs TLS, say STLS first"


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.0.2.1", False),
        ("::ffff:192.0.2.1", False),
        ("fe80::1%eth0", False),
        ("", False),
    ],
)
def test_loopback(address: str, loopback: bool) -> None:
    assert listener.is_loopback(address) is loopback


async def test_tls_from_the_first_byte(array: FakeArray, tmp_path: Path) -> None:
    tls = write_certificate(tmp_path)
    array.deliver(BODY)
    await array.start(tls=tls, pop3s=Listen(host="127.0.0.1", port=0), max_connections=1)
    assert array.access is not None
    port = array.access.listener.tls_port
    assert port is not None

    def session() -> tuple[list[bytes], str]:
        context = ssl.create_default_context(cafile=tls.certificate)
        client = poplib.POP3_SSL("127.0.0.1", port, timeout=20, context=context)
        offered = " ".join(client.capa())
        client.user(MAILBOX)
        client.pass_(PASSWORD)
        lines = client.retr(1)[1]
        with pytest.raises(poplib.error_proto, match="too many connections"):
            poplib.POP3_SSL("127.0.0.1", port, timeout=20, context=context)
        client.quit()
        return lines, offered

    lines, offered = await asyncio.to_thread(session)
    assert b"\r\n".join(lines) + b"\r\n" == BODY
    assert "STLS" not in offered and "USER" in offered


async def test_clear_text_on_the_tls_port_gets_nothing(array: FakeArray, tmp_path: Path) -> None:
    await array.start(tls=write_certificate(tmp_path), pop3s=Listen(host="127.0.0.1", port=0))
    assert array.access is not None and array.access.listener.tls_port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", array.access.listener.tls_port)
    writer.write(b"USER somebody\r\n")
    with contextlib.suppress(ConnectionResetError):
        assert b"+OK" not in await asyncio.wait_for(reader.read(), 10)
    writer.close()
    await asyncio.wait_for(array.access.listener._empty.wait(), 5)


@pytest.mark.parametrize("name", ["localhost", None])
async def test_the_tls_port_takes_a_new_certificate_too(array: FakeArray, tmp_path: Path, name: str | None) -> None:
    tls = write_certificate(tmp_path)
    await array.start(tls=tls, pop3s=Listen(host="127.0.0.1", port=0))
    assert array.access is not None
    port = array.access.listener.tls_port
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    async def certificate() -> bytes:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name or "")
        seen: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return seen

    before = await certificate()
    assert await certificate() == before
    write_certificate(tmp_path)
    assert await certificate() != before

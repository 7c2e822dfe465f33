"""A listener on loopback and a client that reads replies, for component tests."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable

from cryptography import x509
from cryptography.x509.oid import NameOID

from mailarray.contract.settings import Listen, SmtpLimits, SmtpSettings, TlsSettings
from mailarray.smtp.listener import SmtpListener
from tests.unit.smtp.doubles import MemoryDirectory, MemorySink

TIMEOUT = 10  # seconds that a reply may take before a test fails


@contextlib.asynccontextmanager
async def listener(
    *,
    limits: SmtpLimits | None = None,
    proxies: tuple[str, ...] = (),
    tls: TlsSettings | None = None,
    hold: bool = False,
    pending: Callable[[], int] = lambda: 0,
    port: int | None = None,
) -> AsyncIterator[tuple[SmtpListener, MemorySink]]:
    """A listener and its sink; with `hold` the sink answers only when told to. With a `port` (0: any) it is shared."""
    sink = MemorySink(None if hold else asyncio.get_running_loop().call_soon)
    settings = SmtpSettings(
        listen=Listen(host="127.0.0.1", port=port or 0),
        hostname="mx.mail.example",
        limits=limits or SmtpLimits(),
        proxy_trusted_networks=proxies,
        tls=tls,
        shared_port=port is not None,
    )
    made = SmtpListener(settings, MemoryDirectory(), sink, pending)
    await made.start()
    try:
        yield made, sink
    finally:
        await made.stop(0)


class Client:
    """Sends bytes, reads whole replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1024 * 1024))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def reply(self) -> bytes:
        """One reply, of several lines perhaps; empty at the end of the connection."""
        text = b""
        while True:
            line = await asyncio.wait_for(self.reader.readline(), TIMEOUT)
            text += line
            if not line or line[3:4] == b" ":
                return text

    async def ask(self, command: bytes) -> bytes:
        self.send(command + b"\r\n")
        return await self.reply()

    async def at_end(self) -> bool:
        try:
            return await asyncio.wait_for(self.reader.read(), TIMEOUT) == b""
        except ConnectionResetError:
            return True

    async def envelope(self) -> None:
        """Greeting to 354."""
        await self.reply()
        await self.ask(b"EHLO client.example")
        for command, code in (
            (b"MAIL FROM:<a@b.example>", b"250"),
            (b"RCPT TO:<anna@mail.example>", b"250"),
            (b"DATA", b"354"),
        ):
            assert (await self.ask(command)).startswith(code)

    async def start_tls(self, context: ssl.SSLContext) -> None:
        assert (await self.ask(b"STARTTLS")).startswith(b"220")
        await self.writer.start_tls(context)

    def close(self) -> None:
        self.writer.close()


def trusting_anything() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def name_of(client: Client) -> str:
    """The common name of the server's certificate."""
    raw = client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return str(x509.load_der_x509_certificate(raw).subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)

"""The POP3 ports, plain (with STLS) and with TLS from the first byte.

Takes connections within the limits, and ends those that are idle. Knows no command. The process starts and stops it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections import Counter
from typing import cast

from mailarray.access.metrics import REFUSED, SESSIONS
from mailarray.access.pop3 import Offer
from mailarray.access.session import HANDSHAKE_SECONDS, Pop3Connection, Services
from mailarray.contract.settings import AccessSettings

log = logging.getLogger(__name__)

SWEEP_SECONDS = 5.0  # how often idle sessions are looked for: one timer for all, rather than one for each
STOP_SECONDS = 5.0  # for sessions that are at work when the process stops
BACKLOG = 1024  # connections that the kernel holds for us


class _Refusal(asyncio.Protocol):
    """A connection beyond a limit: one line, and the end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        transport.write(b"-ERR [SYS/TEMP] too many connections, try again later\r\n")
        transport.close()


class _Arrival(asyncio.Protocol):
    """A connection whose peer is not known yet; becomes a session or a refusal."""

    def __init__(self, listener: Pop3Listener, *, secure: bool = False) -> None:
        self._listener = listener
        self._secure = secure

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        protocol = self._listener.arrive(str(peer[0]) if peer else "", secure=self._secure)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class Pop3Listener:
    """Listens on `settings.pop3`, and on `settings.pop3s` if given; `port` and `tls_port` say where, once started."""

    def __init__(self, settings: AccessSettings, services: Services) -> None:
        self._settings = settings
        self._services = services
        self._sessions: set[Pop3Connection] = set()
        self._by_address: Counter[str] = Counter()
        self._server: asyncio.Server | None = None
        self._tls_server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def tls_port(self) -> int | None:
        """The port with TLS from the first byte; None without one."""
        return None if self._tls_server is None else int(self._tls_server.sockets[0].getsockname()[1])

    @property
    def listening(self) -> bool:
        """Whether clients can connect."""
        return self._server is not None and self._server.is_serving()

    @property
    def sessions(self) -> int:
        """Sessions that are open."""
        return len(self._sessions)

    async def start(self) -> None:
        """Raises OSError when the port cannot be had."""
        loop, where = asyncio.get_running_loop(), self._settings.pop3
        certificate, where_tls = self._services.certificate, self._settings.pop3s
        self._server = await loop.create_server(lambda: _Arrival(self), where.host, where.port, backlog=BACKLOG)
        if where_tls is not None and certificate is not None:
            self._tls_server = await loop.create_server(
                lambda: _Arrival(self, secure=True),
                where_tls.host,
                where_tls.port,
                backlog=BACKLOG,
                ssl=certificate.for_listener(),
                ssl_handshake_timeout=HANDSHAKE_SECONDS,  # until then a connection counts towards no limit
            )
        self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """Take no more, end idle sessions at once and busy ones within STOP_SECONDS; mailboxes are given back."""
        for server in filter(None, (self._server, self._tls_server)):
            server.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for session in list(self._sessions):
            if not session.working:
                session.abort()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._empty.wait()
        except TimeoutError:
            for session in list(self._sessions):
                session.abort()
            await asyncio.wait({asyncio.create_task(self._empty.wait())}, timeout=STOP_SECONDS)

    def arrive(self, address: str, *, secure: bool = False) -> asyncio.Protocol:
        """The protocol for a new connection from `address`."""
        limit = None
        if len(self._sessions) >= self._settings.max_connections:
            limit = "connections"
        elif self._by_address[address] >= self._settings.max_connections_per_address:
            limit = "address"
        if limit is not None:
            REFUSED.labels(limit).inc()
            log.warning("connection refused", extra={"client": address, "limit": limit})
            return _Refusal()
        offer = Offer(
            self._settings.hostname,
            starttls=self._services.certificate is not None,
            plaintext_login=self._settings.allow_plaintext_login or is_loopback(address),
        )
        session = Pop3Connection(self._services, offer, address, self._ended, secure=secure)
        self._sessions.add(session)
        self._by_address[address] += 1
        self._empty.clear()
        SESSIONS.set(len(self._sessions))
        return session

    def _ended(self, session: Pop3Connection) -> None:
        self._sessions.discard(session)
        self._by_address[session.address] -= 1
        if not self._by_address[session.address]:
            del self._by_address[session.address]
        if not self._sessions:
            self._empty.set()
        SESSIONS.set(len(self._sessions))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(SWEEP_SECONDS, self._settings.idle_timeout / 4))
            self.sweep(asyncio.get_running_loop().time())

    def sweep(self, now: float) -> None:
        """End the sessions that were idle for too long (RFC 1939 section 3: without UPDATE, without a reply)."""
        for session in list(self._sessions):
            if now - session.active > self._settings.idle_timeout:
                log.info("idle session ended", extra={"client": session.address})
                session.abort()


def is_loopback(address: str) -> bool:
    """Whether a client's address is this machine's own."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback

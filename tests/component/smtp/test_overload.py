"""A real listener above its limits: who is turned away, what they hear, and that it ends by itself."""

from __future__ import annotations

import asyncio

from prometheus_client import REGISTRY

from mailarray.contract.settings import SmtpLimits
from mailarray.smtp.listener import SmtpListener
from tests.component.smtp.test_listener import until
from tests.component.smtp.wire import Client, listener

ELSEWHERE = b"421 4.3.2 Busy, use another server of this domain\r\n"


async def greeted(server: SmtpListener, count: int) -> list[tuple[Client, bytes]]:
    """Connect one after the other, with what each hears."""
    clients = []
    for _ in range(count):
        client = await Client.connect(server.port)
        clients.append((client, await client.reply()))
    return clients


async def close(clients: list[tuple[Client, bytes]]) -> None:
    for client, _ in clients:
        client.close()


def words(clients: list[tuple[Client, bytes]]) -> str:
    """One letter for each: g(reeted), e(lsewhere), b(usy)."""
    return "".join("g" if reply[:3] == b"220" else "e" if reply == ELSEWHERE else "b" for _, reply in clients)


def refused(reason: str) -> float:
    return REGISTRY.get_sample_value("mailarray_smtp_refused_total", {"reason": reason}) or 0.0


async def test_sessions_above_the_soft_limit_and_back() -> None:
    async with listener(limits=SmtpLimits(max_connections=20, soft_limit_percent=50)) as (server, _):
        server.send_elsewhere(True)
        before = refused("shed")
        clients = await greeted(server, 24)
        # 11 come in before the share is above 0; then it is 0.1 with 11 sessions inside, 0.2 with 12, ... 0.8 with 18.
        assert words(clients) == "g" * 11 + "ggg" + "egg" + "eeg" + "eeg" + "e"
        assert server.sessions == 18
        turned_away = [client for client, reply in clients if reply == ELSEWHERE]
        assert all([await client.at_end() for client in turned_away])
        # Sessions under way go on.
        (first, _) = clients[0]
        assert (await first.ask(b"EHLO client.example")).startswith(b"250")
        assert (await first.ask(b"MAIL FROM:<a@b.example>")).startswith(b"250")
        server._flush()
        assert refused("shed") == before + 6
        await close(clients)
        await until(lambda: server.sessions == 0 and not server._turned_away)
        assert server.shed_share() == 0.0
        again = await greeted(server, 5)
        assert words(again) == "ggggg"
        await close(again)


async def test_alone_there_is_no_soft_limit() -> None:
    async with listener(limits=SmtpLimits(max_connections=20, soft_limit_percent=50)) as (server, _):
        clients = await greeted(server, 22)
        assert words(clients) == "g" * 20 + "bb"
        assert clients[-1][1] == b"421 4.3.2 Too many connections, try again later\r\n"
        await close(clients)


async def test_too_much_pending_is_said_at_connect_when_others_serve() -> None:
    pending = 0
    async with listener(limits=SmtpLimits(soft_pending_bytes=1000), pending=lambda: pending) as (server, _):
        server.send_elsewhere(True)
        early = await greeted(server, 1)
        pending = 1001
        (late,) = await greeted(server, 1)
        assert late[1] == b"421 4.3.2 Too much mail is waiting to be stored, use another server\r\n"
        assert await late[0].at_end()
        assert (await early[0][0].ask(b"NOOP")).startswith(b"250")
        server.send_elsewhere(False)
        lone = await greeted(server, 1)
        assert words(lone) == "g"
        server.send_elsewhere(True)
        pending = 1000
        assert words(await greeted(server, 1)) == "e"
        pending = 0
        after = await greeted(server, 3)
        assert words(early + after) == "gggg"
        await close([*early, late, *lone, *after])


async def test_who_was_turned_away_takes_nobodys_place() -> None:
    async with listener(limits=SmtpLimits(max_connections=2)) as (server, _):
        inside = await greeted(server, 2)
        crowd = await greeted(server, 6)  # none of them closes its side
        assert words(inside + crowd) == "gg" + "b" * 6
        await until(lambda: len(server._turned_away) == 2)  # more do not linger
        inside[0][0].close()
        await until(lambda: server.sessions == 1)
        assert words(await greeted(server, 1)) == "g"
        await asyncio.gather(*(client.at_end() for client, _ in crowd))
        await close(inside + crowd)

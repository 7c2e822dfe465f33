"""How long after 250 a message can be found, and how long a POP3 session takes, at half the maximum rate.

The maximum is measured first with smtp-source. The paced load then comes from an asyncio client of our own,
since smtp-source cannot keep a rate. Probe mailboxes get one message at a time, so a count says it all.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from bench.addresses import CLIENT_NAME, MAILBOXES, SENDER, address
from bench.load import Load, send
from bench.peers.mailarray_peer import PASSWORD, Array, array
from mailarray.contract import paths

_SIZE = 4096
_SESSIONS = 20
_PROBES = 20  # mailboxes that get nothing but probes; one of them is filled at a time
_MAXIMUM_MESSAGES = 20_000  # of the run that finds the maximum rate
_LOOK = 0.001  # seconds between two lookups of a probe
_PROBE_PAUSE = 0.02  # seconds between two probes, or two POP3 sessions
_GIVE_UP = 10.0  # seconds after which a probe counts as lost


class SmtpClient:
    """A connection that sends one message after another, without pipelining, as smtp-source does."""

    def __init__(self, port: int, size: int) -> None:
        self._port = port
        line = b"x" * 78 + b"\r\n"
        text = b"Subject: benchmark\r\n\r\n" + line * (size // len(line))
        self._text = text + b".\r\n"

    async def open(self) -> None:
        """Connect and say EHLO."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        await self._reply(b"220")
        await self._say(b"EHLO " + CLIENT_NAME.encode(), b"250")

    async def send(self, recipient: str) -> None:
        """One message; returns at its 250. Raises RuntimeError at any other reply."""
        await self._say(b"MAIL FROM:<" + SENDER.encode() + b">", b"250")
        await self._say(b"RCPT TO:<" + recipient.encode() + b">", b"250")
        await self._say(b"DATA", b"354")
        self._writer.write(self._text)
        await self._reply(b"250")

    async def close(self) -> None:
        """Say QUIT."""
        await self._say(b"QUIT", b"221")
        self._writer.close()

    async def _say(self, line: bytes, code: bytes) -> None:
        self._writer.write(line + b"\r\n")
        await self._reply(code)

    async def _reply(self, code: bytes) -> None:
        while True:
            line = await self._reader.readline()
            if not line.startswith(code):
                raise RuntimeError(
                    f"the server answered {line.decode(errors='replace').strip()!r}, not {code.decode()}"
                )
            if line[3:4] != b"-":
                return


async def _paced(port: int, rate: float, ended: asyncio.Event) -> int:
    """Send at that rate over all mailboxes but the probes, until `ended`; answers how many were sent."""
    sent = 0
    begin = time.monotonic()

    async def session() -> None:
        nonlocal sent
        client = SmtpClient(port, _SIZE)
        await client.open()
        while not ended.is_set():
            number = sent
            sent += 1
            if (wait := begin + number / rate - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            await client.send(address(_PROBES + 1 + number % (MAILBOXES - _PROBES)))
        await client.close()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_SESSIONS):
            tasks.create_task(session())
    return sent


async def _visible(started: Array, seconds: float) -> list[float]:
    """Seconds from 250 until the access server's lookup shows the message, for one probe after another."""
    taken: list[float] = []
    counts = [0] * _PROBES
    base = f"http://127.0.0.1:{started.ports.access}"
    headers = {"Authorization": f"{paths.TOKEN_SCHEME} {started.token}"}
    client = SmtpClient(started.ports.smtp, _SIZE)
    await client.open()
    async with aiohttp.ClientSession(base, headers=headers) as http:

        async def count(mailbox: str) -> int:
            async with http.get(paths.mailbox_path(mailbox)) as response:
                response.raise_for_status()
                return int((await response.json())["count"])

        for probe in range(_PROBES):
            counts[probe] = await count(address(probe + 1))
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            probe = len(taken) % _PROBES
            counts[probe] += 1
            await client.send(address(probe + 1))
            begin = time.perf_counter()
            while await count(address(probe + 1)) < counts[probe]:
                if time.perf_counter() - begin > _GIVE_UP:
                    raise RuntimeError(f"a message was not visible {_GIVE_UP:.0f} s after its 250")
                await asyncio.sleep(_LOOK)
            taken.append(time.perf_counter() - begin)
            await asyncio.sleep(_PROBE_PAUSE)
    await client.close()
    return taken


async def _pop3_session(port: int, mailbox: str) -> float:
    """Seconds of a whole session: connect, login, STAT, UIDL, RETR of the last message, QUIT."""
    begin = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def reply() -> bytes:
        line = await reader.readline()
        if not line.startswith(b"+OK"):
            raise RuntimeError(f"POP3 answered {line.decode(errors='replace').strip()!r}")
        return line

    async def say(line: str, *, lines: bool = False) -> bytes:
        writer.write(line.encode() + b"\r\n")
        answer = await reply()
        if lines:
            while await reader.readline() != b".\r\n":
                pass
        return answer

    await reply()
    await say(f"USER {mailbox}")
    await say(f"PASS {PASSWORD}")
    count = int((await say("STAT")).split()[1])
    await say("UIDL", lines=True)
    await say(f"RETR {count}", lines=True)
    await say("QUIT")
    writer.close()
    return time.perf_counter() - begin


async def _pop3(port: int, seconds: float) -> list[float]:
    """Sessions of mailboxes that get no load but a probe now and then, after a first login that is not counted."""
    boxes = [address(probe + 1) for probe in range(_PROBES)]
    for mailbox in boxes:
        await _pop3_session(port, mailbox)
    taken: list[float] = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        taken.append(await _pop3_session(port, boxes[len(taken) % _PROBES]))
        await asyncio.sleep(_PROBE_PAUSE)
    return taken


def spread(taken: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum, in milliseconds."""
    ordered = sorted(taken)
    return {
        "count": len(ordered),
        "p50_ms": round(statistics.median(ordered) * 1e3, 2),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1e3, 2),
        "max_ms": round(ordered[-1] * 1e3, 2),
    }


async def _under_load(started: Array, rate: float, seconds: float) -> dict[str, Any]:
    ended = asyncio.Event()
    load = asyncio.create_task(_paced(started.ports.smtp, rate, ended))
    begin = time.monotonic()
    try:
        visible = await _visible(started, seconds)
        sessions = await _pop3(started.ports.pop3, seconds)
    finally:
        ended.set()
        sent = await load
    return {
        "rate_sent": round(sent / (time.monotonic() - begin), 1),
        "visible_after_250": spread(visible),
        "pop3_session": spread(sessions),
    }


def run(directory: Path, seconds: float, messages: int = _MAXIMUM_MESSAGES) -> dict[str, Any]:
    """Both latencies, each for so many seconds."""
    with array(directory, copies=2) as started:
        send(Load(_SIZE, _SESSIONS), MAILBOXES, [started.ports.smtp])
        started.catalog.wait(MAILBOXES)
        begin = time.perf_counter()
        send(Load(_SIZE, _SESSIONS), messages, [started.ports.smtp])
        started.catalog.wait(MAILBOXES + messages)
        maximum = messages / (time.perf_counter() - begin)
        found = asyncio.run(_under_load(started, maximum / 2, seconds))
    return {"maximum_rate": round(maximum, 1), "rate_wanted": round(maximum / 2, 1), **found}

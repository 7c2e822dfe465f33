"""The port on which a server takes records from others, asked as a receiving server asks it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from mailarray.contract import paths
from mailarray.journal.format import crc32c
from mailarray.journal.spool import MemoryBody
from mailarray.mirroring.record_frame import encode_frame
from mailarray.model.ids import MessageId, new_message_id
from mailarray.model.message import Delivery, Identity, IncomingMessage, Refused
from tests.component.smtp.placing_bench import ANNA, Placing, running
from tests.support.array_of_three import TOKEN


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

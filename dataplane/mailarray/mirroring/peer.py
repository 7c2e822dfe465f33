"""A lean HTTP/1.1 client connection to one peer's internal port, for the batches that every 250 waits for.

aiohttp's client costs 350 microseconds of CPU for one PUT, this 80, and at 20 sessions a batch holds only about ten
messages. Anything but the mirroring of batches uses aiohttp. Responses are parsed by httptools; requests go out one
at a time. Any error closes the connection, and the next request opens a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import httptools

from mailarray.lookup import look_up

MAX_RESPONSE = 1024 * 1024  # bytes; peers answer with a few hundred
CHUNKED_WRITE = 4 * 1024 * 1024  # bytes given to the transport before waiting for it to drain


class PeerError(Exception):
    """No answer: refused, reset, or no progress within the time limit. The text is one sentence."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer."""

    status: int
    body: bytes


class _Wire(asyncio.Protocol):
    """Bytes to responses."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.answer: asyncio.Future[Response] | None = None
        self.lost: Exception | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods, not by its class

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = exc or ConnectionResetError("the peer closed the connection")
        self._writable.set()
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(self.lost)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.connection_lost(ConnectionError(f"not an HTTP answer: {error}"))
            if self.transport is not None:
                self.transport.abort()

    def on_body(self, body: bytes) -> None:
        """httptools callback."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """httptools callback."""
        body, self._body = b"".join(self._body), []
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(Response(self._parser.get_status_code(), body))
        self._parser = httptools.HttpResponseParser(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def drain(self) -> None:
        """Wait until the transport takes more. Raises when the connection is gone."""
        await self._writable.wait()
        if self.lost is not None:
            raise self.lost


class PeerConnection:
    """One connection, made when it is needed."""

    def __init__(self, address: str, token: str) -> None:
        host, _, port = address.rpartition(":")
        self._host = host.strip("[]")
        self._port = int(port)
        self._head = f"Host: {address}\r\nAuthorization: Bearer {token}\r\n".encode()
        self._wire: _Wire | None = None
        self._turn = asyncio.Lock()

    @property
    def busy(self) -> bool:
        """A request is under way."""
        return self._turn.locked() or (self._wire is not None and self._wire.answer is not None)

    def send_now(
        self, method: str, target: str, timeout: float, body: Iterable[bytes], length: int
    ) -> asyncio.Future[Response] | None:
        """The quick way, without a task: None when there is no idle connection, or the body is long.

        The future raises OSError or TimeoutError; `explain` says it in a sentence.
        """
        wire = self._wire
        if wire is None or wire.lost is not None or length > CHUNKED_WRITE or self.busy or wire.transport is None:
            return None
        buffers = [self._request_head(method, target, length), *body]  # a spooled body is read here, and may fail
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Response] = loop.create_future()
        wire.answer = answer
        wire.transport.writelines(buffers)
        timer = loop.call_later(timeout, _expire, answer)

        def done(answer: asyncio.Future[Response]) -> None:
            timer.cancel()
            wire.answer = None
            if answer.cancelled() or answer.exception() is not None:
                self.close()

        answer.add_done_callback(done)
        return answer

    def _request_head(self, method: str, target: str, length: int) -> bytes:
        return f"{method} {target} HTTP/1.1\r\nContent-Length: {length}\r\n".encode() + self._head + b"\r\n"

    async def request(
        self,
        method: str,
        target: str,
        timeout: float,
        body: Iterable[bytes] = (),
        length: int = 0,
        last_timeout: float | None = None,
    ) -> Response:
        """Send and wait for the answer; `timeout` is seconds without progress. Raises PeerError.

        `last_timeout` replaces it for the wait after the last byte, when the peer syncs a large batch.
        """
        async with self._turn:
            while self._wire is not None and self._wire.answer is not None:
                await asyncio.wait([self._wire.answer])
            try:
                return await self._request(method, target, timeout, body, length, last_timeout or timeout)
            except OSError as error:  # TimeoutError is one
                self.close()
                raise explain(error, timeout) from error
            except BaseException:
                self.close()  # an answer to a cancelled request must not be taken for the next one's
                raise

    async def _request(
        self, method: str, target: str, timeout: float, body: Iterable[bytes], length: int, last_timeout: float
    ) -> Response:
        loop = asyncio.get_running_loop()
        wire = self._wire
        if wire is None or wire.lost is not None:
            async with asyncio.timeout(timeout):
                await look_up(self._host, self._port)
                _, wire = await loop.create_connection(_Wire, self._host, self._port)
            self._wire = wire
        assert wire.transport is not None
        answer: asyncio.Future[Response] = loop.create_future()
        wire.answer = answer
        head = self._request_head(method, target, length)
        if length <= CHUNKED_WRITE:
            wire.transport.writelines([head, *body])
        else:
            wire.transport.write(head)
            for part in _parts(body):
                wire.transport.writelines(part)
                try:
                    async with asyncio.timeout(timeout):
                        await wire.drain()
                except OSError:
                    if not answer.done() or answer.exception() is not None:
                        raise
                if answer.done():  # refused before all was sent: the connection is of no more use
                    self._wire = None
                    wire.transport.close()
                    return answer.result()
        timer = loop.call_later(last_timeout, _expire, answer)
        try:
            return await answer
        finally:
            timer.cancel()
            wire.answer = None

    def close(self) -> None:
        """Drop the connection; a request that waits hears an error."""
        wire, self._wire = self._wire, None
        if wire is not None and wire.transport is not None:
            wire.transport.abort()


def explain(error: BaseException, timeout: float) -> PeerError:
    """What became of a request, in a few words."""
    if isinstance(error, TimeoutError):
        return PeerError(f"no progress within {timeout:g} s")
    return PeerError((error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__)


def _expire(answer: asyncio.Future[Response]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


def _parts(body: Iterable[bytes]) -> Iterator[list[bytes]]:
    part: list[bytes] = []
    size = 0
    for buffer in body:
        part.append(buffer)
        size += len(buffer)
        if size >= CHUNKED_WRITE // 4:
            yield part
            part, size = [], 0
    if part:
        yield part

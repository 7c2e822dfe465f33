"""Ranges of segments fetched straight into the caller's memory, by blocking sockets in threads of their own.

For copies of whole segments, where each byte counts: an asynchronous client hands bytes over in many small pieces, each
of which is made, queued and joined in Python, on the loop that also takes mirrors' batches. Here the kernel puts up to
what it has into the buffer at once, and nobody waits for Python meanwhile.

Connections are kept. One that its server has closed meanwhile is replaced once, without a word. Refuses to wait for a
server that is silent. Used by peers.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
from concurrent.futures import ThreadPoolExecutor

from mailarray.contract import paths

THREADS = 2  # as many as copies under way (repairing.PARALLEL)
CONNECT_SECONDS = 3.0
_STALE = (http.client.RemoteDisconnected, ConnectionError)


class RangeUnreadable(Exception):
    """No answer that counts; the text goes on from the server's name."""


class RangeReader:
    """See the module."""

    def __init__(self, token: str, timeout: float) -> None:
        """`timeout`: seconds of silence."""
        self._headers = {"Authorization": f"{paths.TOKEN_SCHEME} {token}"}
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="fetch")
        self._idle: dict[str, list[http.client.HTTPConnection]] = {}

    async def read_into(self, address: str, path: str, start: int, buffer: memoryview) -> int:
        """From `start` on as many bytes as the buffer takes, or fewer; answers how many. Raises RangeUnreadable."""
        idle = self._idle.setdefault(address, [])
        connection = idle.pop() if idle else http.client.HTTPConnection(address, timeout=CONNECT_SECONDS)
        work = self._threads.submit(self._read, connection, path, start, buffer)
        try:
            count = await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            _abort(connection)
            raise
        except (OSError, http.client.HTTPException) as error:
            raise RangeUnreadable(f"cannot be read from: {error or type(error).__name__}") from error
        idle.append(connection)
        return count

    def close(self) -> None:
        """Nothing may be under way."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # -- in a thread -----------------------------------------------------------------------------------
    def _read(self, connection: http.client.HTTPConnection, path: str, start: int, buffer: memoryview) -> int:
        fresh = connection.sock is None
        try:
            try:
                response = self._ask(connection, path, start, len(buffer))
            except _STALE:
                if fresh:
                    raise
                connection.close()
                response = self._ask(connection, path, start, len(buffer))
            return _receive(response, buffer)
        except BaseException:
            connection.close()
            raise

    def _ask(
        self, connection: http.client.HTTPConnection, path: str, start: int, count: int
    ) -> http.client.HTTPResponse:
        if connection.sock is None:
            connection.connect()
        connection.sock.settimeout(self._timeout)
        connection.request("GET", path, headers=self._headers | {"Range": f"bytes={start}-{start + count - 1}"})
        return connection.getresponse()


def _receive(response: http.client.HTTPResponse, buffer: memoryview) -> int:
    length = response.length
    if response.status != 206 or length is None or length > len(buffer):
        raise RangeUnreadable(f"answered {response.status}")
    position = 0
    while position < length:
        count = response.readinto(buffer[position:length])
        if not count:
            raise RangeUnreadable(f"broke off after {position} of {length} bytes")
        position += count
    response.close()
    return position


def _abort(connection: http.client.HTTPConnection) -> None:
    """Whoever reads from it hears of its end, and closes it."""
    sock = connection.sock
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

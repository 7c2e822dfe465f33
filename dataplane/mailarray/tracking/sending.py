"""Sending a long range of a file as the body of an answer whose head has gone out, past the event loop's buffers.

A whole segment is read once, by one who copies it: its bytes go from one buffer to the kernel, in a thread. They take
no room in the page cache that they did not have before, where the kernel can do that (Linux 6.14): what is read often
stays there. A receiver that takes nothing holds no thread: it is waited for on the loop.

Raises OSError when the file or the receiver fails; what was sent by then cannot be taken back, so the caller ends the
connection. Used by serving.py.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
from collections.abc import Awaitable, Callable

BUFFER = 1024 * 1024  # bytes read at a time
QUANTUM = 8 * 1024 * 1024  # bytes sent before others may have the thread
HOLD = 20  # milliseconds that a thread waits for a receiver, which is about to take more as a rule
STALL = 30.0  # seconds without a byte taken, after which the receiver is given up
_UNCACHED = 0x80  # RWF_DONTCACHE, which Python's os does not name


class _Reading:
    """How files are read: what the kernel or a file system cannot do is tried once."""

    flags = _UNCACHED

    @classmethod
    def into(cls, fd: int, buffer: memoryview, offset: int) -> int:
        """As many bytes as there are and fit. Raises OSError."""
        try:
            return os.preadv(fd, [buffer], offset, cls.flags)
        except OSError as error:
            if not cls.flags or error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
        cls.flags = 0
        return os.preadv(fd, [buffer], offset)


class _Outlet:
    """A range on its way from a file to a socket."""

    def __init__(self, fd: int, start: int, end: int, socket: int) -> None:
        self._fd = fd
        self._at, self._end = start, end
        self._socket = socket
        self._buffer = memoryview(bytearray(min(BUFFER, end - start)))
        self._pending = self._buffer[:0]
        self._poll = select.poll()
        self._poll.register(socket, select.POLLOUT)

    def push(self) -> bool:
        """Send on, until the receiver is slow or others want to go on; answers whether all is sent. In a thread."""
        budget = QUANTUM
        while self._pending or self._at < self._end:
            if not self._pending:
                wanted = min(len(self._buffer), self._end - self._at)
                count = _Reading.into(self._fd, self._buffer[:wanted], self._at)
                if not count:
                    raise OSError(errno.EIO, "the file is shorter than it was")
                self._pending = self._buffer[:count]
                self._at += count
            try:
                sent = os.write(self._socket, self._pending)
            except BlockingIOError:
                if not self._poll.poll(HOLD):
                    return False
                continue
            self._pending = self._pending[sent:]
            budget -= sent
            if budget <= 0:
                break
        return not self._pending and self._at == self._end


async def send_range(
    transport: asyncio.Transport,
    fd: int,
    start: int,
    end: int,
    run: Callable[[Callable[[], bool]], Awaitable[bool]],
) -> None:
    """Send the file's bytes [start, end). Nothing else may be written to the transport meanwhile. Raises OSError."""
    async with asyncio.timeout(STALL):
        pause = 0.0
        while transport.get_write_buffer_size():  # the head
            await asyncio.sleep(pause)
            pause = 0.005
    if transport.is_closing():
        raise ConnectionResetError("the receiver went away")
    socket = os.dup(transport.get_extra_info("socket").fileno())  # the transport may close its own at any time
    try:
        outlet = _Outlet(fd, start, end, socket)
        while not await _whole(run(outlet.push)):
            await _writable(socket)
    finally:
        os.close(socket)


async def _whole(call: Awaitable[bool]) -> bool:
    """Not even who is cancelled goes on, or closes a file, before the thread is done with it."""
    task = asyncio.ensure_future(call)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _writable(socket: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(socket, ready.set)
    try:
        async with asyncio.timeout(STALL):
            await ready.wait()
    finally:
        loop.remove_writer(socket)

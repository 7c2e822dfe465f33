"""A directory and a sink that keep everything in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from mailarray.directory.directory import Account, NotFound
from mailarray.model.ids import MessageId
from mailarray.model.message import Body, BodyWriter, Committed, IncomingMessage, Outcome, Refused


class MemoryDirectory:
    """anna@mail.example and bert@mail.example; sales@ is anna's alias; plus-addresses and postmaster work."""

    accounts = ("anna@mail.example", "bert@mail.example", "jürgen@mail.example")

    def resolve(self, recipient: str) -> Account | NotFound:
        recipient = recipient.lower()
        if recipient in ("postmaster", "postmaster@mail.example", "sales@mail.example"):
            return Account("anna@mail.example")
        local, _, domain = recipient.rpartition("@")
        if domain != "mail.example":
            return NotFound.DOMAIN
        address = f"{local.partition('+')[0]}@{domain}"
        return Account(address) if address in self.accounts else NotFound.RECIPIENT

    async def verify(self, login: str, password: str) -> Account | None:
        return None


class MemoryBody:
    checksum = 0

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks

    @property
    def length(self) -> int:
        return sum(map(len, self._chunks))

    @property
    def in_memory(self) -> int:
        return self.length

    def chunks(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def release(self) -> None:
        self._chunks = []


class MemoryWriter:
    def __init__(self, sink: MemorySink) -> None:
        self._sink = sink
        self._chunks: list[bytes] = []
        sink.open_writers += 1

    def write(self, chunk: bytes) -> None:
        if self._sink.disk_full:
            raise OSError(28, "No space left on device")
        self._sink.largest_chunk = max(self._sink.largest_chunk, len(chunk))
        self._chunks.append(chunk)

    @property
    def length(self) -> int:
        return sum(map(len, self._chunks))

    def finish(self) -> Body:
        self._sink.open_writers -= 1
        return MemoryBody(self._chunks)

    def discard(self) -> None:
        self._sink.open_writers -= 1
        self._sink.discarded += 1


class MemorySink:
    """Keeps messages; answers when told to (`commit`), or at once from the loop when given `call_soon`."""

    def __init__(self, call_soon: Callable[..., object] | None = None) -> None:
        self._call_soon = call_soon
        self._ids = itertools.count(1)
        self.now_refused: Refused | None = None
        self.disk_full = False
        self.messages: list[IncomingMessage] = []
        self.waiting: list[Callable[[Outcome], None]] = []
        self.open_writers = 0
        self.discarded = 0
        self.largest_chunk = 0

    def refusal(self) -> Refused | None:
        return self.now_refused

    def open_body(self) -> BodyWriter:
        return MemoryWriter(self)

    def submit(self, message: IncomingMessage, done: Callable[[Outcome], None]) -> None:
        self.messages.append(message)
        if self._call_soon is not None:
            self._call_soon(done, self.next_outcome())
        else:
            self.waiting.append(done)

    def next_outcome(self) -> Committed:
        return Committed(MessageId(next(self._ids).to_bytes(16, "big")))


def text_of(message: IncomingMessage) -> bytes:
    """What was stored, trace lines included."""
    return b"".join(message.body.chunks())


def content_of(message: IncomingMessage) -> bytes:
    """What was stored, without the two trace lines."""
    text = text_of(message)
    end = text.index(b"+0000\r\n") + 7
    assert text.startswith(b"Return-Path: <")
    return text[end:]

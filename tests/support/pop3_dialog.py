"""POP3 dialogs written as transcripts: lines that start with `C:` are sent, lines that start with `S:` must come."""

from __future__ import annotations

import asyncio
from types import TracebackType


def lines_of(transcript: str, side: str) -> list[str]:
    """One side's lines of a transcript, without the mark."""
    lines = [line.lstrip() for line in transcript.splitlines()]
    return [line[2:].removeprefix(" ") for line in lines if line.startswith(side + ":")]


class Client:
    """A bare POP3 client over a socket, for `async with`."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.host, self.port = host, port
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def __aenter__(self) -> Client:
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port, limit=2**20)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.close()

    async def line(self) -> str:
        """The next line from the server; empty at the end of the connection."""
        return (await self.reader.readline()).decode().removesuffix("\r\n")

    def send(self, text: str) -> None:
        """A command line."""
        self.writer.write(text.encode() + b"\r\n")

    async def ask(self, text: str) -> str:
        """A command and the first line of its answer."""
        self.send(text)
        return await self.line()

    async def log_in(self, login: str, password: str) -> str:
        """Greeting, USER, PASS; the answer to PASS."""
        assert (await self.line()).startswith("+OK")
        return await self.log_in_only(login, password)

    async def log_in_only(self, login: str, password: str) -> str:
        """USER, PASS; the answer to PASS."""
        assert await self.ask(f"USER {login}") == "+OK"
        return await self.ask(f"PASS {password}")

    async def text(self) -> bytes:
        """A multi-line answer after its first line, dots taken off."""
        out = bytearray()
        while True:
            line = await self.reader.readline()
            if line == b".\r\n":
                return bytes(out)
            if not line.endswith(b"\n"):
                raise EOFError("the connection ended within a text")
            out += line[1:] if line.startswith(b".") else line

    async def retrieve(self, number: int) -> bytes:
        """A message."""
        answer = await self.ask(f"RETR {number}")
        assert answer.startswith("+OK"), answer
        return await self.text()

    async def play(self, transcript: str) -> None:
        """A whole dialog."""
        for line in transcript.strip().splitlines():
            mark, _, text = line.lstrip().partition(":")
            text = text.removeprefix(" ")
            if mark == "C":
                self.send(text)
            else:
                assert mark == "S", line
                got = await self.line()
                assert got == text, f"expected {text!r}, got {got!r}"

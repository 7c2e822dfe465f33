"""The connection with a transport that only writes down what it is told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from mailarray.contract.settings import Listen, SmtpSettings
from mailarray.smtp.connection import Connection
from mailarray.smtp.listener import SmtpListener
from tests.support.certificates import write_certificate
from tests.unit.smtp.doubles import MemoryDirectory, MemorySink


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.1", 4711) if name == "peername" else default

    def write(self, data: Any) -> None:
        self.calls.append(bytes(data[:3]).decode())

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.calls.append("eof")

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")


def connect(tmp_path: Path) -> tuple[Connection, Transport, MemorySink]:
    sink = MemorySink()
    settings = SmtpSettings(
        listen=Listen(host="127.0.0.1", port=0), hostname="mx.mail.example", tls=write_certificate(tmp_path, "mx")
    )
    connection = Connection(SmtpListener(settings, MemoryDirectory(), sink), "test-1")
    transport = Transport()
    connection.connection_made(transport)
    return connection, transport, sink


MESSAGE = b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<anna@mail.example>\r\nDATA\r\nx\r\n.\r\n"


async def test_not_a_byte_is_read_between_starttls_and_the_handshake(tmp_path: Path) -> None:
    connection, transport, _ = connect(tmp_path)
    connection.data_received(b"STARTTLS\r\n")
    assert transport.calls == ["220", "220", "pause"]
    connection.resume_writing()
    assert transport.calls[-1] == "pause"
    assert connection._tls_task is not None
    connection._tls_task.cancel()
    await asyncio.gather(connection._tls_task, return_exceptions=True)


def test_one_write_for_all_replies_to_what_came_together(tmp_path: Path) -> None:
    connection, transport, _ = connect(tmp_path)
    connection.data_received(MESSAGE)
    assert transport.calls == ["220", "250"]


def test_reading_goes_on_only_when_outcome_and_replies_are_through(tmp_path: Path) -> None:
    connection, transport, sink = connect(tmp_path)
    connection.data_received(MESSAGE)
    connection.data_received(b"NOOP\r\n")
    assert transport.calls.pop() == "pause"
    connection.pause_writing()
    connection.resume_writing()
    assert "resume" not in transport.calls
    connection.pause_writing()
    sink.waiting.pop()(sink.next_outcome())
    assert "resume" not in transport.calls
    connection.resume_writing()
    assert transport.calls[-1] == "resume"


def test_outcome_after_the_end_of_the_connection_is_dropped(tmp_path: Path) -> None:
    connection, transport, sink = connect(tmp_path)
    connection.data_received(MESSAGE)
    connection.connection_lost(None)
    before = list(transport.calls)
    sink.waiting.pop()(sink.next_outcome())
    assert transport.calls == before

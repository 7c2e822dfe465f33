"""Real clients: swaks, curl, and Postfix's load generator smtp-source."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from tests.component.smtp.wire import listener
from tests.support.certificates import write_certificate
from tests.unit.smtp.doubles import content_of, text_of

pytestmark = pytest.mark.debian
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


async def run(program: str, *arguments: str) -> str:
    found = shutil.which(program, path=PATH)
    assert found, f"{program} is missing: `make test` installs it (Debian packages swaks, curl, postfix)"
    process = await asyncio.create_subprocess_exec(
        found, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_swaks() -> None:
    async with listener() as (server, sink):
        output = await run(
            "swaks", "--server", f"127.0.0.1:{server.port}", "--from", "a@b.example", "--to", "anna@mail.example",
            "--ehlo", "client.example", "--body", "first line\n.\n..\nlast line", "--pipeline",
        )  # fmt: skip
        assert "Ok: queued as" in output
        assert content_of(sink.messages[0]).rstrip().endswith(b"first line\r\n.\r\n..\r\nlast line")


async def test_curl_over_tls(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"Subject: x\r\n\r\nhello\r\n.\r\n")
    async with listener(tls=write_certificate(tmp_path, "mx.mail.example")) as (server, sink):
        await run(
            "curl", "--silent", "--show-error", "--ssl-reqd", "--insecure", f"smtp://127.0.0.1:{server.port}/client.example",
            "--mail-from", "a@b.example", "--mail-rcpt", "anna@mail.example", "--mail-rcpt", "bert@mail.example",
            "--upload-file", str(text),
        )  # fmt: skip
        assert b"from client.example ([127.0.0.1])\r\n\tby mx.mail.example with ESMTPS;" in text_of(sink.messages[0])
        assert content_of(sink.messages[0]) == text.read_bytes()
        assert [delivery.mailbox for delivery in sink.messages[0].deliveries] == [
            "anna@mail.example",
            "bert@mail.example",
        ]


async def test_swaks_through_a_proxy() -> None:
    async with listener(proxies=("127.0.0.0/8",)) as (server, sink):
        for version, family in (("1", "TCP4"), ("2", "AF_INET")):
            await run(
                "swaks", "--server", f"127.0.0.1:{server.port}", "--from", "a@b.example", "--to", "anna@mail.example",
                "--ehlo", "client.example", "--proxy-version", version, "--proxy-family", family,
                "--proxy-protocol", "STREAM", "--proxy-command", "PROXY", "--proxy-source", "192.0.2.7",
                "--proxy-source-port", "999", "--proxy-dest", "198.51.100.1", "--proxy-dest-port", "25",
            )  # fmt: skip
        assert all(b"([192.0.2.7])" in text_of(message) for message in sink.messages) and len(sink.messages) == 2


@pytest.mark.parametrize("size", [10, 4096, 300_000])
async def test_smtp_source(size: int) -> None:
    async with listener() as (server, sink):
        await run(
            "smtp-source", "-d", "-s", "5", "-m", "100", "-l", str(size), "-f", "a@b.example",
            "-t", "anna@mail.example", f"127.0.0.1:{server.port}",
        )  # fmt: skip
        assert len(sink.messages) == 100
        assert len({len(content_of(message)) for message in sink.messages}) <= 3
        assert all(content_of(message).endswith(b"\r\n") for message in sink.messages)
        assert sink.open_writers == 0 and server.service.tally.pending == 0

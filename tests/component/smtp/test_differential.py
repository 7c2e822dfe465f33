"""The same dialogs to aiosmtpd, an independent implementation: same classes of replies, same delivered bytes.

Where the two differ on purpose, the command stands in DIFFERENCES with both codes and the reason:
everything else must agree in the first digit.
"""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, Envelope

from tests.component.smtp.wire import Client, listener
from tests.unit.smtp.doubles import MemoryDirectory, content_of

# (command, ours, aiosmtpd's) -> reason
DIFFERENCES = {
    (b"MAIL FROM:a@b.example", 501, 250): "angle brackets are not optional, RFC 5321 4.1.1.2",
    (b"BDAT 5 LAST\r\nhello", 250, 500): "CHUNKING, RFC 3030; aiosmtpd does not offer it",
    (b"EHLO bad(name)", 501, 250): "what cannot stand in Received: is no host name",
    (b"QUIT now", 221, 501): "a client that wants to go may go",
    (b"HELP NOSUCH", 214, 501): "one help text for all",
    (b"MAIL FROM:<a b@c.example>", 501, 250): "a space stands in an address only inside quotes, RFC 5321 4.1.2",
}

DIFFERING = {command for command, _, _ in DIFFERENCES}

HELLO = [b"EHLO client.example"]
ENVELOPE = [*HELLO, b"MAIL FROM:<a@b.example>", b"RCPT TO:<anna@mail.example>"]

DIALOGS: dict[str, list[bytes]] = {
    "plain": [*ENVELOPE, b"DATA", b"Subject: x\r\n\r\nhello\r\n.", b"QUIT"],
    "dots": [*ENVELOPE, b"DATA", b"..\r\n...\r\n..x\r\na.b\r\n.", b"QUIT"],
    "empty text": [*ENVELOPE, b"DATA", b".", b"QUIT"],
    "two messages": [*ENVELOPE, b"DATA", b"1\r\n.", *ENVELOPE[1:], b"DATA", b"2\r\n.", b"QUIT"],
    "helo": [b"HELO client.example", *ENVELOPE[1:], b"DATA", b"x\r\n.", b"QUIT"],
    "null sender": [*HELLO, b"MAIL FROM:<>", b"RCPT TO:<anna@mail.example>", b"DATA", b"x\r\n.", b"QUIT"],
    "unknown recipients": [*ENVELOPE, b"RCPT TO:<no@mail.example>", b"RCPT TO:<a@no.example>", b"DATA", b"x\r\n."],
    "sequence": [b"MAIL FROM:<a@b.example>", b"RCPT TO:<anna@mail.example>", b"DATA", *HELLO, b"RCPT TO:<a@b.example>"],
    "nested": [*ENVELOPE, b"MAIL FROM:<a@b.example>", b"RSET", b"RCPT TO:<anna@mail.example>", b"DATA"],
    "parameters": [
        *HELLO,
        b"MAIL FROM:<a@b.example> SIZE=100 BODY=8BITMIME",
        b"RSET",
        b"MAIL FROM:<a@b.example> SIZE=x",
    ],
    "too large": [*HELLO, b"MAIL FROM:<a@b.example> SIZE=999999999"],
    "unknown parameter": [*HELLO, b"MAIL FROM:<a@b.example> FOO=bar"],
    "no brackets": [*HELLO, b"MAIL FROM:a@b.example"],
    "bad addresses": [*HELLO, b"MAIL FROM:<a b@c.example>", b"MAIL FROM:", b"MAIL", b"MAIL TO:<a@b.example>"],
    "bad recipients": [*ENVELOPE, b"RCPT TO:<>", b"RCPT", b"RCPT FROM:<a@b.example>", b"RCPT TO:<a@b.example> X=y"],
    "small commands": [*HELLO, b"NOOP", b"NOOP x", b"HELP", b"VRFY anna@mail.example", b"EXPN staff", b"FOO", b"QUIT"],
    "vrfy parameters": [*HELLO, b"VRFY anna@mail.example BODY=7BIT", b"VRFY"],
    "arguments": [*HELLO, b"RSET x", b"EHLO", b"HELO"],
    "data argument": [*ENVELOPE, b"DATA now", b"DATA", b"x\r\n."],
    "hello in a transaction": [*ENVELOPE, *HELLO, b"DATA"],
    "host name": [b"EHLO bad(name)"],
    "chunks": [*ENVELOPE, b"BDAT 5 LAST\r\nhello"],
    "quit argument": [b"QUIT now"],
    "help argument": [b"HELP NOSUCH"],
    "lower case": [
        b"ehlo client.example",
        b"mail from:<a@b.example>",
        b"rcpt to:<anna@mail.example>",
        b"data",
        b"x\r\n.",
    ],
    "odd bytes": [*ENVELOPE, b"DATA", b"\x00\xff\xc3\r\n" + b"a" * 900 + b"\r\n.", b"QUIT"],
}


@dataclasses.dataclass
class Reference:
    """aiosmtpd's handler, with the same directory."""

    texts: list[bytes] = dataclasses.field(default_factory=list)

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Envelope, address: str, rcpt_options: list[str]
    ) -> str:
        from mailarray.directory.directory import Account

        if not isinstance(MemoryDirectory().resolve(address), Account):
            return "550 No such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 Ok"

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        self.texts.append(envelope.content)
        return "250 Ok"


async def codes(port: int, commands: list[bytes]) -> list[int]:
    client = await Client.connect(port)
    heard = [int((await client.reply())[:3])]
    for command in commands:
        client.send(command if command.startswith(b"BDAT") else command + b"\r\n")
        reply = await client.reply()
        heard.append(int(reply[:3] or 0))
        if command.startswith(b"BDAT") and heard[-1] >= 400:
            break
    client.close()
    return heard


@pytest.mark.parametrize("name", DIALOGS)
async def test_same_replies_and_same_bytes(name: str) -> None:
    commands = DIALOGS[name]
    reference = Reference()
    theirs_server = await asyncio.get_running_loop().create_server(
        lambda: SMTP(reference, hostname="mx.mail.example", enable_SMTPUTF8=True), "127.0.0.1", 0
    )
    async with theirs_server, listener() as (server, sink):
        theirs = await codes(theirs_server.sockets[0].getsockname()[1], commands)
        ours = await codes(server.port, commands)
    for command, our, their in zip([b"", *commands], ours, theirs, strict=False):
        if (command, our, their) not in DIFFERENCES:
            assert our // 100 == their // 100, (command, our, their)
            assert command not in DIFFERING, f"{command!r} does not differ any more: {our} and {their}"
    if (commands[-1], ours[-1], theirs[-1]) not in DIFFERENCES:
        assert len(ours) == len(theirs)
        assert [content_of(message) for message in sink.messages] == reference.texts


def test_every_difference_is_asked_for() -> None:
    assert {command for commands in DIALOGS.values() for command in commands} >= DIFFERING

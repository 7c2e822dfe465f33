"""What the server says, dialog by dialog."""

from __future__ import annotations

import pytest

from mailarray.contract.settings import SmtpLimits
from mailarray.directory.directory import Account, DirectoryUnavailable, NotFound
from mailarray.model.message import Delivery, Refused
from mailarray.smtp.session import _DISPATCH
from tests.unit.smtp.dialog import ENVELOPE, HELLO, Peer, run
from tests.unit.smtp.doubles import content_of, text_of

ID = "0" * 31 + "1"


def test_one_message() -> None:
    peer = run(
        ENVELOPE
        + f"""
C: DATA
S: 354 End data with <CR><LF>.<CR><LF>
C: Subject: hello
C:
C: ..one dot
C: .
! commit
S: 250 2.0.0 Ok: queued as {ID}
C: QUIT
S: 221 2.0.0 Bye
! close
"""
    )
    (message,) = peer.sink.messages
    assert message.sender == "carl@client.example"
    assert message.deliveries == (Delivery("anna@mail.example", "anna@mail.example"),)
    assert text_of(message) == (
        b"Return-Path: <carl@client.example>\r\n"
        b"Received: from client.example ([192.0.2.1])\r\n"
        b"\tby mx.mail.example with ESMTP\r\n"
        b"\tfor <anna@mail.example>; Tue, 14 Nov 2023 22:13:20 +0000\r\n"
        b"Subject: hello\r\n\r\n.one dot\r\n"
    )
    assert peer.service.tally.accepted == 1 and peer.service.tally.pending == 0
    assert peer.service.tally.bytes == len(text_of(message))


def test_without_any_accounts_mail_is_put_off_and_nobody_is_unknown() -> None:
    peer = Peer()

    def away(recipient: str) -> Account | NotFound:
        raise DirectoryUnavailable("none yet")

    peer.service.directory.resolve = away  # type: ignore[method-assign]
    run(
        HELLO
        + """
C: MAIL FROM:<carl@client.example>
S: 250 2.1.0 Ok
C: RCPT TO:<anna@mail.example>
S: 451 4.3.0 Mailboxes cannot be looked up now, try again later
""",
        peer,
    )


def test_recipients() -> None:
    peer = run(
        HELLO
        + r"""
C: MAIL FROM:<> SIZE=100 BODY=8BITMIME
S: 250 2.1.0 Ok
C: RCPT TO:<nobody@mail.example>
S: 550 5.1.1 No such mailbox here
C: RCPT TO:<anna@elsewhere.example>
S: 550 5.1.2 Domain is not served here
C: RCPT TO:<>
S: 501 5.1.3 Bad recipient address syntax
C: DATA
S: 554 5.5.1 No valid recipients
C: rcpt to:<Postmaster>
S: 250 2.1.5 Ok
C: RCPT TO: <@relay.example,@other.example:bert+tag@MAIL.example>
S: 250 2.1.5 Ok
C: RCPT TO:<"anna"@mail.example>
S: 250 2.1.5 Ok
C: RCPT TO:<"two words"@mail.example>
S: 550 5.1.1 No such mailbox here
C: RCPT TO:<sales@mail.example> NOTIFY=NEVER
S: 555 5.5.4 Parameter not recognized or not implemented
C: DATA
S: 354 ...
C: .
! commit
S: 250 2.0.0 Ok: queued as ...
"""
    )
    (message,) = peer.sink.messages
    assert message.sender == ""
    assert message.deliveries == (
        Delivery("anna@mail.example", "Postmaster"),  # once, although named twice
        Delivery("bert@mail.example", "bert+tag@MAIL.example"),
    )
    assert b"\tfor <" not in text_of(message)
    assert text_of(message).startswith(b"Return-Path: <>\r\n")


def test_order_of_commands() -> None:
    run(
        """
S: 220 mx.mail.example ESMTP Mailarray
C: MAIL FROM:<a@b.example>
S: 503 5.5.1 Send EHLO or HELO first
C: HELO
S: 501 5.5.4 Say your host name or address literal
C: HELO bad(name)
S: 501 5.5.4 ...
C: HELO [192.0.2.1]
S: 250 mx.mail.example
C: RCPT TO:<anna@mail.example>
S: 503 5.5.1 Send MAIL first
C: DATA
S: 503 5.5.1 Send MAIL first
C: MAIL FROM:<a@b.example> SIZE=10
S: 555 5.5.4 ...
C: MAIL FROM:<a@b.example>
S: 250 2.1.0 Ok
C: MAIL FROM:<a@b.example>
S: 503 5.5.1 Sender already given
C: DATA
S: 554 5.5.1 No valid recipients
C: RSET
S: 250 2.0.0 Ok
C: RCPT TO:<anna@mail.example>
S: 503 5.5.1 Send MAIL first
C: NOOP anything
S: 250 2.0.0 Ok
C: VRFY anna
S: 252 2.5.2 ...
C: EXPN staff
S: 502 5.5.1 Command not implemented
C: HELP
S: 214 2.0.0 ...
C: XYZZY
S: 500 5.5.2 Command not recognized
C: STARTTLS
S: 502 5.5.1 Command not implemented
C: PROXY TCP4 1.2.3.4 1.2.3.4 1 2
S: 500 5.5.2 Command not recognized
"""
    )


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("MAIL FROM:a@b.example", "501 5.5.4 Syntax: MAIL FROM:<address>"),
        ("MAIL", "501 5.5.4 Syntax: MAIL FROM:<address>"),
        ("MAIL FROM:<a b@c.example>", "501 5.1.7 ..."),
        ("MAIL FROM:<a@b.example>SIZE=1", "501 5.5.4 ..."),
        ("MAIL FROM:<a@b.example> SIZE=x", "501 5.5.4 ..."),
        ("MAIL FROM:<a@b.example> SIZE=1 SIZE=1", "501 5.5.4 ..."),
        ("MAIL FROM:<a@b.example> SIZE=99999999999", "552 5.3.4 Message exceeds the size limit"),
        ("MAIL FROM:<a@b.example> BODY=BINARYMIME", "501 5.5.4 ..."),
        ("MAIL FROM:<a@b.example> AUTH=<>", "555 5.5.4 ..."),
        (r"MAIL FROM:<j\xc3\xbcrgen@b.example>", "553 5.6.7 Address needs SMTPUTF8"),
        (r"MAIL FROM:<\xff@b.example>", "500 5.5.2 Command line is not UTF-8 text"),
        (r"MAIL FROM:<a@b.example>\nRSET", "500 5.5.2 Command lines end with <CR><LF>"),
        ('MAIL FROM:<"quoted \\\\" one"@b.example>', "250 2.1.0 Ok"),
        ("MAIL FROM:<a@[192.0.2.1]> SIZE=0", "250 2.1.0 Ok"),
        ("mail from: <a..b.@b.example>  BODY=7bit ", "250 2.1.0 Ok"),
    ],
)
def test_mail_argument(command: str, reply: str) -> None:
    more = "\nS: 250 2.0.0 Ok" if r"\nRSET" in command else ""
    run(HELLO + f"C: {command}\nS: {reply}{more}")


def test_utf8_addresses() -> None:
    peer = run(
        HELLO
        + r"""
C: MAIL FROM:<j\xc3\xb6rg@b\xc3\xbccher.example> SMTPUTF8
S: 250 2.1.0 Ok
C: RCPT TO:<j\xc3\xbcrgen@mail.example>
S: 250 2.1.5 Ok
C: DATA
S: 354 ...
C: .
! commit
S: 250 ...
"""
    )
    text = text_of(peer.sink.messages[0]).decode()
    assert "with UTF8SMTP\r\n\tfor <jürgen@mail.example>" in text and "<jörg@bücher.example>" in text


def test_sink_refuses() -> None:
    peer = run(ENVELOPE)
    peer.sink.now_refused = Refused(452, "4.3.1", "Volume is nearly full")
    run("C: DATA\nS: 452 4.3.1 Volume is nearly full\nC: RSET\nS: 250 2.0.0 Ok", peer)
    run("C: MAIL FROM:<a@b.example>\nS: 452 4.3.1 Volume is nearly full", peer)
    peer.sink.now_refused = None
    run("C: MAIL FROM:<a@b.example>\nS: 250 2.1.0 Ok\nC: RCPT TO:<anna@mail.example>\nS: 250 2.1.5 Ok", peer)
    run("C: DATA\nS: 354 ...\nC: .\n! refuse\nS: 451 4.4.0 No mirror", peer)
    assert peer.service.tally.accepted == 0 and peer.service.tally.pending == 0


def test_disk_full_while_text_comes_in() -> None:
    peer = run(ENVELOPE + "C: DATA\nS: 354 ...\nC: some text")
    peer.sink.disk_full = True
    run("C: more\nC: QUIT\nC: .\nS: 452 4.3.1 Insufficient storage\nC: NOOP\nS: 250 2.0.0 Ok", peer)
    assert not peer.sink.messages and peer.sink.open_writers == 0


def test_size_limit_while_text_comes_in() -> None:
    peer = Peer(limits=SmtpLimits(max_message_size=20))
    peer.send(b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<anna@mail.example>\r\nDATA\r\n")
    peer.output = b""
    run("C: 012345678901234567\nC: .\n! commit\nS: 250 ...", peer)  # twenty bytes with CRLF
    run("C: MAIL FROM:<>\nS: 250 ...\nC: RCPT TO:<anna@mail.example>\nS: 250 ...\nC: DATA\nS: 354 ...", peer)
    run("C: 0123456789012345678\nC: QUIT\nC: .\nS: 552 5.3.4 Message exceeds the size limit\n! open", peer)
    assert len(peer.sink.messages) == 1 and peer.sink.open_writers == 0


def test_mail_loop() -> None:
    for hops, reply in ((100, "250 2.0.0 ..."), (101, "554 5.4.6 Too many hops: mail loop")):
        peer = run(ENVELOPE + "C: DATA\nS: 354 ...")
        for _ in range(hops):
            peer.send(b"Received: from somewhere\r\n")
        peer.send(b"\r\nReceived: in the body\r\nReceived: counts for nothing\r\n.\r\n")
        if hops == 100:
            peer.commit()
        run(f"S: {reply}", peer)


def test_one_piece_of_bytes_for_a_short_message() -> None:
    peer = run(ENVELOPE + r"C: DATA" + "\nS: 354 ...\nC: a\\r\\nb\\r\\n.\n! commit\nS: 250 ...")
    (chunk,) = peer.sink.messages[0].body.chunks()
    assert chunk.endswith(b"+0000\r\na\r\nb\r\n")


def test_limits_of_a_session() -> None:
    errors = "C: FOO\nS: 500 5.5.2 Command not recognized\n"
    run(HELLO + errors * 20 + "S: 421 4.7.0 Too many errors\n! close")
    run(HELLO + "C: NOOP\nS: 250 2.0.0 Ok\n" * 99 + "C: NOOP\nS: 421 4.7.0 Too many commands without mail\n! close")
    run(HELLO + f"c: {'x' * 2049}\nS: 500 5.5.2 Command line too long\nC: {'x' * 9999}\nC: NOOP\nS: 250 2.0.0 Ok")
    run(HELLO + f"C: {'x' * 2047}\nS: 500 5.5.2 Command line too long\nC: NOOP\nS: 250 2.0.0 Ok")
    run(HELLO + f"C: NOOP {'x' * 2041}\nS: 250 2.0.0 Ok")


def test_recipient_limit() -> None:
    peer = Peer(limits=SmtpLimits(max_recipients=150))
    peer.send(b"EHLO a\r\nMAIL FROM:<>\r\n")
    peer.output = b""
    run("C: RCPT TO:<anna@mail.example>\nS: 250 2.1.5 Ok\n" * 150, peer)  # more than max_commands_without_mail
    run("C: RCPT TO:<anna@mail.example>\nS: 452 4.5.3 Too many recipients\nC: DATA\nS: 354 ...", peer)


def test_pipelining_keeps_the_order_of_replies() -> None:
    peer = run(HELLO)
    one = b"MAIL FROM:<>\r\nRCPT TO:<anna@mail.example>\r\nRCPT TO:<x@mail.example>\r\nDATA\r\ntext\r\n.\r\n"
    peer.send(one + one + b"NOOP\r\nQUIT\r\nNOOP\r\n")
    script = "S: 250 2.1.0 Ok\nS: 250 2.1.5 Ok\nS: 550 5.1.1 ...\nS: 354 ...\n! open\n! commit\nS: 250 2.0.0 Ok: ...\n"
    run(script + script + "S: 250 2.0.0 Ok\nS: 221 2.0.0 Bye\n! close", peer)


def test_chunks() -> None:
    peer = run(
        ENVELOPE
        + r"""
c: BDAT 9\r\n0123\r\n.\r\n
S: 250 2.0.0 Ok: chunk received
C: MAIL FROM:<>
S: 503 5.5.1 Message chunks are being sent, go on with BDAT or RSET
c: BDAT 6 LAST\r\n..tail
! commit
S: 250 2.0.0 Ok: queued as ...
C: MAIL FROM:<>
S: 250 2.1.0 Ok
C: RCPT TO:<anna@mail.example>
S: 250 2.1.5 Ok
C: BDAT 0 LAST
! commit
S: 250 2.0.0 Ok: queued as ...
c: BDAT 6\r\nQUIT\r\n
S: 503 5.5.1 Send MAIL first
C: MAIL FROM:<>
S: 250 2.1.0 Ok
c: BDAT 6 LAST\r\nQUIT\r\n
S: 554 5.5.1 No valid recipients
C: MAIL FROM:<>
S: 250 2.1.0 Ok
C: RCPT TO:<anna@mail.example>
S: 250 2.1.5 Ok
c: BDAT 4\r\nabcd
S: 250 2.0.0 Ok: chunk received
C: RSET
S: 250 2.0.0 Ok
C: BDAT many LAST
S: 501 5.5.4 Syntax: BDAT size [LAST]
! close
"""
    )
    assert [content_of(message) for message in peer.sink.messages] == [b"0123\r\n.\r\n..tail", b""]
    assert peer.sink.open_writers == 0


def test_many_chunks_make_one_message() -> None:
    peer = run(
        ENVELOPE + "c: BDAT 1\\r\\nx\nS: 250 2.0.0 Ok: chunk received\n" * 300 + "C: BDAT 0 LAST\n! commit\nS: 250 ..."
    )
    assert content_of(peer.sink.messages[0]) == b"x" * 300


def test_starttls() -> None:
    peer = Peer(tls=True)
    peer.output = b""
    run(
        """
C: EHLO client.example
S: 250-mx.mail.example
S: 250-SIZE 52428800
S: 250-8BITMIME
S: 250-PIPELINING
S: 250-ENHANCEDSTATUSCODES
S: 250-SMTPUTF8
S: 250-CHUNKING
S: 250 STARTTLS
C: MAIL FROM:<a@b.example>
S: 250 2.1.0 Ok
C: STARTTLS
S: 503 5.5.1 Not during a mail transaction
C: RSET
S: 250 2.0.0 Ok
C: STARTTLS
S: 220 2.0.0 Ready to start TLS
! tls
C: MAIL FROM:<a@b.example>
S: 503 5.5.1 Send EHLO or HELO first
"""
        + HELLO.partition("Mailarray\n")[2].lstrip()
        + """
C: STARTTLS
S: 503 5.5.1 TLS is already active
C: MAIL FROM:<a@b.example>
S: 250 2.1.0 Ok
C: RCPT TO:<anna@mail.example>
S: 250 2.1.5 Ok
C: DATA
S: 354 ...
C: .
! commit
S: 250 ...
""".lstrip(),
        peer,
    )
    assert b"with ESMTPS\r\n" in text_of(peer.sink.messages[0])


def test_nothing_may_follow_starttls_in_plain_text() -> None:
    peer = Peer(tls=True)
    peer.send(b"EHLO a\r\n")
    peer.output = b""
    peer.send(b"STARTTLS\r\nMAIL FROM:<injected@example.org>\r\n")
    run("S: 501 5.5.1 Nothing may follow STARTTLS before the handshake\n! close", peer)
    assert not peer.tls_wanted


def test_client_vanishes() -> None:
    peer = run(ENVELOPE + "C: DATA\nS: 354 ...\nC: half a mess")
    peer.session.lost()
    assert peer.sink.open_writers == 0 and peer.sink.discarded == 1 and not peer.sink.messages
    peer = run(ENVELOPE + "C: DATA\nS: 354 ...\nC: a whole one\nC: .")
    peer.session.lost()
    run("! commit", peer)  # and nothing is said
    assert peer.service.tally.accepted == 1 and peer.service.tally.pending == 0


def test_every_command_has_a_place_in_every_state() -> None:
    verbs = {verb for row in _DISPATCH for verb in row}
    assert len(verbs) == 13
    assert all(set(row) == verbs for row in _DISPATCH)

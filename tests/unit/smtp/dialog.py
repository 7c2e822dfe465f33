"""Dialogs as transcripts: `C:` lines are sent, `S:` lines must come back, nothing else may.

C: EHLO client.example      one line with CRLF; escapes of Python (\\n, \\r, \\x00, \\xfc) are understood
c: MAIL FR                  the same without CRLF
S: 250 2.1.0 Ok             one reply line; `...` at the end stands for any rest
!  commit                   the sink answers; also: refuse, close (the session must have closed), open
"""

from __future__ import annotations

from mailarray.contract.settings import Listen, SmtpLimits, SmtpSettings, TlsSettings
from mailarray.model.message import Refused
from mailarray.smtp.client import ClientAddress
from mailarray.smtp.events import Close, Event, StartTls, Submit
from mailarray.smtp.service import Service
from mailarray.smtp.session import Session
from tests.unit.smtp.doubles import MemoryDirectory, MemorySink

NOON = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 +0000


class Peer:
    """A session with its sink, driven as a connection drives it."""

    def __init__(self, *, limits: SmtpLimits | None = None, tls: bool = False, auto_commit: bool = False) -> None:
        settings = SmtpSettings(
            listen=Listen(host="127.0.0.1", port=0),
            hostname="mx.mail.example",
            limits=limits or SmtpLimits(),
            tls=TlsSettings(certificate="unused", key="unused") if tls else None,
        )
        self.sink = MemorySink()
        self.service = Service(settings, MemoryDirectory(), self.sink, clock=lambda: NOON)
        self.session = Session(self.service, ClientAddress("192.0.2.1", 4711), "test-1")
        self.auto_commit = auto_commit
        self.output = self.session.greeting()
        self.closed = False
        self.tls_wanted = False

    def send(self, data: bytes) -> None:
        if not self.closed:
            self._take(self.session.receive(data))

    def commit(self) -> None:
        self.sink.waiting.pop(0)
        self._take(self.session.outcome(self.sink.next_outcome()))

    def refuse(self) -> None:
        self.sink.waiting.pop(0)
        self._take(self.session.outcome(Refused(451, "4.4.0", "No mirror")))

    def _take(self, result: tuple[bytes, Event | None]) -> None:
        output, event = result
        self.output += output
        if isinstance(event, Submit):
            self.sink.submit(event.message, lambda outcome: None)
            if self.auto_commit:
                self.commit()
        elif isinstance(event, Close):
            self.closed = True
        elif isinstance(event, StartTls):
            self.tls_wanted = True


def run(script: str, peer: Peer | None = None, **options: object) -> Peer:
    """Play a transcript; raises AssertionError with what was heard instead."""
    peer = peer or Peer(**options)  # type: ignore[arg-type]
    heard: list[str] = []
    for number, raw in enumerate(script.strip().splitlines(), 1):
        if not raw.strip():
            continue
        kind, _, text = raw.strip().partition(" ")
        text = text.strip() if kind in ("!", "S:") else text
        heard += peer.output.decode().split("\r\n")[:-1]
        peer.output = b""
        if kind in ("C:", "c:"):
            assert not heard, f"line {number}: {raw.strip()!r} is due, but the server said {heard[0]!r}"
            data = text.encode().decode("unicode_escape").encode("latin-1")
            peer.send(data + b"\r\n" if kind == "C:" else data)
        elif kind == "S:":
            assert heard, f"line {number}: {text!r} is due, but the server said nothing"
            line = heard.pop(0)
            same = line.startswith(text[:-3]) if text.endswith("...") else line == text
            assert same, f"line {number}: {text!r} is due, but the server said {line!r}"
        elif text == "commit":
            peer.commit()
        elif text == "refuse":
            peer.refuse()
        elif text == "close":
            assert peer.closed, f"line {number}: the session is still open"
        elif text == "open":
            assert not peer.closed, f"line {number}: the session is closed"
        elif text == "tls":
            assert peer.tls_wanted, f"line {number}: no TLS was begun"
            peer.session.tls_started()
        else:
            raise AssertionError(f"line {number}: {raw!r} is no line of a dialog")
    heard += peer.output.decode().split("\r\n")[:-1]
    peer.output = b""
    assert not heard, f"at the end the server also said {heard}"
    return peer


HELLO = """
S: 220 mx.mail.example ESMTP Mailarray
C: EHLO client.example
S: 250-mx.mail.example
S: 250-SIZE 52428800
S: 250-8BITMIME
S: 250-PIPELINING
S: 250-ENHANCEDSTATUSCODES
S: 250-SMTPUTF8
S: 250 CHUNKING
"""

ENVELOPE = (
    HELLO
    + """
C: MAIL FROM:<carl@client.example>
S: 250 2.1.0 Ok
C: RCPT TO:<anna@mail.example>
S: 250 2.1.5 Ok
"""
)

"""A POP3 server session as a state machine: bytes in, events and reply bytes out.

RFC 1939, with CAPA (RFC 2449), STLS (RFC 2595), AUTH PLAIN (RFC 5034, RFC 4616), response codes (RFC 2449
section 8, RFC 3206) and UTF8 (RFC 6856). It answers by itself whatever the snapshot of the mailbox answers,
and asks by an event for the rest; it then handles no further command until the answer came, so pipelined
commands (RFC 2449 section 6.6) are answered in order. The listener drives it.

Invariants:
- A mailbox is a snapshot: numbers, sizes and UIDLs do not change during a session (RFC 1939 section 8).
- Nothing is deleted before QUIT in TRANSACTION (RFC 1939 section 6).
- Whatever was sent in clear after STLS is forgotten (RFC 2595 section 4), and so is a login name.
- Output held here is bounded: with OUTPUT_HIGH bytes due, the next event is `Flush`. One listing may exceed it.
"""

from __future__ import annotations

import base64
import binascii
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mailarray.access.pop3.commands import LineReader, LineTooLong, number, parse
from mailarray.access.pop3.events import Close, Event, Flush, Login, Retrieve, StartTls, Update
from mailarray.access.pop3.stuffing import DotStuffer, TopCutter

OUTPUT_HIGH = 64 * 1024  # bytes; a client that pipelines LIST ten thousand times must take the answers as it asks
MAX_ERRORS = 20  # commands that are not understood, in one session: a scanner, or a client of another protocol


class ProtocolMisuse(RuntimeError):
    """The driver answered something that was not asked: a bug, never the client's doing."""


class Listed(Protocol):
    """What the machine needs to know of a message."""

    @property
    def length(self) -> int:
        """Bytes."""
        ...

    @property
    def uidl(self) -> str:
        """Unique id, 1 to 70 printable characters (RFC 1939 section 7)."""
        ...


class State(enum.Enum):
    """RFC 1939 section 3, and the wait for a SASL response (RFC 5034 section 4)."""

    AUTHORIZATION = "authorization"
    SASL = "sasl"
    TRANSACTION = "transaction"
    UPDATE = "update"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Offer:
    """What this connection may do."""

    hostname: str
    starttls: bool = False  # a certificate is at hand
    plaintext_login: bool = True  # without TLS: loopback, or allowed by the settings


class Pop3Machine:
    """One session. Call `receive`, then `next_event` until it answers None; send `take_output` along the way."""

    def __init__(self, offer: Offer, *, secure: bool = False) -> None:
        self.state = State.AUTHORIZATION
        self.secure = secure
        self._offer = offer
        self._lines = LineReader()
        self._output: list[bytes] = []
        self._output_size = 0
        self._awaiting: type[Event] | None = None
        self._deaf = False  # between STLS and the handshake
        self._user: str | None = None
        self._errors = 0
        self._items: Sequence[Listed] = ()
        self._deleted: set[int] = set()
        self._octets = 0  # of the messages not deleted
        self._stuffer = DotStuffer()
        self._cutter: TopCutter | None = None
        # No timestamp in the greeting: it would announce APOP (RFC 1939 section 7), which needs stored passwords.
        self._ok(f"{offer.hostname} Mailarray POP3 server ready")

    # -- bytes ---------------------------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        """Bytes received and not handled; the driver stops reading when there are many."""
        return len(self._lines)

    @property
    def output_due(self) -> int:
        """Bytes that `take_output` would give."""
        return self._output_size

    def receive(self, data: bytes) -> None:
        """Bytes from the client."""
        if self.state is not State.CLOSED and not self._deaf:
            self._lines.feed(data)

    def take_output(self) -> bytes:
        """Bytes due to the client, once."""
        output = b"".join(self._output)
        self._output.clear()
        self._output_size = 0
        return output

    def next_event(self) -> Event | None:
        """What has to be done next; None when an answer, or more bytes, are waited for."""
        while self._awaiting is None:
            if self.state is State.CLOSED:
                self._awaiting = Close
                return Close()
            if self._output_size >= OUTPUT_HIGH:
                return Flush()
            try:
                line = self._lines.next_line()
            except LineTooLong:
                self._misunderstood("line too long")
                continue
            if line is None:
                return None
            event = self._sasl_response(line) if self.state is State.SASL else self._handle(line)
            if event is not None:
                self._awaiting = type(event)
                return event
        return None

    # -- answers of the driver -----------------------------------------------------------------------

    def logged_in(self, items: Sequence[Listed]) -> None:
        """The credentials open this mailbox, which is locked and read."""
        self._answered(Login)
        self._items = items
        self._octets = sum(item.length for item in items)
        self.state = State.TRANSACTION
        self._ok(f"{len(items)} messages ({self._octets} octets)" if items else "no messages")

    def login_refused(self, code: str, text: str, *, close: bool = False) -> None:
        """The mailbox stays shut; `code` is a response code such as AUTH, IN-USE or SYS/TEMP."""
        self._answered(Login)
        self._user = None
        self._error(text, code)
        if close:
            self.state = State.CLOSED

    def tls_begins(self) -> None:
        """From now on received bytes come out of TLS; the first may do so before the handshake is known to be done."""
        self._deaf = False

    def tls_started(self) -> None:
        """The handshake is done: the session begins anew (RFC 2595 section 4)."""
        self._answered(StartTls)
        self.secure = True

    def message_starts(self, index: int) -> None:
        """The text of the message follows."""
        self._ok(f"{self._items[index].length} octets" if self._cutter is None else "top of message follows")
        self._stuffer = DotStuffer()

    def message_chunk(self, chunk: bytes) -> bool:
        """The next bytes of the message; False when no more are wanted (TOP)."""
        if self._cutter is not None:
            chunk = self._cutter.feed(chunk)
        self._write(self._stuffer.feed(chunk))
        return self._cutter is None or not self._cutter.done

    def message_ends(self) -> None:
        """All of it was given."""
        self._answered(Retrieve)
        self._write(self._stuffer.finish())

    def message_refused(self, text: str) -> None:
        """The message cannot be read now; nothing of it was given."""
        self._answered(Retrieve)
        self._error(text, "SYS/TEMP")

    def updated(self, complete: bool) -> None:
        """The deletions are durable, or not all of them."""
        self._answered(Update)
        if complete:
            self._ok("bye")
        else:
            self._error("some deleted messages not removed", "SYS/TEMP")  # RFC 1939 section 6, QUIT
        self.state = State.CLOSED

    def _answered(self, event: type[Event]) -> None:
        if self._awaiting is not event:
            raise ProtocolMisuse(f"{event.__name__} was not asked for")
        self._awaiting = None

    # -- replies -------------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        self._output.append(data)
        self._output_size += len(data)

    def _ok(self, text: str = "") -> None:
        self._write(f"+OK {text}\r\n".encode() if text else b"+OK\r\n")

    def _error(self, text: str, code: str | None = None) -> None:
        self._write((f"-ERR [{code}] {text}\r\n" if code else f"-ERR {text}\r\n").encode())

    def _misunderstood(self, text: str) -> None:
        self._errors += 1
        self._error(text)
        if self._errors >= MAX_ERRORS:
            self.state = State.CLOSED

    # -- commands ------------------------------------------------------------------------------------

    def _handle(self, line: bytes) -> Event | None:
        command = parse(line)
        handler = COMMANDS[self.state].get(command.verb)
        if handler is not None:
            return handler(self, command.rest)
        if any(command.verb in table for table in COMMANDS.values()):
            self._misunderstood("not now: log in first" if self.state is State.AUTHORIZATION else "not after login")
        else:
            self._misunderstood("unknown command")
        return None

    def _capa(self, _rest: bytes) -> None:
        """RFC 2449 section 5; what cannot be used on this connection now is not listed."""
        lines = ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING", "EXPIRE NEVER", "UTF8 USER"]
        if self._may_log_in():
            lines += ["USER", "SASL PLAIN"]
        if self._offer.starttls and not self.secure and self.state is State.AUTHORIZATION:
            lines.append("STLS")
        lines.append("IMPLEMENTATION Mailarray")
        self._write(("+OK\r\n" + "\r\n".join(lines) + "\r\n.\r\n").encode())

    def _may_log_in(self) -> bool:
        return self.secure or self._offer.plaintext_login

    def _refuse_plaintext(self) -> bool:
        if self._may_log_in():
            return False
        self._error("login needs TLS, say STLS first")  # RFC 2595 section 2.3
        return True

    def _user_name(self, rest: bytes) -> None:
        if self._refuse_plaintext():
            return
        login = _text(rest)
        if not login:
            self._misunderstood("USER needs a name")
            return
        self._user = login
        self._ok()  # the same for every name, so that names cannot be tried out

    def _password(self, rest: bytes) -> Event | None:
        if self._refuse_plaintext():
            return None
        if self._user is None:
            self._misunderstood("USER first")
            return None
        password = _text(rest)  # spaces belong to it (RFC 1939 section 7, PASS)
        login, self._user = self._user, None
        return Login(login, password if password is not None else "")

    def _auth(self, rest: bytes) -> Event | None:
        """RFC 5034 section 4."""
        if self._refuse_plaintext():
            return None
        mechanism, _, initial = rest.partition(b" ")
        if mechanism.upper() != b"PLAIN":
            self._misunderstood("AUTH knows PLAIN only")
            return None
        if initial:
            return self._plain(b"" if initial == b"=" else initial)
        self._write(b"+ \r\n")
        self.state = State.SASL
        return None

    def _sasl_response(self, line: bytes) -> Event | None:
        self.state = State.AUTHORIZATION
        if line == b"*":  # RFC 5034 section 4: the client cancels
            self._error("cancelled")
            return None
        return self._plain(line)

    def _plain(self, encoded: bytes) -> Event | None:
        """RFC 4616 section 2: [authzid] NUL authcid NUL passwd."""
        try:
            authzid, login, password = base64.b64decode(encoded, validate=True).decode().split("\0")
        except (binascii.Error, ValueError):
            self._misunderstood("not a PLAIN response")
            return None
        if not login or (authzid and authzid != login):
            self._error("nobody logs in for somebody else", "AUTH")
            return None
        return Login(login, password)

    def _stls(self, _rest: bytes) -> Event | None:
        if not self._offer.starttls or self.secure:
            self._misunderstood("TLS is active already" if self.secure else "no TLS here")
            return None
        self._lines.clear()
        self._deaf = True
        self._user = None
        self._ok("begin TLS")
        return StartTls()

    def _utf8(self, _rest: bytes) -> None:
        """RFC 6856 section 2: messages are sent as they are, with or without it (nothing is ever downgraded)."""
        self._ok("UTF8 enabled")

    def _quit_early(self, _rest: bytes) -> None:
        self._ok("bye")
        self.state = State.CLOSED

    def _quit(self, _rest: bytes) -> Event:
        self.state = State.UPDATE
        return Update(tuple(sorted(self._deleted)))

    def _noop(self, _rest: bytes) -> None:
        self._ok()

    def _stat(self, _rest: bytes) -> None:
        self._ok(f"{len(self._items) - len(self._deleted)} {self._octets}")

    def _list(self, rest: bytes) -> None:
        self._listing(rest, lambda item: item.length)

    def _uidl(self, rest: bytes) -> None:
        self._listing(rest, lambda item: item.uidl)

    def _listing(self, rest: bytes, show: Callable[[Listed], object]) -> None:
        if rest:
            index = self._index(rest)
            if index is not None:
                self._ok(f"{index + 1} {show(self._items[index])}")
            return
        lines = [f"{i} {show(m)}\r\n" for i, m in enumerate(self._items, 1) if i - 1 not in self._deleted]
        self._write(f"+OK {len(lines)} messages\r\n{''.join(lines)}.\r\n".encode())

    def _retr(self, rest: bytes) -> Event | None:
        index = self._index(rest)
        if index is None:
            return None
        self._cutter = None
        return Retrieve(index, None)

    def _top(self, rest: bytes) -> Event | None:
        which, _, count = rest.partition(b" ")
        lines = number(count)
        if lines is None:
            self._misunderstood("TOP needs a message number and a number of lines")
            return None
        index = self._index(which)
        if index is None:
            return None
        self._cutter = TopCutter(lines)
        return Retrieve(index, lines)

    def _dele(self, rest: bytes) -> None:
        index = self._index(rest)
        if index is not None:
            self._deleted.add(index)
            self._octets -= self._items[index].length
            self._ok(f"message {index + 1} deleted")

    def _rset(self, _rest: bytes) -> None:
        self._octets += sum(self._items[index].length for index in self._deleted)
        self._deleted.clear()
        self._ok(f"{len(self._items)} messages ({self._octets} octets)")

    def _index(self, text: bytes) -> int | None:
        value = number(text)
        if value is None:
            self._misunderstood("not a message number")
        elif not 1 <= value <= len(self._items):
            self._error(f"no such message, {len(self._items)} in mailbox")
        elif value - 1 in self._deleted:
            self._error(f"message {value} is deleted")
        else:
            return value - 1
        return None


def _text(raw: bytes) -> str | None:
    try:
        return raw.decode()  # RFC 6856 section 2.2: UTF-8 names and passwords
    except UnicodeDecodeError:
        return None


_Handler = Callable[[Pop3Machine, bytes], Event | None]

COMMANDS: dict[State, dict[bytes, _Handler]] = {
    State.AUTHORIZATION: {
        b"USER": Pop3Machine._user_name,
        b"PASS": Pop3Machine._password,
        b"AUTH": Pop3Machine._auth,
        b"STLS": Pop3Machine._stls,
        b"UTF8": Pop3Machine._utf8,
        b"CAPA": Pop3Machine._capa,
        b"QUIT": Pop3Machine._quit_early,
    },
    State.SASL: {},  # the line is a response, not a command
    State.TRANSACTION: {
        b"STAT": Pop3Machine._stat,
        b"LIST": Pop3Machine._list,
        b"UIDL": Pop3Machine._uidl,
        b"RETR": Pop3Machine._retr,
        b"TOP": Pop3Machine._top,
        b"DELE": Pop3Machine._dele,
        b"RSET": Pop3Machine._rset,
        b"NOOP": Pop3Machine._noop,
        b"CAPA": Pop3Machine._capa,
        b"QUIT": Pop3Machine._quit,
    },
    State.UPDATE: {},  # nothing is handled until the deletions are answered for, and then the session ends
    State.CLOSED: {},
}

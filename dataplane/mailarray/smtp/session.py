"""The SMTP server protocol (RFC 5321) without sockets: bytes in, reply bytes and at most one event out.

Called by the connection, and by tests as it is. It asks the directory and the sink, which answer from memory, and
never waits. It refuses to know time-outs, TLS itself, and the PROXY protocol.

Invariants
- Replies come in the order of commands. While a submitted message has no outcome (`waiting`), no byte is looked at.
- At most one body writer is open; it is finished into a submitted message, or discarded, exactly once.
- After a Close event nothing is executed any more, whatever arrives.
- What is held back is bounded: a command line by `max_command_line`, otherwise by what the connection lets in
  while `waiting`.
"""

from __future__ import annotations

from collections.abc import Callable

from mailarray.directory.directory import DirectoryUnavailable, NotFound
from mailarray.model.message import Committed, IncomingMessage, Outcome, Refused
from mailarray.smtp import commands, replies
from mailarray.smtp.client import ClientAddress
from mailarray.smtp.data import ChunkReader, DataReader, Smuggling
from mailarray.smtp.envelope import Envelope
from mailarray.smtp.events import HANG_UP, QUIT, START_TLS, Event, StartTls, Submit
from mailarray.smtp.intake import Intake
from mailarray.smtp.record import SessionRecord
from mailarray.smtp.replies import Refusal
from mailarray.smtp.service import Service
from mailarray.smtp.state import ALLOWED, BDAT_REFUSED, REFUSED, State
from mailarray.smtp.trace import received_from


class Session:
    """One client's dialog, from banner to QUIT."""

    def __init__(self, service: Service, client: ClientAddress, connection_id: str) -> None:
        self._service = service
        self._client = client
        self._record = SessionRecord(service, client, connection_id)
        self._state = State.GREETED
        self._verbs = _DISPATCH[State.GREETED]
        self._held = b""
        self._skipping = False  # inside a command line that is too long
        self._event: Event | None = None
        self._closed = False
        self.waiting = False
        self.tls = False
        self.stopping = False
        self._errors = 0
        self._commands = 0  # since the last accepted message
        self._helo = ""
        self._extended = False
        self._received = ""
        # The mail transaction.
        self._envelope: Envelope | None = None
        self._reader: DataReader | ChunkReader | None = None  # while text comes in
        self._chunks: ChunkReader | None = None  # the reader of all BDAT chunks of this message
        self._last_chunk = True
        self._intake: Intake | None = None
        self._submitted: IncomingMessage | None = None  # until its outcome
        self._submitted_length = 0

    # What the connection calls.

    def greeting(self) -> bytes:
        """The banner."""
        return self._service.banner

    def receive(self, data: bytes) -> tuple[bytes, Event | None]:
        """Take bytes off the wire; returns the replies to send and what else is to be done after sending them."""
        if self._closed:
            return b"", None
        if self._held:
            data = self._held + data
            self._held = b""
        if self.waiting:
            self._held = data
            return b"", None
        output = b""
        position, size = 0, len(data)
        while position < size:
            reader = self._reader
            if reader is None:
                end = data.find(b"\n", position)
                if end < 0:
                    output += self._incomplete(data[position:])
                    position = size
                else:
                    output += self._line(data[position:end])
                    position = end + 1
            else:
                try:
                    text, rest = reader.feed(data[position:] if position else data)
                except Smuggling:
                    output += self._hang_up(replies.SMUGGLING)
                    break
                position = size if rest is None else size - len(rest)
                if text and self._intake is not None:
                    self._intake.write(text)
                if rest is not None:
                    output += self._text_end()
            if self._event is not None:
                break
        event = self._event
        if event is None:
            return output, None
        self._event = None
        if position < size and not self._closed:
            if isinstance(event, StartTls):  # CVE-2011-0411: plain text must never be read as if it came inside TLS
                return output[: -len(replies.START_TLS)] + self._hang_up(replies.TLS_PIPELINED), HANG_UP
            self._held = data[position:]
        return output, event

    def outcome(self, outcome: Outcome) -> tuple[bytes, Event | None]:
        """The sink's answer to the submitted message; goes on with what was pipelined behind it."""
        self.waiting = False
        message, self._submitted = self._submitted, None
        assert message is not None
        if isinstance(outcome, Committed):
            self._commands = 0
            message_id = outcome.id.hex()
            self._record.accepted(message, self._submitted_length, message_id)
            self._service.quotas.accepted(message.deliveries, self._submitted_length)
            if self._closed:
                return b"", None
            output = replies.queued(message_id)
        else:
            self._record.not_stored(self._submitted_length)
            if self._closed:
                return b"", None
            output = self._refuse(outcome)
        if self._event is not None or self.stopping:
            self._event = None
            if not self._closed:
                output += self.hang_up(replies.STOPPING)
            return output, HANG_UP
        if self._held:
            more, event = self.receive(b"")
            return output + more, event
        return output, None

    def tls_started(self) -> None:
        """RFC 3207 4.2: all knowledge from before the handshake is forgotten."""
        self.tls = True
        self._held = b""
        self._helo = ""
        self._end_transaction()
        self._enter(State.GREETED)

    def hang_up(self, refusal: Refusal) -> bytes:
        """The listener closes the session: the reply to send before. Idle, stopping."""
        self._service.tally.refuse(refusal.reason)
        self.lost()
        return refusal.wire

    def lost(self) -> None:
        """The connection is gone, or will be: nothing unfinished is delivered."""
        self._closed = True
        self._held = b""
        self._discard()

    @property
    def in_text(self) -> bool:
        """Whether a message text is coming in."""
        return self._intake is not None

    @property
    def in_transaction(self) -> bool:
        """Whether a mail transaction is under way: from MAIL to its outcome."""
        return not self._closed and (self._envelope is not None or self._submitted is not None)

    # Lines.

    def _incomplete(self, line: bytes) -> bytes:
        if self._skipping:
            return b""
        if len(line) > self._service.limits.max_command_line:
            self._skipping = True
            return self._refuse(replies.LINE_TOO_LONG)
        self._held = line
        return b""

    def _line(self, line: bytes) -> bytes:
        """Run a command; `line` is without its LF."""
        limits = self._service.limits
        if self._skipping:
            self._skipping = False
            return b""
        if len(line) >= limits.max_command_line:
            return self._refuse(replies.LINE_TOO_LONG)
        if line[-1:] != b"\r":
            return self._refuse(replies.BARE_NEWLINE)
        verb, _, argument = line[:-1].partition(b" ")
        self._commands += 1
        if self._commands > limits.max_commands_without_mail:
            return self._hang_up(replies.TOO_MANY_COMMANDS)
        run = self._verbs.get(verb)
        if run is None:
            run = self._verbs.get(verb.upper())
            if run is None:
                return self._refuse(replies.UNKNOWN_COMMAND)
        return run(self, argument)

    def _refuse(self, refusal: Refusal | Refused) -> bytes:
        """Count, log and render a refusal; the one too many closes the session."""
        wire = self._record.refused(refusal, None if self._envelope is None else self._envelope.sender)
        self._errors += 1
        if self._errors >= self._service.limits.max_errors and self._event is None:
            return wire + self._hang_up(replies.TOO_MANY_ERRORS)
        return wire

    def _hang_up(self, refusal: Refusal) -> bytes:
        self._event = HANG_UP
        output = self._refuse(refusal)
        self.lost()
        return output

    # The mail transaction.

    def _enter(self, state: State) -> None:
        self._state = state
        self._verbs = _DISPATCH[state]

    def _end_transaction(self) -> None:
        self._discard()
        self._envelope = None
        if self._helo:
            self._enter(State.READY)

    def _discard(self) -> None:
        if self._intake is not None:
            self._intake.discard()
        self._intake = self._reader = self._chunks = None

    def _open_text(self) -> bytes:
        """Open the body; returns the trace lines that stand on top of the text."""
        envelope, service = self._envelope, self._service
        assert envelope is not None
        date = service.date.at(service.clock())
        trace = envelope.trace(self._received, date, extended=self._extended, tls=self.tls)
        self._intake = Intake(service.sink.open_body(), trace, service.limits)
        return trace

    def _text_end(self) -> bytes:
        """The end of data, or of a chunk."""
        self._reader = None
        intake, chunks = self._intake, self._chunks
        assert intake is not None
        if chunks is not None and intake.fault is None:
            if not self._last_chunk:
                return replies.CHUNK_OK
            try:
                intake.write(chunks.finish())
            except Smuggling:
                return self._hang_up(replies.SMUGGLING)
        body = intake.finish()
        if body is None:
            assert intake.fault is not None
            output = self._refuse(intake.fault)
            self._end_transaction()
            return output
        assert self._envelope is not None
        message = self._envelope.message(body, intake.fingerprint)
        self._end_transaction()
        self.waiting = True
        self._event = Submit(message)
        self._submitted = message
        self._submitted_length = body.length
        self._record.submitted(body.length)
        return b""

    # Commands; each is called only in the states of state.ALLOWED.

    def _cmd_ehlo(self, argument: bytes) -> bytes:
        return self._hello(argument, extended=True)

    def _cmd_helo(self, argument: bytes) -> bytes:
        return self._hello(argument, extended=False)

    def _hello(self, argument: bytes, *, extended: bool) -> bytes:
        helo = commands.parse_host(argument.strip())
        if helo is None:
            return self._refuse(replies.HELO_SYNTAX)
        service = self._service
        self._helo = helo
        self._extended = extended
        self._received = received_from(helo, self._client.literal, service.settings.hostname)
        self._end_transaction()  # RFC 5321 4.1.4: EHLO in a transaction is RSET
        if not extended:
            return service.helo
        return service.ehlo_tls if self.tls else service.ehlo

    def _cmd_mail(self, argument: bytes) -> bytes:
        if self.stopping:
            return self._hang_up(replies.STOPPING)  # RFC 5321 3.8: 421 to any command
        try:
            mail = commands.parse_mail(argument)
        except commands.BadArgument as error:
            return self._refuse(error.refusal)
        if not self._extended and (mail.size is not None or mail.utf8):
            return self._refuse(replies.UNKNOWN_PARAMETER)  # RFC 5321 4.1.1.11: parameters are for EHLO clients
        if not mail.utf8 and not mail.sender.isascii():
            return self._refuse(replies.WANTS_SMTPUTF8)
        if mail.size is not None and mail.size > self._service.limits.max_message_size:
            return self._refuse(replies.TOO_LARGE)
        refusal = self._service.refusal()
        if refusal is not None:
            return self._refuse(refusal)
        self._envelope = Envelope(mail)
        self._enter(State.SENDER)
        return replies.MAIL_OK

    def _cmd_rcpt(self, argument: bytes) -> bytes:
        try:
            recipient = commands.parse_rcpt(argument)
        except commands.BadArgument as error:
            return self._refuse(error.refusal)
        envelope = self._envelope
        assert envelope is not None
        if not envelope.utf8 and not recipient.isascii():
            return self._refuse(replies.WANTS_SMTPUTF8)
        if envelope.recipients >= self._service.limits.max_recipients:
            return self._refuse(replies.TOO_MANY_RECIPIENTS)
        try:
            account = self._service.directory.resolve(commands.mailbox_name(recipient))
        except DirectoryUnavailable:
            return self._refuse(replies.DIRECTORY_AWAY)
        if isinstance(account, NotFound):
            unknown_domain = account is NotFound.DOMAIN
            return self._refuse(replies.UNKNOWN_DOMAIN if unknown_domain else replies.UNKNOWN_RECIPIENT)
        if account.quota:
            full = self._service.quotas.refusal(account.address, account.quota, envelope.size)
            if full is not None:  # no fault of the sender's: it does not count towards max_errors
                return self._record.refused(full, envelope.sender)
        self._commands -= 1  # bounded by max_recipients instead
        envelope.add(account.address, recipient)
        self._enter(State.RECIPIENTS)
        return replies.RCPT_OK

    def _cmd_data(self, argument: bytes) -> bytes:
        if argument.strip():
            return self._refuse(replies.NO_ARGUMENT)
        refusal = self._service.refusal()
        if refusal is not None:
            return self._refuse(refusal)
        self._reader = DataReader(self._open_text())
        return replies.START_DATA

    def _cmd_bdat(self, argument: bytes) -> bytes:
        parsed = commands.parse_bdat(argument)
        if parsed is None:
            # Without a size nobody knows where the next command begins, so there is none.
            return self._hang_up(replies.BDAT_SYNTAX)
        size, self._last_chunk = parsed
        chunks = self._chunks
        if chunks is None:
            chunks = self._chunks = ChunkReader(self._open_chunks())
        chunks.expect(size)
        if size == 0:
            return self._text_end()
        self._reader = chunks
        self._commands -= 1  # bounded by max_message_size instead
        return b""

    def _open_chunks(self) -> bytes:
        """Begin a message by BDAT. RFC 3030 section 3: refused or not, the octets of the chunk are taken."""
        refusal = BDAT_REFUSED.get(self._state) or self._service.refusal()
        if refusal is None:
            trace = self._open_text()
            self._enter(State.CHUNKS)
            return trace
        self._intake = Intake(None, b"", self._service.limits)
        self._intake.fault = refusal
        return b""

    def _cmd_rset(self, argument: bytes) -> bytes:
        if argument.strip():
            return self._refuse(replies.NO_ARGUMENT)
        self._end_transaction()
        return replies.OK

    def _cmd_noop(self, argument: bytes) -> bytes:
        return replies.OK

    def _cmd_help(self, argument: bytes) -> bytes:
        return replies.HELP

    def _cmd_vrfy(self, argument: bytes) -> bytes:
        # RFC 5321 7.3: who exists here is told to nobody.
        return replies.CANNOT_VRFY if argument.strip() else self._refuse(replies.WANTS_ARGUMENT)

    def _cmd_expn(self, argument: bytes) -> bytes:
        return self._refuse(replies.NOT_IMPLEMENTED)

    def _cmd_quit(self, argument: bytes) -> bytes:
        self._event = QUIT
        self.lost()
        return replies.BYE

    def _cmd_starttls(self, argument: bytes) -> bytes:
        if self._service.settings.tls is None:
            return self._refuse(replies.NOT_IMPLEMENTED)
        if self.tls:
            return self._refuse(replies.TLS_ACTIVE)
        if argument.strip():
            return self._refuse(replies.NO_ARGUMENT)
        self._event = START_TLS
        return replies.START_TLS


_Command = Callable[[Session, bytes], bytes]

_COMMANDS: dict[bytes, _Command] = {
    b"EHLO": Session._cmd_ehlo,
    b"HELO": Session._cmd_helo,
    b"MAIL": Session._cmd_mail,
    b"RCPT": Session._cmd_rcpt,
    b"DATA": Session._cmd_data,
    b"BDAT": Session._cmd_bdat,
    b"RSET": Session._cmd_rset,
    b"NOOP": Session._cmd_noop,
    b"HELP": Session._cmd_help,
    b"VRFY": Session._cmd_vrfy,
    b"EXPN": Session._cmd_expn,
    b"QUIT": Session._cmd_quit,
    b"STARTTLS": Session._cmd_starttls,
}


def _refusing(refusal: Refusal) -> _Command:
    def refuse(session: Session, argument: bytes) -> bytes:
        return session._refuse(refusal)

    return refuse


_DISPATCH: tuple[dict[bytes, _Command], ...] = tuple(
    {verb: _COMMANDS[verb] for verb in ALLOWED[state]}
    | {verb: _refusing(refusal) for verb, refusal in REFUSED[state].items()}
    for state in State
)

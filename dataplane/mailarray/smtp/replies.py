"""Every reply text of the SMTP listener, with its enhanced status code (RFC 3463, RFC 2034).

All texts stand here so that they can be read side by side, stay bland (the detail goes to the log), and give
metrics a bounded set of reasons. The session chooses among them; nothing else writes reply text.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Refusal:
    """A 4xx or 5xx reply and the reason it is counted under."""

    code: int
    status: str
    text: str
    reason: str
    wire: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "wire", reply(self.code, self.status, self.text))


def reply(code: int, status: str, text: str) -> bytes:
    """One reply line; `status` may be empty (RFC 2034 section 4: greetings and 3xx carry none)."""
    return f"{code} {status} {text}\r\n".encode() if status else f"{code} {text}\r\n".encode()


def banner(hostname: str) -> bytes:
    """The greeting at connect (RFC 5321 3.1)."""
    return reply(220, "", f"{hostname} ESMTP Mailarray")


def helo(hostname: str) -> bytes:
    """The answer to HELO."""
    return reply(250, "", hostname)


def ehlo(hostname: str, *, max_message_size: int, starttls: bool) -> bytes:
    """The answer to EHLO: what this server can do."""
    lines = [
        hostname,
        f"SIZE {max_message_size}",  # RFC 1870
        "8BITMIME",  # RFC 6152
        "PIPELINING",  # RFC 2920
        "ENHANCEDSTATUSCODES",  # RFC 2034
        "SMTPUTF8",  # RFC 6531
        "CHUNKING",  # RFC 3030
    ]
    if starttls:
        lines.append("STARTTLS")  # RFC 3207
    return "".join(f"250{' ' if line is lines[-1] else '-'}{line}\r\n" for line in lines).encode()


def queued(message_id: str) -> bytes:
    """The promise: durable on every member of the replica set."""
    return reply(250, "2.0.0", f"Ok: queued as {message_id}")


MAIL_OK = reply(250, "2.1.0", "Ok")
RCPT_OK = reply(250, "2.1.5", "Ok")
OK = reply(250, "2.0.0", "Ok")
CHUNK_OK = reply(250, "2.0.0", "Ok: chunk received")
START_DATA = reply(354, "", "End data with <CR><LF>.<CR><LF>")
START_TLS = reply(220, "2.0.0", "Ready to start TLS")
BYE = reply(221, "2.0.0", "Bye")
CANNOT_VRFY = reply(252, "2.5.2", "Cannot VRFY user, but will accept message and attempt delivery")
HELP = reply(214, "2.0.0", "See RFC 5321: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY STARTTLS QUIT")

# Syntax and sequence.
UNKNOWN_COMMAND = Refusal(500, "5.5.2", "Command not recognized", "syntax")
LINE_TOO_LONG = Refusal(500, "5.5.2", "Command line too long", "syntax")
BARE_NEWLINE = Refusal(500, "5.5.2", "Command lines end with <CR><LF>", "syntax")
NOT_TEXT = Refusal(500, "5.5.2", "Command line is not UTF-8 text", "syntax")
NOT_IMPLEMENTED = Refusal(502, "5.5.1", "Command not implemented", "syntax")
HELO_SYNTAX = Refusal(501, "5.5.4", "Say your host name or address literal", "syntax")
MAIL_SYNTAX = Refusal(501, "5.5.4", "Syntax: MAIL FROM:<address>", "syntax")
RCPT_SYNTAX = Refusal(501, "5.5.4", "Syntax: RCPT TO:<address>", "syntax")
BDAT_SYNTAX = Refusal(501, "5.5.4", "Syntax: BDAT size [LAST]", "syntax")
NO_ARGUMENT = Refusal(501, "5.5.4", "This command takes no argument", "syntax")
WANTS_ARGUMENT = Refusal(501, "5.5.4", "This command wants an argument", "syntax")
BAD_SENDER = Refusal(501, "5.1.7", "Bad sender address syntax", "syntax")
BAD_RECIPIENT = Refusal(501, "5.1.3", "Bad recipient address syntax", "syntax")
BAD_PARAMETER = Refusal(501, "5.5.4", "Bad parameter value", "syntax")
UNKNOWN_PARAMETER = Refusal(555, "5.5.4", "Parameter not recognized or not implemented", "syntax")
WANTS_SMTPUTF8 = Refusal(553, "5.6.7", "Address needs SMTPUTF8", "syntax")
HELO_FIRST = Refusal(503, "5.5.1", "Send EHLO or HELO first", "sequence")
MAIL_FIRST = Refusal(503, "5.5.1", "Send MAIL first", "sequence")
RCPT_FIRST = Refusal(503, "5.5.1", "Send RCPT first", "sequence")
NESTED_MAIL = Refusal(503, "5.5.1", "Sender already given", "sequence")
IN_TRANSACTION = Refusal(503, "5.5.1", "Not during a mail transaction", "sequence")
IN_CHUNKS = Refusal(503, "5.5.1", "Message chunks are being sent, go on with BDAT or RSET", "sequence")
NO_RECIPIENTS = Refusal(554, "5.5.1", "No valid recipients", "sequence")
TLS_ACTIVE = Refusal(503, "5.5.1", "TLS is already active", "sequence")
TLS_PIPELINED = Refusal(501, "5.5.1", "Nothing may follow STARTTLS before the handshake", "smuggling")
TLS_UNAVAILABLE = Refusal(454, "4.7.0", "TLS is not available now", "tls")

# Recipients.
UNKNOWN_DOMAIN = Refusal(550, "5.1.2", "Domain is not served here", "unknown_domain")
UNKNOWN_RECIPIENT = Refusal(550, "5.1.1", "No such mailbox here", "unknown_recipient")
DIRECTORY_AWAY = Refusal(451, "4.3.0", "Mailboxes cannot be looked up now, try again later", "directory")
MAILBOX_FULL = Refusal(452, "4.2.2", "Mailbox is full, try again later", "quota")
LARGER_THAN_QUOTA = Refusal(552, "5.2.2", "Message is larger than the mailbox may be", "quota")
TOO_MANY_RECIPIENTS = Refusal(452, "4.5.3", "Too many recipients", "recipients")

# The message.
TOO_LARGE = Refusal(552, "5.3.4", "Message exceeds the size limit", "size")
LOOP = Refusal(554, "5.4.6", "Too many hops: mail loop", "loop")
SMUGGLING = Refusal(550, "5.5.2", "A line of one dot must begin and end with <CR><LF>", "smuggling")
NO_SPACE = Refusal(452, "4.3.1", "Insufficient storage", "storage")

# The session; each of these closes it.
BUSY = Refusal(421, "4.3.2", "Too many connections, try again later", "connections")
BUSY_STORING = Refusal(421, "4.3.2", "Too much mail is waiting to be stored, use another server", "pending")
ELSEWHERE = Refusal(421, "4.3.2", "Busy, use another server of this domain", "shed")
BUSY_ADDRESS = Refusal(421, "4.7.0", "Too many connections from your address", "connections")
TOO_MANY_ERRORS = Refusal(421, "4.7.0", "Too many errors", "errors")
TOO_MANY_COMMANDS = Refusal(421, "4.7.0", "Too many commands without mail", "errors")
IDLE = Refusal(421, "4.4.2", "Idle for too long", "idle")
STOPPING = Refusal(421, "4.3.2", "Service is shutting down", "stopping")

REASON_SINK = "sink"  # the journal's own refusal, whatever its text

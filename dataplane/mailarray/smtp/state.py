"""The states of an SMTP session and what each command finds in them: a table (RFC 5321 4.1.4, RFC 3030 section 3).

The session looks here before it runs a command; the commands themselves change the state. A command that is
not in a state's row is refused with the reply of that row; exceptions to the table carry a comment.
"""

from __future__ import annotations

from enum import IntEnum

from mailarray.smtp import replies
from mailarray.smtp.replies import Refusal


class State(IntEnum):
    """Where a session stands between two commands."""

    GREETED = 0  # banner sent, or TLS just begun: no HELO yet
    READY = 1  # no mail transaction
    SENDER = 2  # MAIL accepted
    RECIPIENTS = 3  # at least one RCPT accepted
    CHUNKS = 4  # between two BDAT chunks of one message


_ALWAYS = {b"HELO", b"EHLO", b"RSET", b"NOOP", b"QUIT", b"VRFY", b"EXPN", b"HELP"}

ALLOWED: dict[State, frozenset[bytes]] = {
    # BDAT is let through everywhere: the octets that follow it must be taken off the wire even when it is refused.
    # STARTTLS before EHLO is harmless: the state after it is the same.
    State.GREETED: frozenset(_ALWAYS | {b"STARTTLS", b"BDAT"}),
    State.READY: frozenset(_ALWAYS | {b"STARTTLS", b"MAIL", b"BDAT"}),
    State.SENDER: frozenset(_ALWAYS | {b"RCPT", b"BDAT"}),
    State.RECIPIENTS: frozenset(_ALWAYS | {b"RCPT", b"DATA", b"BDAT"}),
    State.CHUNKS: frozenset(_ALWAYS | {b"BDAT"}),
}

REFUSED: dict[State, dict[bytes, Refusal]] = {
    State.GREETED: {
        b"MAIL": replies.HELO_FIRST,
        b"RCPT": replies.HELO_FIRST,
        b"DATA": replies.HELO_FIRST,
    },
    State.READY: {
        b"RCPT": replies.MAIL_FIRST,
        b"DATA": replies.MAIL_FIRST,
    },
    State.SENDER: {
        b"MAIL": replies.NESTED_MAIL,
        b"DATA": replies.NO_RECIPIENTS,  # pipelined after RCPTs that were all refused: RFC 2920 section 3.1 wants 554
        b"STARTTLS": replies.IN_TRANSACTION,
    },
    State.RECIPIENTS: {
        b"MAIL": replies.NESTED_MAIL,
        b"STARTTLS": replies.IN_TRANSACTION,
    },
    State.CHUNKS: {
        b"MAIL": replies.IN_CHUNKS,
        b"RCPT": replies.IN_CHUNKS,
        b"DATA": replies.IN_CHUNKS,
        b"STARTTLS": replies.IN_TRANSACTION,
    },
}

BDAT_REFUSED: dict[State, Refusal] = {
    State.GREETED: replies.HELO_FIRST,
    State.READY: replies.MAIL_FIRST,
    State.SENDER: replies.NO_RECIPIENTS,
}

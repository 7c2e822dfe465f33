"""The envelope of one mail transaction, from MAIL to the end of data (RFC 5321 2.3.1).

Used by the session, which drops it whole when the transaction ends: RSET forgets nothing by halves.
"""

from __future__ import annotations

from mailarray.model.message import Body, Delivery, IncomingMessage
from mailarray.smtp.commands import Mail
from mailarray.smtp.trace import protocol_name, trace_lines


class Envelope:
    """Sender and recipients. Two recipients with the same mailbox are one delivery."""

    __slots__ = ("_deliveries", "recipients", "sender", "size", "utf8")

    def __init__(self, mail: Mail) -> None:
        self.sender = mail.sender
        self.utf8 = mail.utf8
        self.size = mail.size or 0  # bytes, as announced; 0 when it was not
        self.recipients = 0  # RCPT commands accepted
        self._deliveries: dict[str, Delivery] = {}

    def add(self, mailbox: str, recipient: str) -> None:
        """A RCPT command was accepted."""
        self.recipients += 1
        if mailbox not in self._deliveries:
            self._deliveries[mailbox] = Delivery(mailbox, recipient)

    def trace(self, received: str, date: str, *, extended: bool, tls: bool) -> bytes:
        """The lines on top of the text."""
        only = next(iter(self._deliveries.values())).recipient if self.recipients == 1 else None
        protocol = protocol_name(extended=extended, tls=tls, utf8=self.utf8)
        return trace_lines(self.sender, received, protocol, only, date)

    def message(self, body: Body, fingerprint: bytes) -> IncomingMessage:
        """The message, complete."""
        return IncomingMessage(self.sender, tuple(self._deliveries.values()), body, fingerprint)

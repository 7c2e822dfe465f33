"""A message on its way in: from the SMTP session's end of data to the journal's acknowledgement.

Two-phase: a session hands over a finished message with a `done` callback and hears exactly one `Outcome`.
Callbacks instead of futures, since a task switch for each message costs more than writing it down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from mailarray.model.ids import MessageId


class Delivery(NamedTuple):
    """One local mailbox that gets the message."""

    mailbox: str  # canonical address of the mailbox, lower case
    recipient: str  # forward-path as the sender wrote it


class Body(Protocol):
    """A finished message text (trace header included), CRLF line ends, no dot-stuffing.

    Small ones are in memory; large ones lie in an unlinked file on the server's volume.
    """

    @property
    def length(self) -> int:
        """Bytes."""
        ...

    @property
    def checksum(self) -> int:
        """CRC-32C over all bytes."""
        ...

    @property
    def in_memory(self) -> int:
        """Bytes of memory that it holds."""
        ...

    def chunks(self) -> Iterator[bytes]:
        """The bytes in order, in pieces of at most a few hundred KiB; may be called more than once."""
        ...

    def release(self) -> None:
        """Give back memory and file; called by whoever ends the message's way, once."""
        ...


class BodyWriter(Protocol):
    """Gathers a body while it arrives; memory is flat in its size."""

    def write(self, chunk: bytes) -> None:
        """Append a chunk. Raises OSError when it has to be spooled and the volume refuses."""
        ...

    @property
    def length(self) -> int:
        """Bytes so far."""
        ...

    def finish(self) -> Body:
        """End of data; the writer must not be used afterwards."""
        ...

    def discard(self) -> None:
        """The transaction ended without a message."""
        ...


class Identity(NamedTuple):
    """Who a message is, wherever it is kept: given by the server that received it (rule 16)."""

    id: MessageId
    received_at: int  # microseconds since 1970, UTC


@dataclass(slots=True)
class IncomingMessage:
    """One accepted transaction: one record for all its local mailboxes."""

    sender: str  # reverse-path without brackets; empty for bounces
    deliveries: tuple[Delivery, ...]
    body: Body
    fingerprint: bytes = b""  # of the text, to know a repeated delivery by; empty without a Message-ID
    identity: Identity | None = None  # None until its batch is gathered; earlier when several servers may write it


@dataclass(frozen=True, slots=True)
class Committed:
    """The message is durable on every member of its segment's replica set: say 250."""

    id: MessageId


@dataclass(frozen=True, slots=True)
class Refused:
    """The message could not be made durable: nothing is promised, the sender keeps it and tries again (4xx)."""

    code: int  # SMTP reply code
    status: str  # enhanced status code, RFC 3463
    text: str  # bland public text; the detail goes to the log


Outcome = Committed | Refused


class MessageSink(Protocol):
    """What the SMTP listener needs of the journal."""

    def refusal(self) -> Refused | None:
        """Why no message can be taken now (disk nearly full, no mirror, too much pending), or None. Cheap."""
        ...

    def open_body(self) -> BodyWriter:
        """A writer for one message's text."""
        ...

    def submit(self, message: IncomingMessage, done: Callable[[Outcome], None]) -> None:
        """Hand a message over; `done` is called exactly once, from the event loop, never from within submit."""
        ...

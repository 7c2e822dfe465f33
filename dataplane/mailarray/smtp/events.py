"""What a session asks of its connection, besides sending replies; at most one at a time."""

from __future__ import annotations

from dataclasses import dataclass

from mailarray.model.message import IncomingMessage


@dataclass(frozen=True, slots=True)
class Submit:
    """Hand the message to the sink, and its outcome to `Session.outcome`."""

    message: IncomingMessage


@dataclass(frozen=True, slots=True)
class StartTls:
    """Send the reply, do the handshake, call `Session.tls_started`."""


@dataclass(frozen=True, slots=True)
class Close:
    """Send the reply and close. `linger`: the client may still be sending, and should get to read the reply."""

    linger: bool


Event = Submit | StartTls | Close

QUIT = Close(linger=False)
HANG_UP = Close(linger=True)
START_TLS = StartTls()

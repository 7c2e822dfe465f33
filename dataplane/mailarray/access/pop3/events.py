"""What the POP3 machine asks of whoever drives it. After each of these it waits for the matching answer."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Login:
    """Check these credentials; answer with `logged_in` or `login_refused`."""

    login: str
    password: str = field(repr=False)  # so that no log line ever shows it


@dataclass(frozen=True, slots=True)
class StartTls:
    """Send what is due, call `tls_begins`, do the handshake, call `tls_started` (RFC 2595 section 4)."""


@dataclass(frozen=True, slots=True)
class Retrieve:
    """Send message `index` (from 0); `lines` of its text for TOP, None for all of it.

    Answer with `message_starts`, `message_chunk`..., `message_ends`, or with `message_refused`.
    """

    index: int
    lines: int | None


@dataclass(frozen=True, slots=True)
class Update:
    """QUIT: remove these messages (indexes from 0, ascending), give the mailbox back, then call `updated`."""

    deleted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Flush:
    """Much output is due: let the client take it before asking for the next event."""


@dataclass(frozen=True, slots=True)
class Close:
    """Send what is due and close the connection."""


Event = Login | StartTls | Retrieve | Update | Flush | Close

"""What listeners and access servers ask of a mailbox database.

`resolve` is called for every RCPT on the event loop, so it answers from memory. `verify` may cost 100 ms of
CPU on purpose, so it is awaited and runs elsewhere.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol


class NotFound(enum.Enum):
    """Why a recipient is refused."""

    DOMAIN = "domain"  # 550 5.1.2
    RECIPIENT = "recipient"  # 550 5.1.1


@dataclass(frozen=True, slots=True)
class Account:
    """A mailbox that can be delivered to."""

    address: str  # canonical, lower case
    quota: int | None = None  # bytes, None for no limit


class DirectoryUnavailable(Exception):
    """Nothing is known of the accounts yet: mail is put off (451 4.3.0) and logins too, nobody is told "unknown"."""


class Directory(Protocol):
    """A mailbox database."""

    def resolve(self, recipient: str) -> Account | NotFound:
        """The account that mail for a forward-path goes to. Raises DirectoryUnavailable.

        Case-insensitive; `user+tag@domain` goes to `user@domain`; aliases are followed; `postmaster` and
        `postmaster@domain` always work for the cluster's domains (RFC 5321 4.5.1).
        """
        ...

    async def verify(self, login: str, password: str) -> Account | None:
        """The account that login and password open, or None. A wrong password costs as much time as a right one.

        Raises DirectoryUnavailable.
        """
        ...

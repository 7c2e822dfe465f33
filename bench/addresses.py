"""The 1,000 mailboxes that every peer has, and the addresses that reach them.

`smtp-source -N` writes the number of the message before the recipient: message 17 goes to `17u@mail.example`.
So mailbox k (1 to 1,000) has the address `ku@mail.example`, and the numbers beyond come back round to it as
aliases: 1,017 and 2,017 are mailbox 17. One load command thus spreads over all mailboxes, for every peer.
"""

from __future__ import annotations

from collections.abc import Iterator

DOMAIN = "mail.example"
SENDER = "sender@client.example"
CLIENT_NAME = "client.example"
MAILBOXES = 1_000
MAX_MESSAGES = 40_000  # of one smtp-source run: each mailbox then has 39 aliases
RECIPIENT = f"u@{DOMAIN}"  # what `smtp-source -N` writes its number before


def address(number: int) -> str:
    """The recipient of message `number` of a run, counted from 1."""
    return f"{number}{RECIPIENT}"


def mailbox(number: int) -> str:
    """The address of the mailbox that message `number` ends in."""
    return address((number - 1) % MAILBOXES + 1)


def mailboxes() -> Iterator[str]:
    """All mailboxes."""
    return (address(k) for k in range(1, MAILBOXES + 1))


def aliases() -> Iterator[tuple[str, str]]:
    """All (alias, mailbox)."""
    return ((address(n), mailbox(n)) for n in range(MAILBOXES + 1, MAX_MESSAGES + 1))


def accounts_file(password_hash: str) -> str:
    """Mailarray's flat file: address:hash:aliases:quota, one line a mailbox."""
    lines = []
    for k in range(1, MAILBOXES + 1):
        more = ",".join(address(n) for n in range(k + MAILBOXES, MAX_MESSAGES + 1, MAILBOXES))
        lines.append(f"{address(k)}:{password_hash}:{more}:\n")
    return "".join(lines)

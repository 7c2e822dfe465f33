"""Whose mailbox an address is, and whose password opens it: the rules that all mailbox databases share.

Where the accounts are kept (`flatfile.py`, `snapshot.py`) is none of its business; it asks for one canonical address at
a time. Called on the event loop for every RCPT, so answers are remembered by the spelling that was asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mailarray.contract.settings import DomainSettings
from mailarray.directory import metrics
from mailarray.directory.accounts_file import AccountLine
from mailarray.directory.addresses import TAG_SEPARATOR, canonical_domain, split
from mailarray.directory.directory import Account, NotFound
from mailarray.directory.passwords import PasswordChecker

MAX_REMEMBERED_RECIPIENTS = 65536  # spellings of recipients that were found; forgotten all at once when it is full
POSTMASTER = "postmaster"


class Accounts(Protocol):
    """Where accounts are looked up. Both may raise DirectoryUnavailable."""

    def find(self, address: str) -> AccountLine | None:
        """The account of a canonical address or alias; of its fields only address, hash and quota are used."""
        ...

    def first(self) -> AccountLine | None:
        """The account that gets postmaster's mail when nothing else says who does."""
        ...

    def borrowed_hash(self) -> str:
        """Any password hash, or an empty text: checking it costs what checking a real one does."""
        ...


class Resolver:
    """`Directory`, over accounts that are kept somewhere."""

    def __init__(self, domains: Sequence[DomainSettings], accounts: Accounts, checker: PasswordChecker) -> None:
        self.postmasters = {canonical_domain(d.name): d.postmaster for d in domains}
        self.found: dict[str, Account] = {}
        self._accounts = accounts
        self._checker = checker

    def resolve(self, recipient: str) -> Account | NotFound:
        """The account that mail for a forward-path goes to; a dictionary hit for a spelling seen before."""
        account = self.found.get(recipient)
        if account is not None:
            return account
        found = self._look_up(recipient)
        if isinstance(found, Account):
            if len(self.found) >= MAX_REMEMBERED_RECIPIENTS:
                self.found.clear()
            self.found[recipient] = found
        return found

    async def verify(self, login: str, password: str) -> Account | None:
        """The account that login and password open, or None."""
        local, domain = split(login)
        line = self._accounts.find(f"{local}@{domain}")
        if line is None:
            await self._checker.refuse(self._accounts.borrowed_hash())
            metrics.LOGINS.labels("unknown").inc()
            return None
        if not await self._checker.verify(line.address, line.password_hash, password):
            metrics.LOGINS.labels("wrong").inc()
            return None
        now = self._accounts.find(line.address)  # it may have gone while its password was checked
        metrics.LOGINS.labels("right").inc()
        return None if now is None else Account(now.address, now.quota)

    def forget(self) -> None:
        """The accounts have changed."""
        self.found.clear()

    def _look_up(self, recipient: str) -> Account | NotFound:
        local, domain = split(recipient)
        if not domain and local == POSTMASTER:  # RFC 5321 4.1.1.3: <postmaster> without a domain
            domain = next(iter(self.postmasters), "")
        if domain not in self.postmasters:
            return NotFound.DOMAIN
        line = self._accounts.find(f"{local}@{domain}")
        if line is None and TAG_SEPARATOR in local:
            local = local.partition(TAG_SEPARATOR)[0]
            line = self._accounts.find(f"{local}@{domain}")
        if local == POSTMASTER:
            line = self._postmaster(domain)
        return NotFound.RECIPIENT if line is None else Account(line.address, line.quota)

    def _postmaster(self, domain: str) -> AccountLine | None:
        """RFC 5321 4.5.1: mail for postmaster is always taken; the first of these that there is gets it."""
        named = self.postmasters[domain]
        choices = [] if named is None else [named]
        choices += [f"{POSTMASTER}@{d}" for d in (domain, *self.postmasters)]
        for choice in choices:
            local, choice_domain = split(choice)
            line = self._accounts.find(f"{local}@{choice_domain}")
            if line is not None:
                return line
        return self._accounts.first()

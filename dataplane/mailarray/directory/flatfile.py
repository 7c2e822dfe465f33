"""A mailbox database in one flat file: for one machine, and for a few thousand accounts in a Secret.

The file is read again within a second of a change. A file with a bad line is refused as a whole, aloud, and the
accounts from before stay: mail for them is never bounced for a typing error. Called by SMTP listeners (`resolve`,
on the event loop for every RCPT) and access servers (`verify`). The file's format is in `accounts_file.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mailarray.contract.settings import DirectorySettings
from mailarray.directory import metrics
from mailarray.directory.accounts_file import AccountLine, AccountsError, AccountTable, parse
from mailarray.directory.addresses import TAG_SEPARATOR, canonical_domain, split
from mailarray.directory.directory import Account, NotFound
from mailarray.directory.passwords import PasswordChecker

POLL_SECONDS = 1.0  # one stat a second costs nothing, and works where inotify does not (a mounted Secret)
MAX_REMEMBERED_RECIPIENTS = 65536  # spellings of recipients that were found; forgotten all at once when it is full
MAX_FILE_SIZE = 64 << 20  # bytes; some 400,000 accounts, far beyond what a flat file is for
POSTMASTER = "postmaster"

log = logging.getLogger(__name__)

_Stamp = tuple[int, int, int]  # mtime_ns, size, inode


class DirectoryError(Exception):
    """The mailbox database cannot be used; the text is one sentence for a person."""


class FlatFileDirectory:
    """The `Directory` of a flat file."""

    def __init__(
        self,
        settings: DirectorySettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        checker: PasswordChecker | None = None,
    ) -> None:
        if settings.accounts_file is None:
            raise ValueError("the settings name no accounts_file")
        self._path = Path(settings.accounts_file)
        self._postmasters = {canonical_domain(d.name): d.postmaster for d in settings.domains}
        self._checker = checker or PasswordChecker(clock=clock)
        self._table = AccountTable()
        self._found: dict[str, Account] = {}
        self._accounts: dict[str, Account] = {}
        self._stamp: _Stamp | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.problem: str | None = None  # why the file as it is now is not used; None when it is

    async def start(self) -> None:
        """Read the file and watch it. Raises DirectoryError with one sentence when it cannot be used."""
        try:
            self._stamp, table = await asyncio.to_thread(self._read)
        except (OSError, AccountsError) as error:
            raise DirectoryError(self._sentence(error)) from error
        self._use(table)
        self._watcher = asyncio.create_task(self._watch(), name="accounts file")

    async def stop(self) -> None:
        """End the watch."""
        if self._watcher is not None:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None
        self._checker.close()

    # -- Directory -------------------------------------------------------------------------------------
    def resolve(self, recipient: str) -> Account | NotFound:
        """The account that mail for a forward-path goes to; a dictionary hit for a spelling seen before."""
        account = self._found.get(recipient)
        if account is not None:
            return account
        found = self._look_up(recipient)
        if isinstance(found, Account):
            if len(self._found) >= MAX_REMEMBERED_RECIPIENTS:
                self._found.clear()
            self._found[recipient] = found
        return found

    async def verify(self, login: str, password: str) -> Account | None:
        """The account that login and password open, or None."""
        local, domain = split(login)
        line = self._table.find(f"{local}@{domain}")
        if line is None:
            await self._checker.refuse(self._borrowed_hash())
            metrics.LOGINS.labels("unknown").inc()
            return None
        if not await self._checker.verify(line.address, line.password_hash, password):
            metrics.LOGINS.labels("wrong").inc()
            return None
        metrics.LOGINS.labels("right").inc()
        return self._accounts.get(line.address)  # None when the account went while its password was checked

    # -- lookups ---------------------------------------------------------------------------------------
    def _look_up(self, recipient: str) -> Account | NotFound:
        local, domain = split(recipient)
        if not domain and local == POSTMASTER:  # RFC 5321 4.1.1.3: <postmaster> without a domain
            domain = next(iter(self._postmasters), "")
        if domain not in self._postmasters:
            return NotFound.DOMAIN
        line = self._table.find(f"{local}@{domain}")
        if line is None and TAG_SEPARATOR in local:
            local = local.partition(TAG_SEPARATOR)[0]
            line = self._table.find(f"{local}@{domain}")
        if local == POSTMASTER:
            line = self._postmaster(domain)
        return NotFound.RECIPIENT if line is None else self._accounts[line.address]

    def _postmaster(self, domain: str) -> AccountLine | None:
        """RFC 5321 4.5.1: mail for postmaster is always taken; the first of these that there is gets it."""
        named = self._postmasters[domain]
        choices = [] if named is None else [named]
        choices += [f"{POSTMASTER}@{d}" for d in (domain, *self._postmasters)]
        for choice in choices:
            local, choice_domain = split(choice)
            line = self._table.find(f"{local}@{choice_domain}")
            if line is not None:
                return line
        return next(iter(self._table.accounts.values()), None)

    def _borrowed_hash(self) -> str:
        return next((a.password_hash for a in self._table.accounts.values() if a.password_hash), "")

    # -- the file --------------------------------------------------------------------------------------
    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self.reload_if_changed()

    async def reload_if_changed(self) -> bool:
        """Look at the file once; True when new accounts were taken over. Never raises: the old ones stay."""
        try:
            if _stamp(self._path.stat()) == self._stamp:
                return False
            self._stamp, table = await asyncio.to_thread(self._read)
        except (OSError, AccountsError) as error:
            self._keep_old(self._sentence(error))
            return False
        self._use(table)
        metrics.RELOADS.labels("done").inc()
        log.info("accounts read again", extra={"file": str(self._path), "accounts": len(table.accounts)})
        return True

    def _keep_old(self, problem: str) -> None:
        if problem == self.problem:
            return  # said once
        self.problem = problem
        metrics.RELOADS.labels("refused").inc()
        log.error("accounts file refused, the old accounts stay", extra={"problem": problem})

    def _use(self, table: AccountTable) -> None:
        self._table = table
        self._accounts = {a.address: Account(a.address, a.quota) for a in table.accounts.values()}
        self._found.clear()
        self.problem = None
        self._checker.forget_changed(self._current_hash)
        metrics.ACCOUNTS.set(len(table.accounts))
        for domain, mailbox in self._postmasters.items():
            local, mailbox_domain = split(mailbox or "")
            if mailbox and table.find(f"{local}@{mailbox_domain}") is None:
                log.warning("postmaster mailbox is not an account", extra={"domain": domain, "mailbox": mailbox})

    def _current_hash(self, address: str) -> str | None:
        line = self._table.accounts.get(address)
        return None if line is None else line.password_hash

    def _read(self) -> tuple[_Stamp, AccountTable]:
        with self._path.open("rb") as file:
            stamp = _stamp(os.fstat(file.fileno()))  # before reading: a change meanwhile is seen at the next look
            self._stamp = stamp  # a bad file is read once, not every second
            raw = file.read(MAX_FILE_SIZE + 1)
        if len(raw) > MAX_FILE_SIZE:
            raise AccountsError(
                f"{self._path.name} is larger than {MAX_FILE_SIZE >> 20}Mi; a flat file is not for so many"
            )
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise AccountsError(f"{self._path.name}:{line}: the line is not UTF-8; save the file as UTF-8") from None
        return stamp, parse(text, self._postmasters, self._path.name)

    def _sentence(self, error: Exception) -> str:
        if isinstance(error, FileNotFoundError):
            return f"{self._path} is not there; make it with `mailarray account add`"
        if isinstance(error, OSError):
            return f"{self._path} cannot be read: {error.strerror}"
        return str(error)


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_mtime_ns, status.st_size, status.st_ino

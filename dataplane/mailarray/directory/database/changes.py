"""Every change of an account, as functions on a connection; the store runs each in a transaction of its own.

Invariant (schema.py): a change first locks the row of `state`; changes therefore happen one after another, and what one
of them reads of other accounts stays true until its end. One that changes nothing takes no revision.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection, Select, bindparam, insert, select, update

from mailarray.directory.accounts_file import AccountLine, AccountsError
from mailarray.directory.database.schema import account, alias, revisions, state

MAX_PARAMETERS = 10_000  # of one statement; PostgreSQL and SQLite take some 32,000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """An account as an import wants it to be."""

    line: AccountLine
    enabled: bool | None = None  # None: as it is


@dataclass(slots=True)
class Counts:
    """What became of the accounts of an import."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)  # index in the batch, sentence


class Transaction:
    """One change under way: holds the lock, and gives its revision to whatever it writes."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        before = connection.execute(select(state.c.revision).where(state.c.id == 1).with_for_update()).scalar_one()
        self.revision = int(before) + 1
        self.now = int(time.time())
        self._wrote = False

    def write(self, statement: Any, rows: Sequence[dict[str, Any]] | None = None) -> None:
        """Run a statement that changes rows of this revision."""
        if rows is None:
            self.connection.execute(statement)
        elif rows:
            self.connection.execute(statement, rows)
        else:
            return
        self._wrote = True

    def finish(self) -> None:
        """The last step: the revision is taken."""
        if self._wrote:
            row = {"revision": self.revision, "stamp": secrets.randbits(63)}
            self.connection.execute(insert(revisions), [row])
            self.connection.execute(update(state).where(state.c.id == 1).values(**row))


def changing(operation: Callable[[Transaction], T]) -> Callable[[Connection], T]:
    """An operation with the lock taken before and the revision after."""

    def run(connection: Connection) -> T:
        transaction = Transaction(connection)
        result = operation(transaction)
        transaction.finish()
        return result

    return run


def add(transaction: Transaction, line: AccountLine) -> None:
    """A new account with its aliases. Raises AccountsError when one of the addresses is taken."""
    there = check_new(transaction.connection, line)
    there.put(line, enabled=True, now=transaction.now)
    there.write(transaction)


def check_new(connection: Connection, line: AccountLine) -> _Existing:
    """What there is beside a new account. Raises AccountsError when one of its addresses is taken."""
    there = _Existing(connection, [line])
    if line.address in there.accounts:
        raise AccountsError(
            f"{line.address} is an account already; use `mailarray account passwd` for another password"
        )
    there.check_free(line)
    return there


def set_password(transaction: Transaction, address: str, password_hash: str) -> None:
    """Give an account another hash. Raises AccountsError when it is not there."""
    require(transaction.connection, address)
    _update(transaction, address, password_hash=password_hash)


def set_enabled(transaction: Transaction, address: str, enabled: bool) -> None:
    """Let people log in, or not. Raises AccountsError when the account is not there."""
    if require(transaction.connection, address) is not enabled:
        _update(transaction, address, enabled=enabled)


def remove(transaction: Transaction, address: str) -> None:
    """Take an account and its aliases away. Raises AccountsError when it is not there."""
    require(transaction.connection, address)
    _update(transaction, address, removed=True, password_hash="", quota=None, enabled=True)
    gone = update(alias).where(alias.c.account == address, alias.c.removed.is_(False))
    transaction.write(gone.values(removed=True, revision=transaction.revision))


def add_alias(transaction: Transaction, address: str, target: str) -> None:
    """Another address for an account. Raises AccountsError when that is taken, or the account is not there."""
    require(transaction.connection, target)
    there = _Existing(transaction.connection, [AccountLine(target, "", (address,))])
    if there.aliases.get(address) != target:
        there.check_free(AccountLine(target, "", (address,)))
        there.set_alias(address, target)
        there.write(transaction)


def remove_alias(transaction: Transaction, address: str) -> None:
    """Take an alias away. Raises AccountsError when it is not there."""
    found = select(alias.c.account).where(alias.c.address == address, alias.c.removed.is_(False))
    if transaction.connection.scalar(found) is None:
        raise AccountsError(f"there is no alias {address}; `mailarray account list` shows all")
    gone = update(alias).where(alias.c.address == address)
    transaction.write(gone.values(removed=True, revision=transaction.revision))


def put(transaction: Transaction, batch: Iterable[Wanted]) -> Counts:
    """Make accounts be as wanted, one after the other."""
    wanted = list(batch)
    there = _Existing(transaction.connection, [one.line for one in wanted])
    counts = Counts()
    for index, one in enumerate(wanted):
        line, before = one.line, there.line(one.line.address)
        try:
            there.check_free(line)
        except AccountsError as error:
            counts.refused.append((index, str(error)))
            continue
        if before is None:
            there.put(line, enabled=one.enabled is not False, now=transaction.now)
            counts.added += 1
            continue
        old, enabled = before
        same = AccountLine(line.address, line.password_hash, tuple(sorted(line.aliases)), line.quota) == old
        if same and one.enabled in (None, enabled):
            counts.unchanged += 1
        else:
            there.put(line, enabled=enabled if one.enabled is None else one.enabled, now=transaction.now)
            counts.changed += 1
    there.write(transaction)
    return counts


def require(connection: Connection, address: str) -> bool:
    """Whether an account is enabled. Raises AccountsError when it is not there."""
    where = (account.c.address == address, account.c.removed.is_(False))
    enabled = connection.scalar(select(account.c.enabled).where(*where))
    if enabled is None:
        target = connection.scalar(
            select(alias.c.account).where(alias.c.address == address, alias.c.removed.is_(False))
        )
        hint = f"it is an alias of {target}" if target else "`mailarray account list` shows all"
        raise AccountsError(f"there is no account {address}; {hint}")
    return bool(enabled)


def _update(transaction: Transaction, address: str, **values: Any) -> None:
    changed = update(account).where(account.c.address == address)
    transaction.write(changed.values(changed=transaction.now, revision=transaction.revision, **values))


class _Existing:
    """What the database says of some addresses, and what is about to be written over it."""

    def __init__(self, connection: Connection, lines: Sequence[AccountLine]) -> None:
        self._connection = connection
        names = sorted({name for line in lines for name in (line.address, *line.aliases)})
        self.accounts: dict[str, tuple[AccountLine, bool, int]] = {}  # with enabled and created
        self.aliases: dict[str, str] = {}
        self._known: set[str] = set()  # rows that are there, also those of what was removed
        self._known_aliases: set[str] = set()
        self._put: dict[str, tuple[AccountLine, bool, int]] = {}
        self._set: dict[str, str | None] = {}
        for row in self._select(select(account), account.c.address, names):
            self._known.add(row.address)
            if not row.removed:
                line = AccountLine(row.address, row.password_hash, (), row.quota)
                self.accounts[row.address] = (line, bool(row.enabled), row.created)
        self._of: dict[str, set[str]] = {}
        rows = self._select(select(alias), alias.c.address, names)
        rows += self._select(select(alias), alias.c.account, sorted({line.address for line in lines}))
        for row in rows:
            self._known_aliases.add(row.address)
            if not row.removed:
                self.aliases[row.address] = row.account
                self._of.setdefault(row.account, set()).add(row.address)

    def _select(self, query: Select[Any], column: Any, values: list[str]) -> list[Any]:
        parts = [values[i : i + MAX_PARAMETERS] for i in range(0, len(values), MAX_PARAMETERS)]
        return [row for part in parts for row in self._connection.execute(query.where(column.in_(part)))]

    def line(self, address: str) -> tuple[AccountLine, bool] | None:
        """An account with its aliases, sorted, and whether it is enabled."""
        if address not in self.accounts:
            return None
        line, enabled, _ = self.accounts[address]
        names = tuple(sorted(self._of.get(address, ())))
        return AccountLine(address, line.password_hash, names, line.quota), enabled

    def check_free(self, line: AccountLine) -> None:
        """Raises AccountsError when an address of the line is somebody else's, or stands in it twice."""
        if line.address in self.aliases:
            raise AccountsError(
                f"{line.address} is an alias of {self.aliases[line.address]} already; remove that first"
            )
        if len({line.address, *line.aliases}) <= len(line.aliases):
            raise AccountsError(f"{line.address} has an alias twice, or itself as an alias; leave it out")
        for name in line.aliases:
            if name in self.accounts:
                raise AccountsError(f"alias {name} is an account already; remove that first")
            if self.aliases.get(name, line.address) != line.address:
                raise AccountsError(f"{name} is an alias of {self.aliases[name]} already; remove that first")

    def put(self, line: AccountLine, *, enabled: bool, now: int) -> None:
        """The account is to be like this, and its aliases are to be these."""
        created = self.accounts[line.address][2] if line.address in self.accounts else now
        self.accounts[line.address] = self._put[line.address] = (line, enabled, created)
        for name in self._of.get(line.address, set()) - set(line.aliases):
            self._set[name] = None
            del self.aliases[name]
        self._of[line.address] = set()
        for name in line.aliases:
            if self.aliases.get(name) != line.address:
                self.set_alias(name, line.address)
            self._of[line.address].add(name)

    def set_alias(self, name: str, target: str) -> None:
        """The alias is to be there."""
        self.aliases[name] = target
        self._set[name] = target

    def write(self, transaction: Transaction) -> None:
        """Do it."""
        rows = [
            {
                "address": line.address,
                "password_hash": line.password_hash,
                "quota": line.quota,
                "enabled": enabled,
                "created": created,
                "changed": transaction.now,
                "removed": False,
                "revision": transaction.revision,
            }
            for line, enabled, created in self._put.values()
        ]
        _upsert(transaction, account, rows, self._known)
        names = [
            {"address": name, "account": target or "", "removed": target is None, "revision": transaction.revision}
            for name, target in self._set.items()
        ]
        _upsert(transaction, alias, names, self._known_aliases)


def _upsert(transaction: Transaction, table: Any, rows: list[dict[str, Any]], known: set[str]) -> None:
    transaction.write(insert(table), [row for row in rows if row["address"] not in known])
    old = [{**row, "key": row["address"]} for row in rows if row["address"] in known]
    values: dict[str, Any] = {name: bindparam(name) for name in (rows[0] if rows else ()) if name != "address"}
    if old:
        for row in old:
            del row["address"]
        transaction.write(update(table).where(table.c.address == bindparam("key")).values(values), old)

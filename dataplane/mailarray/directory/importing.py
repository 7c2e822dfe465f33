"""Reading many accounts: the accounts file's own format, or CSV with a header. Text in, accounts out; no I/O.

    address,password,password_hash,quota,aliases,enabled
    ann@mail.example,,$argon2id$v=19$...,1Gi,info@mail.example sales@mail.example,yes

- CSV needs the column `address`; the others may be left out, in any order. Aliases are separated by spaces. A password
  may be given plain, but then it is hashed here, and that costs 50 to 100 ms of CPU each, on purpose.
- Which of the two formats it is, the first line tells that is neither empty nor a comment.

A bad line becomes a `BadLine` with its number, and the others are read on: who imports a hundred thousand accounts
wants to hear of all mistakes at once. Called by `mailarray account import`, which writes batches of BATCH accounts.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice

from mailarray.directory.accounts_file import AccountLine, AccountsError, parse_line
from mailarray.directory.passwords import check_new_password

BATCH = 1000  # accounts written in one transaction: some 100 ms, in which nobody else can change an account
COLUMNS = ("address", "password", "password_hash", "quota", "aliases", "enabled")
_YES, _NO = frozenset({"yes", "true", "1"}), frozenset({"no", "false", "0"})


@dataclass(frozen=True, slots=True)
class GoodLine:
    """One account of the file."""

    number: int  # of the line in the file
    line: AccountLine
    password: str | None = None  # plain; then `line` has no hash yet
    enabled: bool | None = None  # None: not said


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is left out."""

    number: int
    text: str  # one sentence


def read_lines(lines: Iterable[str], domains: Collection[str] | None) -> Iterator[GoodLine | BadLine]:
    """Read a file as it comes; `domains` are the cluster's in canonical form, None when they are not known.

    Raises AccountsError when the header of a CSV file names a column that there is none of.
    """
    numbered = ((number, line.strip()) for number, line in enumerate(lines, 1))
    meant = ((number, line) for number, line in numbered if line and not line.startswith("#"))
    first = next(meant, None)
    if first is None:
        return
    header = [name.strip().lower() for name in first[1].removeprefix("\ufeff").split(",")]
    if "address" in header:
        yield from _read_csv(meant, header, domains)
        return
    for number, line in chain([first], meant):
        yield _parsed(number, line, lambda text: (parse_line(text, domains), None, None))


def hashed(
    batch: Sequence[GoodLine],
    stored: Mapping[str, str],
    threads: ThreadPoolExecutor,
    hash_password: Callable[[str], str],
    matches: Callable[[str, str], bool],
) -> list[GoodLine]:
    """The batch with a hash for each plain password: the stored one where it fits, so that nothing changes then."""

    def one(account: GoodLine) -> GoodLine:
        if account.password is None:
            return account
        old = stored.get(account.line.address, "")
        new = old if old and matches(old, account.password) else hash_password(account.password)
        return replace(account, line=replace(account.line, password_hash=new), password=None)

    return list(threads.map(one, batch))


def batches(accounts: Iterable[GoodLine | BadLine]) -> Iterator[list[GoodLine | BadLine]]:
    """Lists of BATCH."""
    iterator = iter(accounts)
    while batch := list(islice(iterator, BATCH)):
        yield batch


_Parsed = tuple[AccountLine, str | None, bool | None]


def _parsed(number: int, text: str, parse: Callable[[str], _Parsed]) -> GoodLine | BadLine:
    try:
        return GoodLine(number, *parse(text))
    except AccountsError as error:
        return BadLine(number, str(error))


def _read_csv(
    lines: Iterable[tuple[int, str]], header: list[str], domains: Collection[str] | None
) -> Iterator[GoodLine | BadLine]:
    unknown = next((name for name in header if name not in COLUMNS), None)
    if unknown is not None:
        raise AccountsError(f"the header has a column {unknown!r}; the columns are {', '.join(COLUMNS)}")
    for number, line in lines:  # one record a line: nothing in an account can hold a line's end
        yield _parsed(number, line, lambda text: _csv_record(text, header, domains))


def _csv_record(line: str, header: list[str], domains: Collection[str] | None) -> _Parsed:
    try:
        fields = next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise AccountsError(f"the line is not CSV: {error}") from None
    if len(fields) != len(header):
        raise AccountsError(f"the line has {len(fields)} fields, the header {len(header)}")
    record = dict(zip(header, (field.strip() for field in fields), strict=True))
    password, stored = record.get("password", ""), record.get("password_hash", "")
    if password and stored:
        raise AccountsError("the line has a password and a hash; give one of them")
    if password:
        check_new_password(password)
    aliases = ",".join(record.get("aliases", "").split())
    if ":" in "".join((record["address"], stored, aliases, record.get("quota", ""))):
        raise AccountsError("there is a colon in the line; no address, hash or quota has one")
    account = parse_line(":".join((record["address"], stored, aliases, record.get("quota", ""))), domains)
    enabled = record.get("enabled", "").lower()
    if enabled and enabled not in _YES | _NO:
        raise AccountsError(f"{enabled!r} is neither yes nor no")
    return account, password or None, enabled in _YES if enabled else None

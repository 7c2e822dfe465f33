"""Changes to an accounts file that leave every other line, comments included, as it is. Text in, text out.

Called by `mailarray account` and by the launcher for its demo account. Invariant: what comes out was read by
`accounts_file.parse`, so an edit never makes a file that the servers would refuse.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from mailarray.directory.accounts_file import AccountLine, AccountsError, parse
from mailarray.directory.addresses import split


def add(text: str, account: AccountLine, domains: Collection[str]) -> str:
    """Append an account. Raises AccountsError, also when the address is there already."""
    table = parse(text, domains)
    local, domain = split(account.address)
    there = table.find(f"{local}@{domain}")
    if there is not None:
        what = "an account" if there.address == f"{local}@{domain}" else f"an alias of {there.address}"
        raise AccountsError(f"{account.address} is {what} already; use `mailarray account passwd` for another password")
    separator = "" if not text or text.endswith("\n") else "\n"
    return _checked(f"{text}{separator}{account.render()}\n", domains)


def set_password(text: str, address: str, password_hash: str, domains: Collection[str]) -> str:
    """Give an account another hash. Raises AccountsError when it is not there."""
    number, account = _line_of(text, address, domains)
    return _replaced(text, number, replace(account, password_hash=password_hash).render(), domains)


def remove(text: str, address: str, domains: Collection[str]) -> str:
    """Take an account's line out. Raises AccountsError when it is not there."""
    number, _ = _line_of(text, address, domains)
    return _replaced(text, number, None, domains)


def _line_of(text: str, address: str, domains: Collection[str]) -> tuple[int, AccountLine]:
    table = parse(text, domains)
    local, domain = split(address)
    account = table.accounts.get(f"{local}@{domain}")
    if account is None:
        alias = table.aliases.get(f"{local}@{domain}")
        hint = f"it is an alias of {alias.address}" if alias else "`mailarray account list` shows all"
        raise AccountsError(f"there is no account {address}; {hint}")
    for number, raw in enumerate(text.splitlines()):
        first = raw.strip().partition(":")[0].strip()
        if first and not first.startswith("#") and split(first) == (local, domain):
            return number, account
    raise AssertionError("parse found an account that no line begins with")


def _replaced(text: str, number: int, line: str | None, domains: Collection[str]) -> str:
    lines = text.splitlines()
    lines[number : number + 1] = [] if line is None else [line]
    return _checked("".join(f"{one}\n" for one in lines), domains)


def _checked(text: str, domains: Collection[str]) -> str:
    parse(text, domains)
    return text

"""Changes to an accounts file that leave every other line, comments included, as it is. Text in, text out.

Called by `mailarray account` and by the launcher for its demo account. Invariant: what comes out was read by
`accounts_file.parse`, so an edit never makes a file that the servers would refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
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


def set_aliases(
    text: str, address: str, change: Callable[[tuple[str, ...]], tuple[str, ...]], domains: Collection[str]
) -> str:
    """Give an account other aliases, made from those that it has. Raises AccountsError when it is not there."""
    number, account = _line_of(text, address, domains)
    return _replaced(text, number, replace(account, aliases=change(account.aliases)).render(), domains)


def put(text: str, accounts: Iterable[AccountLine], domains: Collection[str]) -> tuple[str, int, int, int]:
    """Make accounts be as given; the rest stays. Also how many were added, changed, and as they should be already.

    Raises AccountsError when the file would be none afterwards: all or nothing, as with every edit of a flat file.
    """
    wanted = {account.address: account for account in accounts}
    there = parse(text, domains).accounts
    lines = []
    for raw in text.splitlines():
        first = raw.strip().partition(":")[0].strip()
        address = "@".join(split(first)) if first and not first.startswith("#") else ""
        same = address not in wanted or _sorted(wanted[address]) == _sorted(there[address])
        lines.append(raw if same else wanted[address].render())
    added = [account for address, account in wanted.items() if address not in there]
    changed = sum(_sorted(there[a]) != _sorted(line) for a, line in wanted.items() if a in there)
    lines += [account.render() for account in added]
    result = _checked("".join(f"{line}\n" for line in lines), domains)
    return result, len(added), changed, len(wanted) - len(added) - changed


def _sorted(account: AccountLine) -> AccountLine:
    return replace(account, aliases=tuple(sorted(account.aliases)))


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

"""The accounts file: one account a line, colon-separated like /etc/passwd. Text in, table out; no I/O.

    address:argon2-hash:alias,alias:quota
    # a comment; empty lines are fine
    demo@mail.example:$argon2id$v=19$m=65536,t=3,p=4$...:info@mail.example,sales:1Gi
    lists@mail.example:::

- Trailing fields may be empty or left out. No hash: mail is received, nobody can log in.
- An alias without a domain is in the account's own domain.
- Quota is a number of bytes, with Ki, Mi, Gi or Ti if wanted.

Invariant: every address, alias or account, stands once in the whole file, and in one of the cluster's domains.
`parse` refuses the whole file for one bad line: half a set of accounts would bounce the mail of the other half.
Called by `flatfile.py` (listeners, access servers) and by `mailarray account`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field

import argon2
import argon2.exceptions

from mailarray.directory.addresses import canonical_domain, split

MAX_LINE = 16384  # characters; a longer line is a file of another kind
_QUOTA = re.compile(r"(\d+)(Ki|Mi|Gi|Ti)?")
_UNITS = {None: 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
_FIELDS = 4
_BAD_IN_ADDRESS = re.compile(r"[\s:,<>()\[\]\\\";]|[^\x20-\x7e\x80-\U0010ffff]")


class AccountsError(ValueError):
    """The file cannot be used; the text is one sentence that begins with file and line."""


@dataclass(frozen=True, slots=True)
class AccountLine:
    """One line of the file."""

    address: str  # canonical
    password_hash: str  # empty: no login
    aliases: tuple[str, ...] = ()  # canonical, with their domain
    quota: int | None = None  # bytes

    def render(self) -> str:
        """The line, without its end."""
        quota = "" if self.quota is None else render_size(self.quota)
        return f"{self.address}:{self.password_hash}:{','.join(self.aliases)}:{quota}"


@dataclass(frozen=True, slots=True)
class AccountTable:
    """A file that was found good."""

    accounts: dict[str, AccountLine] = field(default_factory=dict)  # by address, in the file's order
    aliases: dict[str, AccountLine] = field(default_factory=dict)  # by alias

    def find(self, address: str) -> AccountLine | None:
        """The account of a canonical address or alias."""
        return self.accounts.get(address) or self.aliases.get(address)


def parse(text: str, domains: Collection[str], name: str = "accounts") -> AccountTable:
    """Read a whole file. Raises AccountsError that names the first bad line and says what to do."""
    known = {canonical_domain(d) for d in domains}
    seen: dict[str, int] = {}
    table = AccountTable()
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        try:
            account = parse_line(line, known)
            for address in (account.address, *account.aliases):
                if address in seen:
                    first = "twice on this line" if seen[address] == number else f"on line {seen[address]} too"
                    raise AccountsError(f"{address} stands {first}; remove one of them")
                seen[address] = number
        except AccountsError as error:
            raise AccountsError(f"{name}:{number}: {error}") from None
        table.accounts[account.address] = account
        for alias in account.aliases:
            table.aliases[alias] = account
    return table


def parse_line(line: str, known_domains: Collection[str] | None) -> AccountLine:
    """Read one line; without `known_domains` any domain will do. Raises AccountsError without file and line."""
    if len(line) > MAX_LINE:
        raise AccountsError(f"the line is longer than {MAX_LINE} characters; split its aliases over several accounts")
    fields = line.split(":")
    if len(fields) > _FIELDS:
        raise AccountsError(
            f"{len(fields)} fields where address:hash:aliases:quota has {_FIELDS}; remove the surplus colons"
        )
    raw_address, password_hash, raw_aliases, raw_quota = (f.strip() for f in (*fields, *[""] * (_FIELDS - len(fields))))
    address = parse_address(raw_address, known_domains)
    domain = split(address)[1]
    _check_hash(password_hash)
    aliases = tuple(
        parse_address(a if "@" in a else f"{a}@{domain}", known_domains, "alias")
        for a in (part.strip() for part in raw_aliases.split(","))
        if a
    )
    return AccountLine(address, password_hash, aliases, parse_quota(raw_quota))


def parse_quota(text: str) -> int | None:
    """Bytes, or None for an empty text. Raises AccountsError."""
    if not text:
        return None
    match = _QUOTA.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise AccountsError(f"{text!r} is not a quota; write bytes like 500Mi or 1Gi, or nothing for no limit")
    return int(match[1]) * _UNITS[match[2]]


def render_size(size: int) -> str:
    """The shortest exact form: 1Gi rather than 1073741824."""
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)


def parse_address(text: str, known_domains: Collection[str] | None, what: str = "address") -> str:
    """The canonical form of an address. Raises AccountsError, also when it is in no known domain."""
    local, domain = split(text)
    if not local or not domain or _BAD_IN_ADDRESS.search(text) or "@" in local:
        raise AccountsError(f"{text!r} is not an {what}; write it as user@domain")
    if known_domains is not None and domain not in known_domains:
        some = ", ".join(sorted(known_domains)) or "none"
        raise AccountsError(
            f"{what} {text} is in a domain that the cluster does not receive for ({some}); "
            "add the domain to the MailCluster or correct it"
        )
    if what == "alias" and "+" in local:
        raise AccountsError(f"alias {text} has a +; leave it out, mail for user+tag goes to user anyway")
    return f"{local}@{domain}"


def _check_hash(text: str) -> None:
    if not text:
        return
    try:
        argon2.extract_parameters(text)
    except argon2.exceptions.InvalidHashError:
        raise AccountsError(
            "the second field is not an argon2 hash (plain passwords are refused); "
            "set the password with `mailarray account passwd`"
        ) from None

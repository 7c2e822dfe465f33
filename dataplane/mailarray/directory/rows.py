"""Accounts on their way from the database to a snapshot: rows, and where in the database's history they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Position(NamedTuple):
    """A point in the history of a database: all changes up to `revision` are known. The stamp tells histories apart."""

    revision: int
    stamp: int


class AccountRow(NamedTuple):
    """An account, or the news that it is gone."""

    address: str  # canonical
    password_hash: str  # empty: no login
    quota: int | None  # bytes
    enabled: bool  # false: no login
    created: int  # seconds since 1970
    removed: bool


class AliasRow(NamedTuple):
    """An alias, or the news that it is gone."""

    address: str  # canonical
    account: str
    removed: bool


class Sink(Protocol):
    """What takes rows. Nothing of them counts before `commit`; whoever began and cannot go on calls `abandon`."""

    async def begin(self, *, whole: bool, accepted: bool = False) -> None:
        """`whole`: the rows that come are all there are, what is not among them goes.

        `accepted`: a person said lately that they are the right ones, however few.
        """
        ...

    async def add(self, accounts: Sequence[AccountRow], aliases: Sequence[AliasRow]) -> None:
        """Rows of one history, in any order."""
        ...

    async def commit(self, position: Position) -> None:
        """All rows up to this position were given. May raise TooFewAccounts."""
        ...

    async def abandon(self) -> None:
        """Forget what was added since `begin`."""
        ...


class Source(Protocol):
    """Where rows come from: the database, or somebody's snapshot."""

    async def feed(self, since: Position | None, sink: Sink) -> bool:
        """Give the sink what it lacks; False when it lacks nothing. Raises AccountsUnavailable."""
        ...


class TooFewAccounts(Exception):
    """Another history, with so few accounts that it is not followed; one sentence. `abandon` is still to be called."""


class AccountsUnavailable(Exception):
    """The accounts cannot be had from there now; one sentence."""

"""Password hashes, and a short memory of logins that were right.

One argon2 check costs 50 to 100 ms of CPU on purpose, so:
- checks run in a small thread pool, never on the event loop, at most `CHECKS_AT_ONCE` of them (each takes 64 MiB);
- a login that was right is remembered for five minutes as a keyed hash, keyed with a random key of this process;
- an unknown account costs one check like a known one, so that the time of an answer tells nothing.

Invariant: a password is never kept, nor any hash of it that could be tried against without this process' key. What
is remembered is bound to the account's stored hash: change that, and the memory is void.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import argon2
import argon2.exceptions

from mailarray.directory.accounts_file import AccountsError

REMEMBER_SECONDS = 300.0  # a stolen session ends and a changed password counts within this time in the worst case
MAX_REMEMBERED = 16384  # logins; 200 bytes each; the oldest goes first
CHECKS_AT_ONCE = 2  # threads; each takes 64 MiB for one check, and mail must keep its share of the CPU
MIN_PASSWORD = 8  # characters; NIST SP 800-63B
MAX_PASSWORD = 1024  # characters; longer ones are wrong without a look, hashing them would be work for nothing

# Of a random password nobody has seen; costs what a real check costs when the file has no hash at all to borrow.
_NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$0cfY6+qqOVnTuhYeicI9Bg$ejGmukIyyukCr55HoBHY6+nv+Aj3S2LKHnlMD4LXdG0"

_hasher = argon2.PasswordHasher()


def check_new_password(password: str) -> None:
    """Raises AccountsError for a password that nobody should have."""
    if len(password) < MIN_PASSWORD:
        raise AccountsError(f"the password has {len(password)} characters; use at least {MIN_PASSWORD}")
    if len(password) > MAX_PASSWORD:
        raise AccountsError(f"the password has {len(password)} characters; use at most {MAX_PASSWORD}")


def hash_password(password: str) -> str:
    """An argon2id hash for the accounts file, salted; takes 50 to 100 ms."""
    return _hasher.hash(password)


def matches(password_hash: str, password: str) -> bool:
    """Compare a password with a stored hash; takes 50 to 100 ms. False for a hash that cannot be read."""
    try:
        return _hasher.verify(password_hash, password)
    except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
        return False


class _Remembered(NamedTuple):
    password_hash: str
    digest: bytes
    until: float


class PasswordChecker:
    """Checks passwords off the event loop and remembers the right ones for a while."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        check: Callable[[str, str], bool] = matches,
        remember_seconds: float = REMEMBER_SECONDS,
        max_remembered: int = MAX_REMEMBERED,
    ) -> None:
        self._clock = clock
        self._check = check
        self._remember_seconds = remember_seconds
        self._max_remembered = max_remembered
        self._key = os.urandom(32)
        self._remembered: dict[str, _Remembered] = {}
        self._pool = ThreadPoolExecutor(max_workers=CHECKS_AT_ONCE, thread_name_prefix="password")
        self._turn = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def verify(self, account: str, password_hash: str, password: str) -> bool:
        """Whether the password opens the account whose stored hash is given; an empty hash is never opened."""
        if len(password) > MAX_PASSWORD or not password_hash:
            await self.refuse(password_hash)
            return False
        digest = self._digest(account, password_hash, password)
        if self._remembers(account, password_hash, digest):
            return True
        async with self._turn:
            if self._remembers(account, password_hash, digest):  # a client that opens many sessions at once
                return True
            right = await self._in_thread(password_hash, password)
        if right:
            self._remember(account, _Remembered(password_hash, digest, self._clock() + self._remember_seconds))
        return right

    async def refuse(self, borrowed_hash: str = "") -> None:
        """Cost as much as a check: for an account that is not there."""
        async with self._turn:
            await self._in_thread(borrowed_hash or _NOBODY, "")

    def forget_changed(self, current: Callable[[str], str | None]) -> None:
        """Drop what is remembered of accounts whose stored hash is another one now; `current` gives it, or None."""
        self._remembered = {a: r for a, r in self._remembered.items() if current(a) == r.password_hash}

    def close(self) -> None:
        """Checks that wait are dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __len__(self) -> int:
        return len(self._remembered)

    def _digest(self, account: str, password_hash: str, password: str) -> bytes:
        text = "\0".join((account, password_hash, password)).encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, key=self._key, digest_size=32).digest()

    def _remembers(self, account: str, password_hash: str, digest: bytes) -> bool:
        known = self._remembered.get(account)
        if known is None:
            return False
        if known.password_hash != password_hash or known.until <= self._clock():
            del self._remembered[account]
            return False
        return hmac.compare_digest(known.digest, digest)

    def _remember(self, account: str, right: _Remembered) -> None:
        self._remembered.pop(account, None)
        while len(self._remembered) >= self._max_remembered:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[account] = right

    async def _in_thread(self, password_hash: str, password: str) -> bool:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._check, password_hash, password)

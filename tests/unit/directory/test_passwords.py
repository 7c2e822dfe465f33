"""Password checks: what they cost, what is remembered, and for how long."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import argon2
import pytest

from mailarray.contract.settings import DirectorySettings, DomainSettings
from mailarray.directory.directory import Account
from mailarray.directory.flatfile import FlatFileDirectory
from mailarray.directory.passwords import CHECKS_AT_ONCE, REMEMBER_SECONDS, PasswordChecker, hash_password, matches


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Checks:
    """Counts checks; the right password of hash `h` is `h!`."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.threads: set[int] = set()

    def __call__(self, password_hash: str, password: str) -> bool:
        self.seen.append((password_hash, password))
        self.threads.add(threading.get_ident())
        return password == f"{password_hash}!"


@pytest.fixture
def checks() -> Checks:
    return Checks()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def checker(checks: Checks, clock: Clock) -> PasswordChecker:
    return PasswordChecker(clock=clock, check=checks, max_remembered=3)


async def test_a_right_login_is_remembered_for_five_minutes(
    checker: PasswordChecker, checks: Checks, clock: Clock
) -> None:
    assert await checker.verify("ann", "h", "h!")
    clock.now += REMEMBER_SECONDS - 1
    assert await checker.verify("ann", "h", "h!")
    assert len(checks.seen) == 1
    clock.now += 1
    assert await checker.verify("ann", "h", "h!")
    assert len(checks.seen) == 2


async def test_a_wrong_login_is_checked_each_time_and_off_the_loop(checker: PasswordChecker, checks: Checks) -> None:
    assert await checker.verify("ann", "h", "h!")
    for _ in range(2):
        assert not await checker.verify("ann", "h", "wrong")
    assert len(checks.seen) == 3
    assert threading.get_ident() not in checks.threads


async def test_a_changed_hash_voids_what_is_remembered(checker: PasswordChecker, checks: Checks) -> None:
    assert await checker.verify("ann", "h", "h!")
    assert not await checker.verify("ann", "new", "h!")
    assert len(checker) == 0
    assert await checker.verify("ann", "new", "new!")
    checker.forget_changed({"ann": "third"}.get)
    assert len(checker) == 0


async def test_memory_is_bounded_and_holds_no_password(checker: PasswordChecker) -> None:
    for i in range(10):
        assert await checker.verify(f"user{i}", f"hash{i}", f"hash{i}!")
    assert len(checker) == 3
    assert "hash9!" not in repr(checker._remembered)


async def test_an_unknown_account_costs_one_check(checker: PasswordChecker, checks: Checks) -> None:
    await checker.refuse("borrowed")
    assert not await checker.verify("nobody-logs-in", "", "")
    assert not await checker.verify("ann", "h", "x" * 100_000)
    assert len(checks.seen) == 3
    assert max(len(password) for _, password in checks.seen) < 2000


async def test_sessions_that_log_in_at_once_share_few_threads(checks: Checks) -> None:
    running, most = 0, 0
    lock = threading.Lock()
    enough = threading.Event()

    def slow(password_hash: str, password: str) -> bool:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == CHECKS_AT_ONCE:
                enough.set()
        assert enough.wait(10)
        with lock:
            running -= 1
        return checks(password_hash, password)

    checker = PasswordChecker(check=slow)
    assert all(await asyncio.gather(*(checker.verify(f"u{i}", "h", "h!") for i in range(8))))
    assert most == CHECKS_AT_ONCE
    assert all(await asyncio.gather(*(checker.verify("u0", "h", "h!") for _ in range(100))))
    assert len(checks.seen) == 8


def test_argon2_for_real() -> None:
    stored = hash_password("correct horse")
    assert stored.startswith("$argon2id$")
    assert matches(stored, "correct horse")
    assert not matches(stored, "battery staple")
    assert not matches("rubbish", "correct horse")


async def test_the_directory_opens_accounts_by_address_and_alias(tmp_path: Path) -> None:
    cheap = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    stored, other = cheap.hash("correct horse"), cheap.hash("battery staple")
    file = tmp_path / "accounts"
    file.write_text(f"ann@mail.example:{stored}:info\nlists@mail.example\n", encoding="utf-8")
    settings = DirectorySettings(domains=(DomainSettings(name="mail.example"),), accounts_file=str(file))
    directory = FlatFileDirectory(settings)
    await directory.start()
    try:
        assert await directory.verify("Ann@mail.example", "correct horse") == Account("ann@mail.example")
        assert await directory.verify("info@mail.example", "correct horse") == Account("ann@mail.example")
        assert await directory.verify("ann@mail.example", "wrong") is None
        assert await directory.verify("nobody@mail.example", "correct horse") is None
        assert await directory.verify("lists@mail.example", "") is None
        file.write_text(f"ann@mail.example:{other}\n", encoding="utf-8")
        assert await directory.reload_if_changed()
        assert await directory.verify("ann@mail.example", "correct horse") is None
    finally:
        await directory.stop()

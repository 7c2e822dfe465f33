"""The flat-file directory: who gets which mail, reload, and the old accounts that stay."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mailarray.contract.settings import DirectorySettings, DomainSettings
from mailarray.directory import resolving
from mailarray.directory.directory import Account, NotFound
from mailarray.directory.flatfile import DirectoryError, FlatFileDirectory

HASH = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzYWx0$3L9WqVlPEm7ZyHAXkcbYlA"
ACCOUNTS = f"""\
first@mail.example:{HASH}
ann@mail.example:{HASH}:info@mail.example,info@second.example:1Gi
ops@mail.example:{HASH}
jörg@bücher.example:{HASH}
"""


def settings(path: Path, postmaster: str | None = None) -> DirectorySettings:
    domains = (
        DomainSettings(name="mail.example", postmaster=postmaster),
        DomainSettings(name="second.example"),
        DomainSettings(name="bücher.example"),
    )
    return DirectorySettings(domains=domains, accounts_file=str(path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "accounts"
    file.write_text(ACCOUNTS, encoding="utf-8")
    return file


@pytest.fixture
async def directory(path: Path) -> AsyncIterator[FlatFileDirectory]:
    made = FlatFileDirectory(settings(path))
    await made.start()
    yield made
    await made.stop()


@pytest.mark.parametrize(
    ("recipient", "answer"),
    [
        ("ann@mail.example", "ann@mail.example"),
        ("ANN@Mail.EXAMPLE", "ann@mail.example"),
        ("ann+lists+x@mail.example", "ann@mail.example"),
        ("info@mail.example", "ann@mail.example"),
        ("Info+tag@second.example", "ann@mail.example"),
        ('"ann"@mail.example', "ann@mail.example"),
        ("ann@mail.example.", "ann@mail.example"),
        ("jörg@bücher.example", "jörg@bücher.example"),
        ("JÖRG@BÜCHER.example", "jörg@bücher.example"),
        ("jo\u0308rg@xn--bcher-kva.example", "jörg@bücher.example"),
        ("ann@second.example", NotFound.RECIPIENT),
        ("nobody@mail.example", NotFound.RECIPIENT),
        ("+tag@mail.example", NotFound.RECIPIENT),
        ("ann", NotFound.DOMAIN),
        ("ann@else.example", NotFound.DOMAIN),
        ("ann@[127.0.0.1]", NotFound.DOMAIN),
        ("", NotFound.DOMAIN),
        # no account is named postmaster: the first one gets it (RFC 5321 4.5.1)
        ("postmaster", "first@mail.example"),
        ("Postmaster@second.example", "first@mail.example"),
        ("postmaster+x@mail.example", "first@mail.example"),
        ("postmaster@else.example", NotFound.DOMAIN),
    ],
)
async def test_resolve(directory: FlatFileDirectory, recipient: str, answer: str | NotFound) -> None:
    for _ in range(2):  # looked up, and remembered
        found = directory.resolve(recipient)
        assert (found.address if isinstance(found, Account) else found) == answer


@pytest.mark.parametrize(
    ("configured", "line", "answer"),
    [
        ("ops@mail.example", "", "ops@mail.example"),
        ("info@mail.example", "", "ann@mail.example"),
        ("gone@mail.example", "", "first@mail.example"),
        (None, f"postmaster@mail.example:{HASH}", "postmaster@mail.example"),
        (None, f"root@mail.example:{HASH}:postmaster", "root@mail.example"),
        ("ops@mail.example", f"root@mail.example:{HASH}:postmaster", "ops@mail.example"),
    ],
)
async def test_postmaster(path: Path, configured: str | None, line: str, answer: str) -> None:
    path.write_text(f"{ACCOUNTS}{line}\n", encoding="utf-8")
    directory = FlatFileDirectory(settings(path, configured))
    await directory.start()
    try:
        for recipient in ("postmaster", "postmaster@mail.example"):
            found = directory.resolve(recipient)
            assert isinstance(found, Account) and found.address == answer
    finally:
        await directory.stop()


async def test_what_was_remembered_is_bounded(directory: FlatFileDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "MAX_REMEMBERED_RECIPIENTS", 10)
    for i in range(100):
        assert isinstance(directory.resolve(f"ann+{i}@mail.example"), Account)
        assert len(directory._resolver.found) <= 10


async def test_a_changed_file_is_read_again(directory: FlatFileDirectory, path: Path) -> None:
    assert await directory.reload_if_changed() is False
    assert directory.resolve("new@mail.example") is NotFound.RECIPIENT
    assert directory.resolve("ann@mail.example") == Account("ann@mail.example", 1 << 30)
    path.write_text(f"new@mail.example:{HASH}\n", encoding="utf-8")
    assert await directory.reload_if_changed() is True
    assert directory.resolve("new@mail.example") == Account("new@mail.example")
    assert directory.resolve("ann@mail.example") is NotFound.RECIPIENT


async def test_a_replaced_file_of_the_same_size_and_time_is_noticed(directory: FlatFileDirectory, path: Path) -> None:
    status = path.stat()
    other = path.with_name("other")
    other.write_text(ACCOUNTS.replace("ops@", "ups@"), encoding="utf-8")
    os.utime(other, ns=(status.st_mtime_ns, status.st_mtime_ns))
    other.replace(path)
    assert await directory.reload_if_changed() is True
    assert directory.resolve("ups@mail.example") == Account("ups@mail.example")


async def test_a_bad_line_keeps_the_old_accounts_and_is_said_once(
    directory: FlatFileDirectory, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(f"{ACCOUNTS}oops\n", encoding="utf-8")
    for _ in range(3):
        assert await directory.reload_if_changed() is False
    assert directory.problem == "accounts:5: 'oops' is not an address; write it as user@domain"
    assert [r.__dict__["problem"] for r in caplog.records] == [directory.problem]
    assert directory.resolve("ann@mail.example") == Account("ann@mail.example", 1 << 30)
    path.write_text(ACCOUNTS, encoding="utf-8")
    assert await directory.reload_if_changed() is True
    assert directory.problem is None


async def test_a_file_that_goes_away_keeps_the_old_accounts(directory: FlatFileDirectory, path: Path) -> None:
    path.unlink()
    assert await directory.reload_if_changed() is False
    assert directory.problem == f"{path} is not there; make it with `mailarray account add`"
    assert isinstance(directory.resolve("ann@mail.example"), Account)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "{path} is not there; make it with `mailarray account add`"),
        (b"oops\n", "accounts:1: 'oops' is not an address; write it as user@domain"),
        (b"# ok\n\xff\n", "accounts:2: the line is not UTF-8; save the file as UTF-8"),
    ],
)
async def test_the_first_reading_must_work(path: Path, content: bytes | None, sentence: str) -> None:
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DirectoryError) as error:
        await FlatFileDirectory(settings(path)).start()
    assert str(error.value) == sentence.format(path=path)

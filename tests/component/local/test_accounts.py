"""`mailarray account`, as a person uses it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mailarray.catalog.database import migrate, open_catalog
from mailarray.cli.account import account
from mailarray.contract import settings
from mailarray.contract.settings import DirectorySettings, DomainSettings
from mailarray.directory import passwords
from mailarray.directory.accounts_file import AccountsError
from tests.component.catalog.sidecar import Sidecar, message
from tests.support.access_fakes import FakeArray


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    import argon2

    monkeypatch.setattr(passwords, "_hasher", argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "accounts").write_text("# ours\nfirst@mail.example:::\n", encoding="utf-8")
    return tmp_path


def run(data: Path, *arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(account, [*arguments, "--data", str(data)], input=typed)


def test_a_life(data: Path) -> None:
    typed = "correct horse\ncorrect horse\n"
    added = run(data, "add", "ann@mail.example", "--alias", "info", "--quota", "1Gi", typed=typed)
    assert added.exit_code == 0, added.output
    assert "correct horse" not in added.output
    listed = run(data, "list")
    assert listed.output == "first@mail.example  no login\nann@mail.example  - of 1Gi used; aliases info@mail.example\n"
    text = (data / "accounts").read_text(encoding="utf-8")
    stored = text.splitlines()[2].split(":")[1]
    assert passwords.matches(stored, "correct horse")
    assert (data / "accounts").stat().st_mode & 0o777 == 0o644  # as it was

    changed = run(data, "passwd", "ann@mail.example", "--password-stdin", typed="battery staple\n")
    assert changed.exit_code == 0, changed.output
    text = (data / "accounts").read_text(encoding="utf-8")
    assert passwords.matches(text.splitlines()[2].split(":")[1], "battery staple")

    assert run(data, "remove", "ann@mail.example").exit_code == 0
    assert (data / "accounts").read_text(encoding="utf-8") == "# ours\nfirst@mail.example:::\n"


@pytest.mark.parametrize(
    ("arguments", "typed", "words"),
    [
        (("add", "first@mail.example"), "", "first@mail.example is an account already"),
        (("add", "ann"), "", "'ann' is not an address"),
        (("add", "a@mail.example", "--quota", "much"), "", "'much' is not a quota"),
        (("passwd", "nobody@mail.example"), "", "there is no account nobody@mail.example"),
        (("remove", "nobody@mail.example"), "", "`mailarray account list` shows all"),
        (("add", "a@mail.example", "--password-stdin"), "short\n", "the password has 5 characters; use at least 8"),
    ],
)
def test_what_cannot_be_done_changes_nothing(data: Path, arguments: tuple[str, ...], typed: str, words: str) -> None:
    before = (data / "accounts").read_bytes()
    result = run(data, *arguments, typed=typed)
    assert result.exit_code == 1
    said = str(result.exception) if isinstance(result.exception, AccountsError) else result.output
    assert words in said
    assert (data / "accounts").read_bytes() == before


def test_what_accounts_hold_is_listed_while_the_catalog_says_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/catalog.sqlite"
    (tmp_path / "token").write_text("t")
    raw = json.loads(settings.dump(FakeArray(tmp_path).settings()))
    raw["catalog"] = {"url": url}
    directory = DirectorySettings(
        domains=(DomainSettings(name="mail.example"),), accounts_file=str(tmp_path / "accounts")
    )
    raw["directory"] = json.loads(settings.dump(directory))
    (tmp_path / "settings.json").write_text(json.dumps(raw))
    (tmp_path / "accounts").write_text("first@mail.example:::\nann@mail.example:::1Ki\n", encoding="utf-8")

    def listed(*options: str) -> Result:
        return CliRunner().invoke(account, ["list", *options, "--settings", str(tmp_path / "settings.json")])

    assert listed().stdout == "first@mail.example  no login\nann@mail.example  no login; - of 1Ki used\n"
    assert not (tmp_path / "catalog.sqlite").exists()  # looking makes none

    async def receive() -> None:
        await migrate(url)
        catalog = await open_catalog(url)
        sidecar = Sidecar(catalog)
        await sidecar.join()
        await sidecar.register(message("ann@mail.example"), message("ann@mail.example"))
        assert await catalog.caught_up(sidecar.volume, sidecar.epoch, [sidecar.volume], 2)
        await catalog.close()

    asyncio.run(receive())
    assert listed().stdout == "first@mail.example  no login; 0 B used\nann@mail.example  no login; 200 B of 1Ki used\n"
    rows = json.loads(listed("--json").stdout)
    assert [(row["used"], row["quota"]) for row in rows] == [(0, None), (200, 1024)]
    (tmp_path / "catalog.sqlite").write_bytes(b"no database")
    away = listed()
    assert away.stdout == "first@mail.example  no login\nann@mail.example  no login; - of 1Ki used\n"
    assert "how much the mailboxes hold is not known" in away.stderr and away.exit_code == 0


def test_the_data_folder_must_be_there(tmp_path: Path) -> None:
    result = run(tmp_path / "nowhere", "add", "ann@mail.example")
    assert result.exit_code == 1 and "start `mailarray up` once" in result.output

"""`mailarray account` on a database and on a flat file: the same commands, the same answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mailarray.cli.account import account
from mailarray.contract import settings
from mailarray.contract.settings import DirectorySettings, DomainSettings
from mailarray.directory import passwords
from mailarray.directory.accounts_file import AccountsError
from tests.support.access_fakes import FakeArray

HASH = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzYWx0$3L9WqVlPEm7ZyHAXkcbYlA"
Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    import argon2

    monkeypatch.setattr(passwords, "_hasher", argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


def said(result: Result) -> str:
    """What a person reads of an error."""
    return str(result.exception) if isinstance(result.exception, AccountsError) else result.output


@pytest.fixture(params=["url", "settings", "file"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    where = {
        "url": ["--catalog-url", f"sqlite:///{tmp_path}/catalog.sqlite"],
        "settings": ["--settings", str(tmp_path / "settings.json")],
        "file": ["--file", str(tmp_path / "accounts")],
    }[str(request.param)]
    write_settings(tmp_path)

    def invoke(*arguments: str, typed: str = "") -> Result:
        return CliRunner().invoke(account, [*arguments, *where], input=typed)

    return invoke


def write_settings(path: Path) -> None:
    (path / "token").write_text("t")
    (path / "url").write_text(f"sqlite:///{path}/catalog.sqlite\n")
    directory = DirectorySettings(domains=(DomainSettings(name="mail.example"),), snapshot_file=str(path / "s"))
    text = settings.dump(FakeArray(path).settings())
    raw = json.loads(text)
    raw["catalog"] = {"url_file": str(path / "url")}
    raw["directory"] = json.loads(settings.dump(directory))
    raw["name"] = "{pod}"
    (path / "settings.json").write_text(json.dumps(raw))


def test_a_life(run: Run) -> None:
    typed = "correct horse\ncorrect horse\n"
    added = run("add", "Ann@mail.example", "--alias", "info", "--quota", "1Gi", typed=typed)
    assert added.exit_code == 0, added.output
    assert added.output.endswith("ann@mail.example added\n") and "correct horse" not in added.output
    assert run("add", "bob@mail.example", "--no-login").exit_code == 0
    assert (
        run("alias", "add", "sales", "ann@mail.example").output
        == "mail for sales@mail.example goes to ann@mail.example\n"
    )
    assert run("alias", "remove", "info@mail.example").exit_code == 0
    listed = run("list").output
    assert listed == "ann@mail.example  - of 1Gi used; aliases sales@mail.example\nbob@mail.example  no login\n"
    assert run("list", "--containing", "BOB").output == "bob@mail.example  no login\n"
    rows = json.loads(run("list", "--json").output)
    assert [(r["address"], r["aliases"], r["quota"], r["hasPassword"]) for r in rows] == [
        ("ann@mail.example", ["sales@mail.example"], 1 << 30, True),
        ("bob@mail.example", [], None, False),
    ]
    assert run("passwd", "bob@mail.example", "--password-stdin", typed="battery staple\n").exit_code == 0
    assert run("list").output.endswith("bob@mail.example\n")
    assert run("remove", "ann@mail.example").exit_code == 0
    assert run("list", "--containing", "ann", "--json").output == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "typed", "words"),
    [
        (("add", "ann@mail.example"), "", "ann@mail.example is an account already"),
        (("add", "info@mail.example"), "", "info@mail.example is an alias of ann@mail.example"),
        (("add", "ann"), "", "'ann' is not an address"),
        (("add", "a@mail.example", "--quota", "much"), "", "'much' is not a quota"),
        (("passwd", "nobody@mail.example"), "", "there is no account nobody@mail.example"),
        (("remove", "nobody@mail.example"), "", "`mailarray account list` shows all"),
        (("alias", "remove", "nobody@mail.example"), "", "there is no alias nobody@mail.example"),
        (("add", "a@mail.example", "--password-stdin"), "short\n", "the password has 5 characters; use at least 8"),
    ],
)
def test_what_cannot_be_done_changes_nothing(run: Run, arguments: tuple[str, ...], typed: str, words: str) -> None:
    assert run("add", "ann@mail.example", "--no-login", "--alias", "info").exit_code == 0
    before = run("list").output
    result = run(*arguments, typed=typed)
    assert result.exit_code == 1
    assert words in said(result)
    assert run("list").output == before


IMPORTS = {
    "csv": (
        "# ours\naddress,password,password_hash,aliases,quota\n"
        f'ann@mail.example,,"{HASH}",info sales,1Gi\n'
        "bob@mail.example,correct horse,,,\n"
        "broken,,,,\n"
        "cat@mail.example,short,,,\n"
        "dan@mail.example,,,,,\n"
        "eve@mail.example,,,,\n"
    ),
    "flat": f"ann@mail.example:{HASH}:info,sales:1Gi\nbroken\nbob@mail.example:{HASH}\neve@mail.example\n",
}


@pytest.mark.parametrize("kind", list(IMPORTS))
def test_import_may_be_repeated(run: Run, tmp_path: Path, kind: str) -> None:
    source = tmp_path / "import"
    source.write_text(IMPORTS[kind])
    first = run("import", str(source))
    bad = 3 if kind == "csv" else 1
    assert first.output.splitlines()[-1] == f"3 added, 0 changed, 0 unchanged, {bad} refused"
    line = "line 5" if kind == "csv" else "line 2"
    assert f"{line}: 'broken' is not an address; write it as user@domain\n" in first.output
    before = run("list", "--json").output
    again = run("import", str(source))
    assert again.output.splitlines()[-1] == f"0 added, 0 changed, 3 unchanged, {bad} refused"
    assert run("list", "--json").output == before
    source.write_text(IMPORTS[kind].replace("info", "post"))
    assert run("import", str(source)).output.splitlines()[-1] == f"0 added, 1 changed, 2 unchanged, {bad} refused"
    assert "post@mail.example" in run("list", "--containing", "ann").output


def test_only_in_the_cluster_s_domains(tmp_path: Path) -> None:
    write_settings(tmp_path)
    where = ["--settings", str(tmp_path / "settings.json")]
    result = CliRunner().invoke(account, ["add", "ann@else.example", "--no-login", *where])
    assert result.exit_code == 1 and "a domain that the cluster does not receive for (mail.example)" in said(result)
    assert CliRunner().invoke(account, ["add", "ann@mail.example", "--no-login", *where]).exit_code == 0
    anywhere = ["--catalog-url", f"sqlite:///{tmp_path}/catalog.sqlite"]
    assert CliRunner().invoke(account, ["add", "ann@else.example", "--no-login", *anywhere]).exit_code == 0


def test_a_disabled_account(tmp_path: Path) -> None:
    where = ["--catalog-url", f"sqlite:///{tmp_path}/catalog.sqlite"]
    for step in (["add", "ann@mail.example", "--no-login"], ["disable", "ann@mail.example"]):
        assert CliRunner().invoke(account, [*step, *where]).exit_code == 0
    assert CliRunner().invoke(account, ["list", *where]).output == "ann@mail.example  disabled\n"
    assert CliRunner().invoke(account, ["enable", "ann@mail.example", *where]).exit_code == 0
    assert json.loads(CliRunner().invoke(account, ["list", "--json", *where]).output)[0]["enabled"] is True


def test_a_database_that_is_away_is_a_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(account, ["list", "--catalog-url", "postgresql://m:geheim@127.0.0.1:1/x"])
    assert result.exit_code == 1 and "the accounts' database failed: " in str(result.exception)
    assert "geheim" not in str(result.exception)

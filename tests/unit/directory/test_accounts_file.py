"""The accounts file: what is read, and what a person is told of each line that does not fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mailarray.directory.accounts_editor import add, remove, set_password
from mailarray.directory.accounts_file import AccountLine, AccountsError, parse

HASH = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzYWx0$3L9WqVlPEm7ZyHAXkcbYlA"
OTHER = "$argon2id$v=19$m=8,t=1,p=1$b3RoZXJzYWx0c2FsdA$3L9WqVlPEm7ZyHAXkcbYlA"
DOMAINS = ["mail.example", "bücher.example"]


def test_a_whole_file() -> None:
    table = parse(
        f"""# people

ann@mail.example:{HASH}:info@mail.example,sales:1Gi
Bob@Mail.Example:{HASH}
lists@mail.example:::
jörg@bücher.example:{HASH}::500Mi
""",
        DOMAINS,
    )
    assert list(table.accounts) == ["ann@mail.example", "bob@mail.example", "lists@mail.example", "jörg@bücher.example"]
    assert table.find("sales@mail.example") is table.accounts["ann@mail.example"]
    assert table.accounts["ann@mail.example"].quota == 1 << 30
    assert table.accounts["jörg@bücher.example"].quota == 500 << 20
    assert table.accounts["lists@mail.example"].password_hash == ""


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("ann", "accounts:3: 'ann' is not an address; write it as user@domain"),
        ("@mail.example", "accounts:3: '@mail.example' is not an address; write it as user@domain"),
        ("a nn@mail.example", "accounts:3: 'a nn@mail.example' is not an address; write it as user@domain"),
        (
            "ann@else.example",
            "accounts:3: address ann@else.example is in a domain that the cluster does not receive for "
            "(bücher.example, mail.example); add the domain to the MailCluster or correct it",
        ),
        (
            f"ann@mail.example:{HASH}:info@else.example",
            "accounts:3: alias info@else.example is in a domain that the cluster does not receive for "
            "(bücher.example, mail.example); add the domain to the MailCluster or correct it",
        ),
        (
            "ann@mail.example:swordfish",
            "accounts:3: the second field is not an argon2 hash (plain passwords are refused); "
            "set the password with `mailarray account passwd`",
        ),
        (
            f"ann@mail.example:{HASH}::1GB",
            "accounts:3: '1GB' is not a quota; write bytes like 500Mi or 1Gi, or nothing for no limit",
        ),
        (
            f"ann@mail.example:{HASH}::1Gi:extra",
            "accounts:3: 5 fields where address:hash:aliases:quota has 4; remove the surplus colons",
        ),
        (f"FIRST@mail.example:{HASH}", "accounts:3: first@mail.example stands on line 2 too; remove one of them"),
        (f"ann@mail.example:{HASH}:one", "accounts:3: one@mail.example stands on line 2 too; remove one of them"),
        (
            f"ann@mail.example:{HASH}:x,x@mail.example",
            "accounts:3: x@mail.example stands twice on this line; remove one of them",
        ),
        (
            f"ann@mail.example:{HASH}:x+y",
            "accounts:3: alias x+y@mail.example has a +; leave it out, mail for user+tag goes to user anyway",
        ),
        (
            "x" * 20000,
            "accounts:3: the line is longer than 16384 characters; split its aliases over several accounts",
        ),
    ],
)
def test_a_bad_line_is_named_with_what_to_do(line: str, sentence: str) -> None:
    with pytest.raises(AccountsError) as error:
        parse(f"# a comment\nfirst@mail.example:{HASH}:one\n{line}\n", DOMAINS)
    assert str(error.value) == sentence


def test_no_hash_or_password_is_in_a_message() -> None:
    with pytest.raises(AccountsError) as error:
        parse("ann@mail.example:swordfish\n", DOMAINS)
    assert "swordfish" not in str(error.value)


def test_edits_leave_other_lines_as_they_are() -> None:
    text = f"# first\nann@mail.example : {HASH}  # not a comment here\n".replace("  # not a comment here", "")
    text = add(text, AccountLine("bob@mail.example", HASH, ("b@mail.example",), 1 << 30), DOMAINS)
    assert text == f"# first\nann@mail.example : {HASH}\nbob@mail.example:{HASH}:b@mail.example:1Gi\n"
    text = set_password(text, "BOB@mail.example", OTHER, DOMAINS)
    assert text.endswith(f"\nbob@mail.example:{OTHER}:b@mail.example:1Gi\n")
    assert remove(text, "ann@mail.example", DOMAINS) == f"# first\nbob@mail.example:{OTHER}:b@mail.example:1Gi\n"


def test_edits_that_would_break_the_file_are_refused() -> None:
    text = f"ann@mail.example:{HASH}:info\n"
    changes: tuple[Callable[[], object], ...] = (
        lambda: add(text, AccountLine("ann@mail.example", HASH), DOMAINS),
        lambda: add(text, AccountLine("info@mail.example", HASH), DOMAINS),
        lambda: add(text, AccountLine("eve@else.example", HASH), DOMAINS),
        lambda: remove(text, "bob@mail.example", DOMAINS),
        lambda: set_password(text, "info@mail.example", HASH, DOMAINS),
    )
    for change in changes:
        with pytest.raises(AccountsError):
            change()

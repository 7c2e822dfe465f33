"""Secrets: what pods read out of them is what was put in."""

from __future__ import annotations

from base64 import b64decode
from urllib.parse import unquote, urlsplit

from mailarray_operator import render
from mailarray_operator.api import names
from mailarray_operator.render import secrets
from tests.unit.operator.render.cases import CONFIGURATION, case


def context() -> render.Context:
    made = render.Context.of(case("smallest")[0], CONFIGURATION)
    assert made is not None
    return made


def values(secret: render.Manifest) -> dict[str, str]:
    return {key: b64decode(value).decode() for key, value in secret["data"].items()}


def test_token() -> None:
    secret = secrets.internal(context(), "abc")
    assert secret["metadata"]["name"] == "example-internal"
    assert values(secret) == {names.KEY_TOKEN: "abc"}


def test_database_url_holds_the_password_whatever_is_in_it() -> None:
    password = "p@ss/w:rd?#%"
    found = values(secrets.database(context(), password))
    url = urlsplit(found[names.KEY_URL])
    assert found[names.KEY_PASSWORD] == password
    assert unquote(url.password or "") == password
    assert (url.username, url.port, url.path) == ("mailarray", 5432, "/mailarray")
    assert url.hostname == "example-catalog-database.mail.svc.cluster.local"


def test_nobody_owns_them() -> None:
    for secret in (secrets.internal(context(), "abc"), secrets.database(context(), "abc")):
        assert "ownerReferences" not in secret["metadata"]

"""Secrets, made of random values that are given.

Made once, by `cluster/`, when they are not there; not part of `manifests`, since rendering them again would need to
know what they hold. They belong to nobody: servers need them without their MailCluster, and the password fits the
database's volume, which is kept.
"""

from __future__ import annotations

import base64
from urllib.parse import quote

from mailarray_operator.api import names
from mailarray_operator.render.context import Context, Manifest
from mailarray_operator.render.metadata import metadata
from mailarray_operator.render.statefulset_database import DATABASE, USER


def internal(context: Context, token: str) -> Manifest:
    """The shared token of the internal ports; `token` is printable ASCII without blanks."""
    return _secret(context, names.internal_secret(context.name), names.SERVER, {names.KEY_TOKEN: token})


def database(context: Context, password: str) -> Manifest:
    """Password and URL of the database that the operator runs."""
    host = context.host(names.database(context.name))
    url = f"postgresql://{USER}:{quote(password, safe='')}@{host}:{names.PORT_POSTGRESQL}/{DATABASE}"
    return _secret(
        context, names.database(context.name), names.DATABASE, {names.KEY_PASSWORD: password, names.KEY_URL: url}
    )


def _secret(context: Context, name: str, component: str, values: dict[str, str]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(context, name, component),
        "type": "Opaque",
        "data": {key: base64.b64encode(value.encode()).decode("ascii") for key, value in values.items()},
    }

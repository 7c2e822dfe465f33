"""ConfigMaps: settings files, and the mirroring table.

A settings ConfigMap never changes; it is named by its content. So other settings are another pod template, and reach
pods by the orderly restart of one at a time, and a pod that was not restarted yet keeps what it started with. Old ones
have to stay as long as a pod mounts them.
"""

from __future__ import annotations

import hashlib

from mailarray.contract import mirroring_table as tables
from mailarray.contract import settings as contract
from mailarray_operator.api import names
from mailarray_operator.render import settings
from mailarray_operator.render.context import Context, Manifest, ServerGroup
from mailarray_operator.render.metadata import metadata, owned_by_cluster, owned_by_group

DIGEST_LENGTH = 10  # hexadecimal digits: 40 bits tell apart the few generations of settings that exist at a time


def server_settings(context: Context, group: ServerGroup) -> Manifest:
    """server.json of a group, and server-1.json, ... where its servers have several volumes."""
    texts = {
        file_of(number): contract.dump(settings.server(context, group, number))
        for number in range(group.spec.storage.volumes)
    }
    name = names.settings(group.name, _digest("".join(texts.values())))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(context, name, names.SERVER, group=group, owner=owned_by_group(group)),
        "immutable": True,
        "data": texts,
    }


def file_of(number: int) -> str:
    """The settings file of a server's volume."""
    stem, _, suffix = names.FILE_SERVER.rpartition(".")
    return f"{names.numbered(stem, number)}.{suffix}"


def access_settings(context: Context) -> Manifest:
    """access.json."""
    text = contract.dump(settings.access(context))
    name = names.settings(names.access(context.name), _digest(text))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(context, name, names.ACCESS, owner=owned_by_cluster(context)),
        "immutable": True,
        "data": {names.FILE_ACCESS: text},
    }


def mirroring_table(context: Context, table: tables.MirroringTable) -> Manifest:
    """The table for servers that start; belongs to nobody, since servers need it without their MailCluster."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(context, names.mirroring_table(context.name), names.SERVER),
        "data": {names.FILE_TABLE: tables.dump(table)},
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]

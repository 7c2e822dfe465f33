"""Secrets: made once, never read again for what they hold, but for the token of the internal ports.

Only those that a MailCluster refers to, and its own, are watched, each by its name, so that no other Secret of the
namespace ever is in this process. Of a user's Secret the names of its keys are kept, and nothing else.
An existing Secret is never changed: the token and the database's password stay what they are.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets

from mailarray_operator.api import names
from mailarray_operator.cluster.client import Client, Json
from mailarray_operator.cluster.held import Key
from mailarray_operator.cluster.kinds import SECRET, Kind
from mailarray_operator.cluster.store import Store
from mailarray_operator.cluster.watch import Watch
from mailarray_operator.cluster.writer import Writer
from mailarray_operator.plan.observation import Observation
from mailarray_operator.render import secrets as rendered
from mailarray_operator.render.context import Context

RANDOM_BYTES = 32  # of a token or password


class Secrets:
    """See the module."""

    def __init__(self, client: Client, store: Store) -> None:
        self._client = client
        self._store = store
        self._watches: dict[Key, tuple[str, list[asyncio.Task[None]]]] = {}  # namespace, Secret -> MailCluster
        self._tokens: dict[Key, str] = {}

    def follow(self, key: Key) -> None:
        """Watch what this MailCluster needs, and no more."""
        namespace, cluster = key
        wanted = self._store.wanted_secrets(key)
        for name in wanted:
            if (namespace, name) not in self._watches:
                self._watch((namespace, name), cluster)
        for (where, name), (whose, tasks) in list(self._watches.items()):
            if where == namespace and whose == cluster and name not in wanted:
                for task in tasks:
                    task.cancel()
                del self._watches[where, name]
                self._store.forget_secret((where, name))
                self._tokens.pop((where, name), None)

    def _watch(self, secret: Key, cluster: str) -> None:
        def sink(_: Kind, body: Json, there: bool) -> None:
            data = body.get("data") or {}
            if there and secret[1] == names.internal_secret(cluster):
                self._tokens[secret] = _decoded(data.get(names.KEY_TOKEN, ""))
            size = sum(len(value) * 3 // 4 for value in data.values())
            self._store.take_secret(secret, frozenset(data) if there else None, size, cluster)

        watch = Watch(self._client, SECRET, secret[0], sink, fields=f"metadata.name={secret[1]}")

        async def absent() -> None:
            await watch.listed.wait()
            if not watch.holds(secret):
                self._store.take_secret(secret, None, 0, cluster)

        tasks = [asyncio.create_task(watch.run()), asyncio.create_task(absent())]
        self._watches[secret] = (cluster, tasks)

    def token(self, key: Key) -> str:
        """The token of the internal ports of a MailCluster; "" when it is not known."""
        return self._tokens.get((key[0], names.internal_secret(key[1])), "")

    async def make(self, context: Context, observation: Observation, writer: Writer) -> None:
        """Create those of our own that are not there. Raises ApiError or NotLeader."""
        absent = {name for name, keys in observation.secrets.items() if keys is None}
        if names.internal_secret(context.name) in absent:
            await writer.create(rendered.internal(context, secrets.token_urlsafe(RANDOM_BYTES)))
        if context.runs_database and names.database(context.name) in absent:
            await writer.create(rendered.database(context, secrets.token_urlsafe(RANDOM_BYTES)))

    async def close(self) -> None:
        """Stop watching."""
        tasks = [task for _, tasks in self._watches.values() for task in tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text).decode("ascii", "ignore").strip()
    except (binascii.Error, ValueError):
        return ""

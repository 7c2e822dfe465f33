"""Secrets: what pods need of them is watched, and those of our own are made, and made again when they are deleted.

Only those that a MailCluster refers to, and its own, are watched, each by its name, so that no other Secret of the
namespace ever is in this process. Of a user's Secret the names of its keys are kept, and nothing else. Of our own the
contents are kept too: the token is used here, and a Secret that somebody deletes is restored as it was.
An existing Secret is never changed: the token and the database's password stay what they are. Which ones are made with
new contents is decided in `plan/own_secrets.py`: none that is in use.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import dataclasses
import logging
import secrets
from collections.abc import Collection

from mailarray_operator.api import names
from mailarray_operator.cluster.client import Client, Json
from mailarray_operator.cluster.held import Key
from mailarray_operator.cluster.kinds import SECRET, Kind
from mailarray_operator.cluster.store import Store
from mailarray_operator.cluster.watch import Watch
from mailarray_operator.cluster.writer import Writer
from mailarray_operator.plan import reasons
from mailarray_operator.plan.decisions import Event
from mailarray_operator.plan.observation import Observation
from mailarray_operator.render import secrets as rendered
from mailarray_operator.render.context import Context

log = logging.getLogger(__name__)

RANDOM_BYTES = 32  # of a token or password


class Secrets:
    """See the module."""

    def __init__(self, client: Client, store: Store) -> None:
        self._client = client
        self._store = store
        self._watches: dict[Key, tuple[str, list[asyncio.Task[None]]]] = {}  # namespace, Secret -> MailCluster
        self._own: dict[Key, Json] = {}  # Secrets of our own, as they were last seen

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
                self._own.pop((where, name), None)

    def _watch(self, secret: Key, cluster: str) -> None:
        def sink(_: Kind, body: Json, there: bool) -> None:
            data = body.get("data") or {}
            if there and secret[1] in (names.internal_secret(cluster), names.database(cluster)):
                self._own[secret] = _as_it_was_made(body)
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
        data = self._own.get((key[0], names.internal_secret(key[1])), {}).get("data") or {}
        return _decoded(data.get(names.KEY_TOKEN, ""))

    async def restore(self, observation: Observation, writer: Writer) -> tuple[Observation, list[Event]]:
        """Put back those of our own that were deleted while this process knew them. Raises ApiError or NotLeader."""
        spec = None if observation.cluster is None else observation.cluster.spec
        if spec is None or spec.paused:
            return observation, []
        events = []
        for name, keys in observation.secrets.items():
            made = self._own.get((observation.namespace, name))
            if keys is None and made is not None and await writer.create(made):
                log.warning(
                    "a Secret was deleted, and is back", extra={"namespace": observation.namespace, "secret": name}
                )
                text = f"the Secret {name} was deleted while it is needed, and is back as it was"
                events.append(Event("MailCluster", observation.name, "Warning", reasons.SECRET_RESTORED, text))
        back = {name: keys for name, keys in observation.secrets.items() if (observation.namespace, name) in self._own}
        found = {
            n: frozenset(self._own[observation.namespace, n].get("data") or {}) for n, k in back.items() if k is None
        }
        return dataclasses.replace(observation, secrets={**observation.secrets, **found}), events

    async def make(self, context: Context, new: Collection[str], writer: Writer) -> None:
        """Create those of our own that were decided to be made. Raises ApiError or NotLeader."""
        if names.internal_secret(context.name) in new:
            await writer.create(rendered.internal(context, secrets.token_urlsafe(RANDOM_BYTES)))
        if names.database(context.name) in new:
            await writer.create(rendered.database(context, secrets.token_urlsafe(RANDOM_BYTES)))

    async def close(self) -> None:
        """Stop watching."""
        tasks = [task for _, tasks in self._watches.values() for task in tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _as_it_was_made(body: Json) -> Json:
    metadata = body["metadata"]
    kept = {name: metadata[name] for name in ("name", "namespace", "labels", "annotations") if metadata.get(name)}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": kept,
        "type": body.get("type") or "Opaque",
        "data": body.get("data") or {},
    }


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text).decode("ascii", "ignore").strip()
    except (binascii.Error, ValueError):
        return ""

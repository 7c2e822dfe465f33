"""Secrets of the operator's own: made once, put back as they were, and never made anew while somebody uses them."""

# ruff: noqa: ASYNC110  # polls with a deadline: what is awaited has no event
from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from mailarray_operator.api.configuration import Configuration
from mailarray_operator.cluster import kinds
from mailarray_operator.cluster.client import Json
from mailarray_operator.cluster.kinds import Kind
from mailarray_operator.cluster.secrets import Secrets
from mailarray_operator.cluster.store import Store
from mailarray_operator.plan import decide
from mailarray_operator.plan.decisions import Event
from mailarray_operator.plan.observation import Observation
from mailarray_operator.render.context import Context
from tests.unit.operator.cluster.fake_api import FakeApi

KEY = ("mail", "example")
TOKEN, DATABASE = "example-internal", "example-catalog-database"
CONFIGURATION = Configuration(dataplane_image="d:1", postgresql_image="p:1")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Client:
    """Lists and watches the Secrets of a FakeApi."""

    def __init__(self, api: FakeApi) -> None:
        self._api = api
        self._news: dict[str, asyncio.Queue[tuple[str, Json]]] = {}
        api.heard.append(self._hear)

    def _hear(self, kind: Kind, body: Json, there: bool) -> None:
        if kind is kinds.SECRET and body["metadata"]["name"] in self._news:
            self._news[body["metadata"]["name"]].put_nowait(("MODIFIED" if there else "DELETED", body))

    async def get(self, path: str, query: Mapping[str, str], *, metadata_only: bool = False) -> Json:
        name = query["fieldSelector"].removeprefix("metadata.name=")
        self._news[name] = asyncio.Queue()
        found = self._api.objects.get((kinds.SECRET.name, "mail", name))
        return {"items": [] if found is None else [found], "metadata": {"resourceVersion": "1"}}

    async def watch(
        self, path: str, query: Mapping[str, str], *, metadata_only: bool = False
    ) -> AsyncIterator[tuple[str, Json]]:
        name = query["fieldSelector"].removeprefix("metadata.name=")
        while True:
            yield await self._news[name].get()


class Operator:
    """One process: a store and its Secrets; `look` is what a run does about them."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        self.store = Store(lambda key: None)
        client: Any = Client(api)
        self.secrets = Secrets(client, self.store)
        api.heard.append(self.store.take)
        for thing, body in list(api.objects.items()):
            kind = next(kind for kind in (*kinds.CUSTOM, kinds.POD, kinds.CLAIM, kinds.SECRET) if kind.name == thing[0])
            self.store.take(kind, body, True)
        self.secrets.follow(KEY)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                await asyncio.sleep(0.005)

    async def sees(self, **there: bool) -> None:
        """Until it knows that the token, the database's password are there, or are not."""
        wanted = {TOKEN: there["token"], DATABASE: there["database"]}

        def known() -> bool:
            found = self.store.observation(KEY).secrets
            return self.store.secrets_known(KEY) and {n: found[n] is not None for n in wanted} == wanted

        await self.until(known)

    async def look(self) -> tuple[Observation, list[Event], str]:
        """What is known then, what was told, and why it is not ready."""
        observation, told = await self.secrets.restore(self.store.observation(KEY), self.api)
        decisions = decide(observation, CONFIGURATION, NOW)
        context = Context.of(observation, CONFIGURATION)
        if context is not None and decisions.render:
            await self.secrets.make(context, decisions.new_secrets, self.api)
        ready = next(c for c in (decisions.cluster_status or {})["conditions"] if c["type"] in ("Ready", "Paused"))
        return observation, told, f"{ready['reason']}: {ready['message']}"

    def in_use(self) -> None:
        """A server's pod, and the database's volume."""
        labels = {"mailarray.io/cluster": "example", "mailarray.io/server-group": "a"}
        metadata = {"namespace": "mail", "name": "a-0", "labels": labels}
        self.api.put(kinds.POD, {"kind": "Pod", "metadata": metadata, "spec": {}, "status": {}})
        self.api.put(kinds.CLAIM, {"metadata": {"namespace": "mail", "name": f"data-{DATABASE}-0"}})


def data(api: FakeApi, name: str) -> Any:
    return api.get(kinds.SECRET, "mail", name)["data"]


@pytest.fixture
def api() -> FakeApi:
    made = FakeApi()
    for kind, name, spec in (
        (kinds.MAIL_CLUSTER, "example", {"domains": [{"name": "mail.example"}]}),
        (kinds.MAIL_SERVER, "a", {"clusterRef": {"name": "example"}, "replicas": 2}),
    ):
        metadata = {"namespace": "mail", "name": name}
        made.put(kind, {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata, "spec": spec})
    return made


async def running(api: FakeApi) -> Operator:
    """One that has made both, while servers and the database use them."""
    operator = Operator(api)
    await operator.sees(token=False, database=False)
    await operator.look()
    await operator.sees(token=True, database=True)
    operator.in_use()
    return operator


async def test_what_was_deleted_is_back_as_it_was(api: FakeApi) -> None:
    operator = await running(api)
    for name in (TOKEN, DATABASE):
        before = data(api, name)
        labels = api.get(kinds.SECRET, "mail", name)["metadata"]["labels"]
        api.drop(kinds.SECRET, "mail", name)
        await operator.until(lambda name=name: operator.store.observation(KEY).secrets[name] is None)  # type: ignore[misc]
        observation, told, _ = await operator.look()
        assert data(api, name) == before and observation.secrets[name]
        assert api.get(kinds.SECRET, "mail", name)["metadata"]["labels"] == labels
        assert [(event.type, event.reason) for event in told] == [("Warning", "SecretRestored")] and name in told[
            0
        ].message
    token = base64.b64decode(data(api, TOKEN)["token"]).decode()
    assert operator.secrets.token(KEY) == token and len(token) > 20
    await operator.secrets.close()


async def test_one_that_is_in_use_is_not_made_with_other_contents(api: FakeApi) -> None:
    first = await running(api)
    await first.secrets.close()
    for name in (TOKEN, DATABASE):
        api.drop(kinds.SECRET, "mail", name)
    newer = Operator(api)  # never saw them
    await newer.sees(token=False, database=False)
    said = [(await newer.look())[2] for _ in range(2)]
    assert not [thing for thing in api.objects if thing[0] == kinds.SECRET.name]
    assert said[0].startswith(f"OwnSecretMissing: the Secret {TOKEN}, ") and "with the same token" in said[0]
    api.put(kinds.SECRET, {"metadata": {"namespace": "mail", "name": TOKEN}, "data": {"token": "dG9rZW4="}})
    await newer.sees(token=True, database=False)
    _, _, why = await newer.look()
    assert why.startswith(f"OwnSecretMissing: the Secret {DATABASE}, ") and "same password and url" in why
    assert newer.secrets.token(KEY) == "token"
    await newer.secrets.close()


async def test_without_servers_and_volume_they_are_made(api: FakeApi) -> None:
    first = await running(api)
    await first.secrets.close()
    api.drop(kinds.POD, "mail", "a-0")
    api.drop(kinds.CLAIM, "mail", f"data-{DATABASE}-0")
    before = data(api, TOKEN), data(api, DATABASE)
    for name in (TOKEN, DATABASE):
        api.drop(kinds.SECRET, "mail", name)
    newer = Operator(api)
    await newer.sees(token=False, database=False)
    await newer.look()
    assert (data(api, TOKEN), data(api, DATABASE)) != before
    await newer.secrets.close()


async def test_a_paused_cluster_gets_nothing_back(api: FakeApi) -> None:
    operator = await running(api)
    paused = {"domains": [{"name": "mail.example"}], "paused": True}
    api.put(kinds.MAIL_CLUSTER, {"metadata": {"namespace": "mail", "name": "example"}, "spec": paused})
    api.drop(kinds.SECRET, "mail", TOKEN)
    await operator.sees(token=False, database=True)
    await operator.look()
    assert ("Secret", "mail", TOKEN) not in api.objects
    await operator.secrets.close()

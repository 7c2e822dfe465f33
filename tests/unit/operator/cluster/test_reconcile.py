"""One look: what depends on what is written in that order."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from mailarray_operator.api.configuration import Configuration
from mailarray_operator.cluster import kinds, metrics
from mailarray_operator.cluster.applier import Applier
from mailarray_operator.cluster.client import ApiError
from mailarray_operator.cluster.reconcile import BLOCKED_SECONDS, RETRY_SECONDS, Incomplete, Reconciler
from mailarray_operator.cluster.statuses import Statuses
from mailarray_operator.cluster.store import Store
from mailarray_operator.plan.decisions import Decisions, Event
from mailarray_operator.plan.observation import Observation
from tests.support import plain_planner
from tests.unit.operator.cluster.fake_api import FakeApi, Thing

KEY = ("mail", "example")
CONFIGURATION = Configuration(dataplane_image="d:1", postgresql_image="p:1")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def decide_a_restart(observation: Observation, configuration: Configuration, now: datetime) -> Decisions:
    """Restart a-1, and say so in the status."""
    decisions = plain_planner.decide(observation, configuration, now)
    phase = "Serving" if observation.not_evictable == "a-1" else "Joining"
    server = {"name": "a-1", "phase": phase, "brokenVolumes": [{"name": "a-1.1"}]}
    status: Mapping[str, Any] = {"servers": [server]}
    groups = {name: dataclasses.replace(group, status=status) for name, group in decisions.groups.items()}
    return dataclasses.replace(decisions, groups=groups, restart=None if observation.not_evictable else "a-1")


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
def reconciler(api: FakeApi) -> Reconciler:
    store = Store(lambda key: None)
    api.heard.append(store.take)
    for kind, name, spec in (
        (kinds.MAIL_CLUSTER, "example", {"domains": [{"name": "mail.example"}]}),
        (kinds.MAIL_SERVER, "a", {"clusterRef": {"name": "example"}, "replicas": 2}),
    ):
        metadata = {"namespace": "mail", "name": name}
        api.put(kind, {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata, "spec": spec})
    labels = {"mailarray.io/cluster": "example", "mailarray.io/server-group": "a"}
    ready = {"conditions": [{"type": "Ready", "status": "True"}], "podIP": "127.0.0.1"}
    for name in ("a-0", "a-1"):
        metadata_of_pod = {"namespace": "mail", "name": name, "labels": labels}
        api.put(kinds.POD, {"kind": "Pod", "metadata": metadata_of_pod, "spec": {}, "status": ready})
    for secret in store.wanted_secrets(KEY):
        store.take_secret(("mail", secret), frozenset(), 0, "example")
    return Reconciler(
        configuration=CONFIGURATION,
        decide=decide_a_restart,
        store=store,
        writer=api,
        applier=Applier(store, api),
        statuses=Statuses(store, api),
        secrets=Mock(make=AsyncMock(), restore=AsyncMock(side_effect=lambda observation, writer: (observation, []))),
        pusher=Mock(),
        reporter=Mock(),
        steering=Mock(),
        poster=Mock(post=AsyncMock()),
        clock=lambda: NOW,
    )


async def test_a_restart_comes_after_the_status_that_tells_of_it(api: FakeApi, reconciler: Reconciler) -> None:
    await reconciler.run(KEY)
    assert api.writes[-1] == "evict Pod a-1"
    assert api.writes.index("apply StatefulSet a") < api.writes.index("status MailServer a") < len(api.writes) - 1


async def test_nothing_restarts_while_its_status_cannot_be_written(api: FakeApi, reconciler: Reconciler) -> None:
    def refuse(verb: str, thing: Thing) -> None:
        if verb == "status":
            raise ApiError(500, "InternalError", "not now")

    api.refuse = refuse
    with pytest.raises(Incomplete):
        await reconciler.run(KEY)
    assert not any(write.startswith("evict") for write in api.writes)


async def test_a_status_waits_for_what_the_next_look_applies(api: FakeApi, reconciler: Reconciler) -> None:
    """A StatefulSet that changed meanwhile is not applied; what was decided for it is not said to be done."""
    await reconciler.run(KEY)
    body = api.get(kinds.MAIL_SERVER, "mail", "a")
    body["spec"]["template"] = {"priorityClassName": "high"}
    api.put(kinds.MAIL_SERVER, body)
    body["status"] = {}
    api.put(kinds.MAIL_SERVER, body)
    body = api.get(kinds.MAIL_CLUSTER, "mail", "example")
    body["status"] = {}
    api.put(kinds.MAIL_CLUSTER, body)
    once: list[bool] = []

    def meanwhile(verb: str, thing: Thing) -> None:
        if (verb, thing[0]) == ("apply", "StatefulSet") and not once:
            once.append(True)
            raise ApiError(409, "Conflict", "the object has been modified")

    api.refuse = meanwhile
    api.writes.clear()
    assert await reconciler.run(KEY) == RETRY_SECONDS
    assert once
    assert api.writes == []
    await reconciler.run(KEY)
    assert [write.split()[0] for write in api.writes] == ["apply", "status", "status", "evict"]


async def test_events_do_not_wait_for_each_other(reconciler: Reconciler) -> None:
    both = asyncio.Barrier(2)

    def decide_two_events(observation: Observation, configuration: Configuration, now: datetime) -> Decisions:
        events = tuple(Event("MailServer", "a", "Normal", reason, "It is so.") for reason in ("One", "Two"))
        return dataclasses.replace(plain_planner.decide(observation, configuration, now), events=events)

    async def post(*_: object) -> None:
        await both.wait()

    reconciler.decide = decide_two_events
    reconciler.poster = Mock(post=AsyncMock(side_effect=post))
    async with asyncio.timeout(10):
        await reconciler.run(KEY)
    assert reconciler.poster.post.await_count == 2


async def test_a_status_says_no_restart_that_the_disruption_budget_refuses(
    api: FakeApi, reconciler: Reconciler
) -> None:
    def refuse(verb: str, thing: Thing) -> None:
        if verb == "evict":
            raise ApiError(429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget.")

    def phase() -> str:
        return str(api.get(kinds.MAIL_SERVER, "mail", "a")["status"]["servers"][0]["phase"])

    api.refuse = refuse
    again = await reconciler.run(KEY)
    assert again is not None and again <= BLOCKED_SECONDS
    assert phase() == "Serving" and not any(write.startswith("evict") for write in api.writes)
    api.refuse = lambda verb, thing: None
    await reconciler.run(KEY)
    assert phase() == "Joining" and api.writes[-1] == "evict Pod a-1"


async def test_a_restart_past_the_budget_asks_nobody(api: FakeApi, reconciler: Reconciler) -> None:
    def refuse(verb: str, thing: Thing) -> None:
        if verb == "evict":
            raise ApiError(429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget.")

    def decide_past_it(observation: Observation, configuration: Configuration, now: datetime) -> Decisions:
        return dataclasses.replace(decide_a_restart(observation, configuration, now), past_budget=True)

    api.refuse, reconciler.decide = refuse, decide_past_it
    await reconciler.run(KEY)
    assert api.writes[-1] == "delete Pod a-1" and not any(write.startswith("evict") for write in api.writes)


async def test_servers_are_counted_by_phase_until_their_cluster_is_gone(api: FakeApi, reconciler: Reconciler) -> None:
    def counted() -> dict[str, float]:
        return {s.labels["phase"]: s.value for metric in metrics.SERVERS.collect() for s in metric.samples}

    await reconciler.run(KEY)
    assert {phase: count for phase, count in counted().items() if count} == {"Joining": 1}
    assert counted()["Lost"] == 0  # it is there, so that an alert ends
    assert metrics.VOLUMES_BROKEN.labels(*KEY)._value.get() == 1
    api.drop(kinds.MAIL_SERVER, "mail", "a")
    await reconciler.run(KEY)
    assert not any(counted().values())
    assert metrics.VOLUMES_BROKEN.labels(*KEY)._value.get() == 0
    api.drop(kinds.MAIL_CLUSTER, "mail", "example")
    await reconciler.run(KEY)
    assert counted() == {}

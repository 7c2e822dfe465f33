"""Applying: what is the same is left alone, what somebody else changed is put right, a wish is not lost."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from mailarray_operator.api import names
from mailarray_operator.api.configuration import Configuration
from mailarray_operator.cluster import kinds
from mailarray_operator.cluster.applier import Applier, Failure
from mailarray_operator.cluster.client import ApiError, Json
from mailarray_operator.cluster.pruner import prune, superfluous
from mailarray_operator.cluster.store import Store
from mailarray_operator.render.context import Context
from tests.support.plain_planner import decide
from tests.unit.operator.cluster.fake_api import FakeApi, Thing

CONFIGURATION = Configuration(dataplane_image="d:1", postgresql_image="p:1")
KEY = ("mail", "example")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class World:
    """A store on a fake API server, and one cluster with two groups."""

    def __init__(self) -> None:
        self.api = FakeApi()
        self.store = Store(lambda key: None)
        self.api.heard.append(self.store.take)
        self.now = 0.0
        self.more = False
        self.applier = Applier(self.store, self.api, clock=lambda: self.now)
        self.user("MailCluster", "example", {"domains": [{"name": "mail.example"}]})
        for group in ("a", "b"):
            self.user("MailServer", group, {"clusterRef": {"name": "example"}, "replicas": 2})

    def user(self, kind: str, name: str, spec: dict[str, object]) -> None:
        """`kubectl apply`."""
        body = {
            "apiVersion": names.API_VERSION,
            "kind": kind,
            "metadata": {"namespace": "mail", "name": name},
            "spec": spec,
        }
        self.api.put(next(k for k in kinds.CUSTOM if k.name == kind), body)

    async def run(self) -> list[Failure]:
        """One look; the transcript begins anew."""
        self.api.writes.clear()
        observation = self.store.observation(KEY)
        context = Context.of(observation, CONFIGURATION)
        assert context is not None
        failures, self.more = await self.applier.apply(observation, decide(observation, CONFIGURATION, NOW), context)
        return failures


@pytest.fixture
def world() -> World:
    return World()


async def test_second_run_writes_nothing(world: World) -> None:
    assert await world.run() == []
    assert "apply StatefulSet a" in world.api.writes and "apply StatefulSet b" in world.api.writes
    assert await world.run() == []
    assert world.api.writes == []


async def test_what_pods_mount_comes_before_them(world: World) -> None:
    await world.run()
    writes = [w.split("-settings-")[0] for w in world.api.writes]
    assert writes.index("apply ConfigMap a") < writes.index("apply StatefulSet a")
    assert writes.index("apply ConfigMap example-mirroring-table") < writes.index("apply StatefulSet a")


async def test_another_operator_applies_once_and_changes_nothing(world: World) -> None:
    await world.run()
    versions = {t: o["metadata"]["resourceVersion"] for t, o in world.api.objects.items()}
    world.applier = Applier(world.store, world.api)
    await world.run()
    assert world.api.writes
    assert {t: o["metadata"]["resourceVersion"] for t, o in world.api.objects.items()} == versions
    await world.run()
    assert world.api.writes == []


async def test_one_changed_group_is_one_write(world: World) -> None:
    await world.run()
    world.user(
        "MailServer",
        "a",
        {"clusterRef": {"name": "example"}, "replicas": 2, "template": {"priorityClassName": "high"}},
    )
    await world.run()
    assert world.api.writes == ["apply StatefulSet a"]


async def test_drift_is_put_right(world: World) -> None:
    await world.run()
    changed = world.api.get(kinds.STATEFUL_SET, "mail", "a")
    changed["spec"]["updateStrategy"] = {"type": "RollingUpdate"}
    world.api.put(kinds.STATEFUL_SET, changed)
    await world.run()
    assert world.api.writes == ["apply StatefulSet a"]
    assert world.api.get(kinds.STATEFUL_SET, "mail", "a")["spec"]["updateStrategy"] == {"type": "OnDelete"}


async def test_drift_that_is_heard_of_before_the_answer_is_put_right(world: World) -> None:
    """A watch may tell of another's change before our own apply is answered: that change is not what we left there."""
    once: list[Any] = []

    def change(kind: kinds.Kind, body: Json, there: bool) -> None:
        if kind is kinds.STATEFUL_SET and body["metadata"]["name"] == "a" and not once:
            once.append(True)
            world.api.put(kind, {**body, "spec": {**body["spec"], "updateStrategy": {"type": "RollingUpdate"}}})

    world.api.heard.append(change)
    await world.run()
    assert once
    await world.run()
    assert world.api.writes == ["apply StatefulSet a"]
    await world.run()
    assert world.api.writes == []


async def test_status_of_others_is_no_drift(world: World) -> None:
    await world.run()
    changed = world.api.get(kinds.STATEFUL_SET, "mail", "a")
    changed["status"] = {"readyReplicas": 2, "observedGeneration": 1}
    world.api.put(kinds.STATEFUL_SET, changed)
    await world.run()
    assert world.api.writes == []


async def test_what_is_deleted_comes_back(world: World) -> None:
    await world.run()
    world.api.drop(kinds.DISRUPTION_BUDGET, "mail", names.disruption_budget("example"))
    await world.run()
    assert world.api.writes == ["apply PodDisruptionBudget example-servers"]


async def test_scaling_the_stateful_set_is_a_wish(world: World) -> None:
    await world.run()
    scaled = world.api.get(kinds.STATEFUL_SET, "mail", "a")
    scaled["spec"]["replicas"] = 4
    world.api.put(kinds.STATEFUL_SET, scaled)
    await world.run()
    assert world.api.writes[:2] == ["apply ConfigMap example-mirroring-table", "change MailServer a"]
    assert world.api.get(kinds.MAIL_SERVER, "mail", "a")["spec"]["replicas"] == 4


async def test_a_wish_that_cannot_be_written_is_not_overwritten(world: World) -> None:
    await world.run()
    scaled = world.api.get(kinds.STATEFUL_SET, "mail", "a")
    scaled["spec"]["replicas"] = 4
    world.api.put(kinds.STATEFUL_SET, scaled)

    def refuse(verb: str, thing: Thing) -> None:
        if verb == "change":
            raise ApiError(500, "", "etcd is away")

    world.api.refuse = refuse
    failures = await world.run()
    assert [f.thing for f in failures] == [("MailServer", "mail", "a")]
    assert world.api.get(kinds.STATEFUL_SET, "mail", "a")["spec"]["replicas"] == 4


async def test_a_scaling_in_the_middle_of_a_run_is_not_lost(world: World) -> None:
    """Somebody scales after the decision, before the StatefulSet is applied."""
    await world.run()
    world.user("MailServer", "a", {"clusterRef": {"name": "example"}, "replicas": 2, "storage": {"size": "20Gi"}})
    world.user(
        "MailServer",
        "a",
        {"clusterRef": {"name": "example"}, "replicas": 3, "template": {"priorityClassName": "high"}},
    )
    once: list[Any] = []

    def scale(verb: str, thing: Thing) -> None:
        if thing[0] == "ConfigMap" and not once:
            once.append(True)
            scaled = world.api.get(kinds.STATEFUL_SET, "mail", "a")
            scaled["spec"]["replicas"] = 7
            world.api.put(kinds.STATEFUL_SET, scaled)

    world.api.refuse = scale
    failures = await world.run()
    assert [(f.thing[2], f.quiet) for f in failures] == [("a", True)]
    assert world.api.get(kinds.STATEFUL_SET, "mail", "a")["spec"]["replicas"] == 7


async def test_one_failure_stops_nobody_else_and_backs_off(world: World) -> None:
    def refuse(verb: str, thing: Thing) -> None:
        if thing == ("StatefulSet", "mail", "a"):
            world.api.writes.append("tried")
            raise ApiError(422, "Invalid", "spec: Forbidden")

    world.api.refuse = refuse
    failures = await world.run()
    assert [str(f) for f in failures] == ["StatefulSet a cannot be applied: spec: Forbidden"]
    assert "apply StatefulSet b" in world.api.writes
    assert await world.run() == failures
    assert world.api.writes == []
    world.now = 2.0
    await world.run()
    assert world.api.writes == ["tried"]


async def test_pruning_waits_for_pods_and_age(world: World) -> None:
    await world.run()
    old = next(t for t in world.store.managed if t[2].startswith("a-settings-"))
    world.user("MailCluster", "example", {"domains": [{"name": "other.example"}]})
    pod = {
        "metadata": {"namespace": "mail", "name": "a-0", "uid": "1", "labels": {names.LABEL_GROUP: "a"}},
        "spec": {"volumes": [{"configMap": {"name": old[2]}}]},
    }
    world.store.take(kinds.POD, pod, True)
    await world.run()
    wanted = world.applier.wanted(KEY)
    for managed in list(world.store.managed):
        world.store.managed[managed] = world.store.managed[managed].__class__(
            **{
                **{
                    f: getattr(world.store.managed[managed], f) for f in ("uid", "applied", "owned", "cluster", "group")
                },
                "created": "2026-01-01T00:00:00Z",
            }
        )
    soon, late = datetime(2026, 1, 1, 0, 5, tzinfo=UTC).timestamp(), datetime(2026, 1, 1, 1, tzinfo=UTC).timestamp()
    assert old not in [t for t, _ in superfluous(world.store, KEY, wanted, late)], "a pod refers to it"
    world.store.take(kinds.POD, pod, False)
    assert superfluous(world.store, KEY, wanted, soon) == [], "too young"
    assert old in [t for t, _ in superfluous(world.store, KEY, wanted, late)]
    await prune(world.store, world.api, KEY, wanted, late)
    assert old not in world.api.objects
    assert not [w for w in world.api.writes if w.startswith("delete") and "settings" not in w]


async def test_a_group_that_is_not_rendered_is_not_pruned(world: World) -> None:
    await world.run()
    wanted = world.applier.wanted(KEY)
    del wanted["b"]
    wanted["a"] = set()
    found = {t for t, _ in superfluous(world.store, KEY, wanted, 4e9)}
    assert not [t for t in found if t[2].startswith("b")]
    assert not [t for t in found if t[0] == "StatefulSet"]


async def test_many_groups_are_done_in_turns(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailarray_operator.cluster.applier.GROUPS_A_RUN", 1)
    done = []
    for more in (True, False):
        await world.run()
        assert world.more is more
        done += [w for w in world.api.writes if "StatefulSet" in w and "database" not in w]
    assert sorted(done) == ["apply StatefulSet a", "apply StatefulSet b"]
    await world.run()
    assert world.api.writes == [] and not world.more

"""The store: what has not changed is the same object, what is older is dropped, what has gone is forgotten."""

from __future__ import annotations

from typing import Any

from mailarray_operator.api import names
from mailarray_operator.cluster import kinds
from mailarray_operator.cluster.held import Key
from mailarray_operator.cluster.store import Store

KEY = ("mail", "example")
DOMAINS = {"domains": [{"name": "mail.example"}]}


def body(name: str, spec: dict[str, Any] | None = None, version: int = 1, **metadata: Any) -> dict[str, Any]:
    """An object."""
    meta = {"namespace": "mail", "name": name, "uid": f"uid-{name}", "resourceVersion": str(version), **metadata}
    return {"metadata": meta, "spec": spec or {}}


def pod(name: str, group: str, node: str = "n1", ready: bool = True) -> dict[str, Any]:
    """A server's pod."""
    found = body(name, {"nodeName": node}, labels={names.LABEL_GROUP: group, names.LABEL_CLUSTER: "example"})
    return {**found, "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": str(ready)}]}}


def filled() -> tuple[Store, list[Key]]:
    """One cluster, two groups, a pod each; and who was told."""
    told: list[Key] = []
    store = Store(told.append)
    store.take(kinds.MAIL_CLUSTER, body("example", DOMAINS), True)
    for group in ("a", "b"):
        store.take(kinds.MAIL_SERVER, body(group, {"clusterRef": {"name": "example"}}), True)
        store.take(kinds.POD, pod(f"{group}-0", group), True)
    told.clear()
    return store, told


def test_only_the_changed_group_is_built_anew() -> None:
    store, told = filled()
    before = store.observation(KEY)
    store.take(kinds.POD, pod("a-0", "a", ready=False), True)
    after = store.observation(KEY)
    assert after.groups["b"] is before.groups["b"]
    assert after.groups["a"] is not before.groups["a"] and not after.groups["a"].pods["a-0"].ready
    assert told == [KEY]


def test_what_decisions_do_not_read_is_no_change() -> None:
    store, told = filled()
    heartbeat = pod("a-0", "a")
    heartbeat["status"]["conditions"][0]["lastProbeTime"] = "now"
    store.take(kinds.POD, heartbeat, True)
    assert told == []


def test_an_older_event_is_dropped() -> None:
    store, _ = filled()
    store.take(kinds.MAIL_SERVER, body("a", {"clusterRef": {"name": "example"}, "replicas": 5}, version=9), True)
    store.take(kinds.MAIL_SERVER, body("a", {"clusterRef": {"name": "example"}, "replicas": 1}, version=8), True)
    spec = store.observation(KEY).groups["a"].spec
    assert spec is not None and spec.replicas == 5


def test_another_cluster() -> None:
    store, told = filled()
    store.take(kinds.MAIL_SERVER, body("a", {"clusterRef": {"name": "other"}}, version=2), True)
    assert set(told) == {KEY, ("mail", "other")}
    assert list(store.observation(KEY).groups) == ["b"]
    assert list(store.observation(("mail", "other")).groups) == ["a"]


def test_a_spec_that_cannot_be_read_is_a_sentence() -> None:
    store, _ = filled()
    store.take(kinds.MAIL_SERVER, body("a", {"clusterRef": {"name": "example"}, "replicas": "many"}, version=2), True)
    group = store.observation(KEY).groups["a"]
    assert group.spec is None and group.resource.error.startswith("spec.replicas must be a whole number")


def test_zones_come_from_nodes_whenever_they_come() -> None:
    store, told = filled()
    node = {"metadata": {"name": "n1", "labels": {names.LABEL_ZONE: "eu-1"}}}
    store.take(kinds.NODE, node, True)
    assert store.observation(KEY).groups["a"].pods["a-0"].zone == "eu-1"
    assert KEY in told
    store.take(kinds.POD, pod("a-1", "a"), True)
    assert store.observation(KEY).groups["a"].pods["a-1"].zone == "eu-1"


def test_claims_and_their_class() -> None:
    store, _ = filled()
    claim = body("volume-a-0", {"storageClassName": "fast", "resources": {"requests": {"storage": "10Gi"}}})
    store.take(kinds.CLAIM, claim, True)
    assert store.observation(KEY).groups["a"].claims["a-0"].expandable is None
    store.take(kinds.STORAGE_CLASS, {"metadata": {"name": "fast"}, "allowVolumeExpansion": True}, True)
    known = store.observation(KEY).groups["a"].claims["a-0"]
    assert known.expandable is True and known.requested == 10 << 30 and not known.lost
    store.take(kinds.CLAIM, {**claim, "status": {"phase": "Lost"}}, True)
    known = store.observation(KEY).groups["a"].claims["a-0"]
    assert known.lost and known.capacity == 0


def test_claims_of_further_volumes_belong_to_the_same_group() -> None:
    store, _ = filled()
    store.take(kinds.STORAGE_CLASS, {"metadata": {"name": "fast"}, "allowVolumeExpansion": False}, True)
    claim = body("volume-2-a-0", {"storageClassName": "fast", "resources": {"requests": {"storage": "10Gi"}}})
    store.take(kinds.CLAIM, claim, True)
    assert store.observation(KEY).groups["a"].claims["a-0.2"].expandable is False
    store.take(kinds.STORAGE_CLASS, {"metadata": {"name": "fast"}, "allowVolumeExpansion": True}, True)
    assert store.observation(KEY).groups["a"].claims["a-0.2"].expandable is True
    store.take(kinds.CLAIM, claim, False)
    assert "a-0.2" not in store.observation(KEY).groups["a"].claims


def test_everything_gone_is_nothing_held() -> None:
    store, _ = filled()
    for kind, name in ((kinds.POD, "a-0"), (kinds.POD, "b-0"), (kinds.MAIL_SERVER, "a"), (kinds.MAIL_SERVER, "b")):
        store.take(kind, {"metadata": {"namespace": "mail", "name": name}}, False)
    store.take(kinds.MAIL_CLUSTER, {"metadata": {"namespace": "mail", "name": "example"}}, False)
    assert store.keys() == []
    assert store.sizes() == {"clusters": 0, "groups": 0, "pods": 0, "managed": 0}

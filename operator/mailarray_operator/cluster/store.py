"""What is seen of the world, trimmed as it comes, into what is held of it (`held.py`).

Invariant: an event that is older than what is held is dropped: answers to our own writes come in here too, and a watch
may lag behind them. What no decision reads is no change.
Refuses to decide what a change means: it tells whose MailCluster it is. Fed by watches, handlers, answers and reports.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from mailarray.contract.resources.mailcluster import MailClusterSpec
from mailarray.contract.resources.mailserver import MailServerSpec
from mailarray.contract.resources.mirrorpair import MirrorPairSpec
from mailarray.contract.server_names import group_of, volume_name
from mailarray_operator.api import names
from mailarray_operator.cluster import kinds, trim
from mailarray_operator.cluster.held import Held, Json, Key, Thing
from mailarray_operator.cluster.kinds import Kind
from mailarray_operator.plan.observation import (
    ClusterResource,
    PairResource,
)

MANAGED = (
    kinds.STATEFUL_SET, kinds.DEPLOYMENT, kinds.CONFIG_MAP, kinds.SERVICE, kinds.DISRUPTION_BUDGET,
    kinds.NETWORK_POLICY,
)  # fmt: skip
"""Kinds whose drift is watched."""


class Store(Held):
    """See the module. `changed` is called with the MailCluster that should be looked at again."""

    def __init__(self, changed: Callable[[Key], None], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._changed = changed

    def take(self, kind: Kind, body: Json, there: bool) -> None:
        """An object as it is now, or its deletion."""
        metadata = body["metadata"]
        key = metadata.get("namespace", ""), metadata["name"]
        if not self._newer(kind, key, metadata, there):
            return
        if kind in MANAGED and names.LABEL_CLUSTER in (metadata.get("labels") or {}):
            self._take_managed(kind, key, body, there)
        elif not there:
            self._drop_managed((kind.name, *key))
        taker = self._takers.get(kind.name)
        if taker is not None:
            taker(self, key, body, there)

    def _newer(self, kind: Kind, key: Key, metadata: Json, there: bool) -> bool:
        """Whether this is news; resource versions of one kind can be compared as numbers."""
        thing = (kind.name, *key)
        version = metadata.get("resourceVersion", "")
        if not there:
            self._versions.pop(thing, None)
            return True
        if kind in _ANSWERED and version.isdigit():
            if int(version) < self._versions.get(thing, 0):
                return False
            self._versions[thing] = int(version)
        return True

    def _take_managed(self, kind: Kind, key: Key, body: Json, there: bool) -> None:
        thing = (kind.name, *key)
        if not there:
            self._drop_managed(thing)
            return
        known = trim.managed(body)
        if self.managed.get(thing) != known:
            self.managed[thing] = known
            self._changed((key[0], known.cluster))

    def _drop_managed(self, thing: Thing) -> None:
        known = self.managed.pop(thing, None)
        if known is not None:
            self._changed((thing[1], known.cluster))

    def _take_cluster(self, key: Key, body: Json, there: bool) -> None:
        cluster = self._clusters[key]
        known = ClusterResource(*trim.resource(body, MailClusterSpec)) if there else None
        if known != cluster.resource:
            cluster.resource = known
            self._changed(key)
        self._forget_empty(key)

    def _take_server(self, key: Key, body: Json, there: bool) -> None:
        group = self._groups[key]
        if there:
            resource, spec = trim.resource(body, MailServerSpec)
            group.version = body["metadata"].get("resourceVersion", "")
            name = trim.cluster_of(body)
        else:
            resource, spec, name = None, None, ""
        if (resource, spec, name) == (group.resource, group.spec, group.cluster):
            return
        before = group.cluster
        group.resource, group.spec, group.cluster = resource, spec, name
        if name != before and before:
            self._clusters[key[0], before].groups.discard(key[1])
            self._changed((key[0], before))
        if name:
            self._clusters[key[0], name].groups.add(key[1])
        self._group_changed(key)
        if before:
            self._forget_empty((key[0], before))
        self._forget_empty_group(key)

    def _take_pair(self, key: Key, body: Json, there: bool) -> None:
        before = self._pair_clusters.pop(key, "")
        name = trim.cluster_of(body) if there else ""
        known = PairResource(*trim.resource(body, MirrorPairSpec)) if there else None
        if before and before != name:
            self._clusters[key[0], before].pairs.pop(key[1], None)
            self._changed((key[0], before))
        if name and known is not None:
            self._pair_clusters[key] = name
            pairs = self._clusters[key[0], name].pairs
            if pairs.get(key[1]) != known:
                pairs[key[1]] = known
                self._changed((key[0], name))

    def _take_stateful_set(self, key: Key, body: Json, there: bool) -> None:
        labels = body["metadata"].get("labels") or {}
        mounted = "sts/" + key[1]
        if there:
            template = ((body.get("spec") or {}).get("template") or {}).get("spec") or {}
            self._mounted[key[0], mounted] = trim.config_maps(template)
        else:
            self._mounted.pop((key[0], mounted), None)
        cluster = labels.get(names.LABEL_CLUSTER, "") or key[1].removesuffix(_DATABASE_SUFFIX)
        if key[1] == names.database(cluster):
            ready = (body.get("status") or {}).get("readyReplicas", 0) > 0
            database = (ready, trim.claim_template_size(body)) if there else None
            if self._clusters[key[0], cluster].database != database:
                self._clusters[key[0], cluster].database = database
                self._changed((key[0], cluster))
            self._forget_empty((key[0], cluster))
            return
        group = self._groups[key]
        known = trim.stateful_set(body) if there else None
        if known != group.stateful_set:
            group.stateful_set = known
            self._group_changed(key)
        self._forget_empty_group(key)

    def _take_deployment(self, key: Key, body: Json, there: bool) -> None:
        cluster = (body["metadata"].get("labels") or {}).get(names.LABEL_CLUSTER, "")
        cluster = cluster or key[1].removesuffix(_ACCESS_SUFFIX)  # a deletion found by a list has no labels
        if key[1] != names.access(cluster):
            return
        spec, status = body.get("spec") or {}, body.get("status") or {}
        known = (status.get("readyReplicas", 0), spec.get("replicas", 1)) if there else (0, 0)
        if self._clusters[key[0], cluster].access != known:
            self._clusters[key[0], cluster].access = known
            self._changed((key[0], cluster))
        self._forget_empty((key[0], cluster))

    def _take_pod(self, key: Key, body: Json, there: bool) -> None:
        labels = body["metadata"].get("labels") or {}
        known = trim.pod(body, self._zones) if there else None
        if there:
            self._mounted[key] = trim.config_maps(body.get("spec") or {})
        else:
            self._mounted.pop(key, None)
        cluster = labels.get(names.LABEL_CLUSTER, "")
        if labels.get(names.LABEL_COMPONENT) == names.ACCESS and cluster:
            pods = self._clusters[key[0], cluster].access_pods
            if _put(pods, key[1], known):
                self._changed((key[0], cluster))
            self._forget_empty((key[0], cluster))
            return
        owner = key[0], labels.get(names.LABEL_GROUP, "") or key[1].rpartition("-")[0]
        if names.LABEL_GROUP in labels or owner in self._groups:
            if _put(self._groups[owner].pods, key[1], known):
                self._group_changed(owner)
            self._forget_empty_group(owner)
        if not there:  # a deletion found by a list has no labels
            for where, thing in list(self._clusters.items()):
                if where[0] == key[0] and _put(thing.access_pods, key[1], None):
                    self._changed(where)

    def _take_claim(self, key: Key, body: Json, there: bool) -> None:
        if key[1].startswith(_CLAIM_PREFIX) and key[1].endswith(_CLAIM_SUFFIX):
            of = key[0], key[1].removeprefix(_CLAIM_PREFIX).removesuffix(_CLAIM_SUFFIX)
            if self._clusters[of].database_claimed != there:
                self._clusters[of].database_claimed = there
                self._changed(of)
            self._forget_empty(of)
            return
        volume = volume_name(*names.claimed_by(key[1]))
        owner = key[0], group_of(volume)
        if not owner[1]:
            return
        storage_class = (body.get("spec") or {}).get("storageClassName") or ""
        self._claim_classes[key] = storage_class
        known = trim.claim(body, self._expandable.get(storage_class)) if there else None
        if not there:
            self._claim_classes.pop(key, None)
        if _put(self._groups[owner].claims, volume, known):
            self._group_changed(owner)
        self._forget_empty_group(owner)

    def _take_config_map(self, key: Key, body: Json, there: bool) -> None:
        cluster = (body["metadata"].get("labels") or {}).get(names.LABEL_CLUSTER, "")
        cluster = cluster or key[1].removesuffix(_TABLE_SUFFIX)
        if key[1] == names.mirroring_table(cluster) and (there or (key[0], cluster) in self._clusters):
            known = trim.table(body) if there else None
            if self._clusters[key[0], cluster].table != known:
                self._clusters[key[0], cluster].table = known
                self._changed((key[0], cluster))
            self._forget_empty((key[0], cluster))

    def _take_service(self, key: Key, body: Json, there: bool) -> None:
        known = trim.service_ips(body) if there else ()
        if self._service_ips.get(key, ()) == known:
            return
        if known:
            self._service_ips[key] = known
        else:
            self._service_ips.pop(key, None)
        cluster = (body["metadata"].get("labels") or {}).get(names.LABEL_CLUSTER, "")
        if cluster:
            self._changed((key[0], cluster))

    def _take_node(self, key: Key, body: Json, there: bool) -> None:
        zone = (body["metadata"].get("labels") or {}).get(names.LABEL_ZONE, "") if there else ""
        outside = trim.external_ips(body) if there else ()
        if (self._zones.get(key[1], ""), self._external_ips.get(key[1], ())) == (zone, outside):
            return
        self._zones[key[1]], self._external_ips[key[1]] = zone, outside
        for owner, group in list(self._groups.items()):
            for name, pod in group.pods.items():
                if pod.node == key[1]:
                    group.pods[name] = dataclasses.replace(pod, zone=zone)
                    self._group_changed(owner)

    def _take_storage_class(self, key: Key, body: Json, there: bool) -> None:
        self._expandable[key[1]] = there and bool(body.get("allowVolumeExpansion", False))
        for (namespace, claim), storage_class in list(self._claim_classes.items()):
            volume = volume_name(*names.claimed_by(claim))
            owner = namespace, group_of(volume)
            known = self._groups[owner].claims.get(volume)
            if storage_class == key[1] and known is not None:
                new = dataclasses.replace(known, expandable=self._expandable[key[1]])
                if _put(self._groups[owner].claims, volume, new):
                    self._group_changed(owner)

    def take_secret(self, key: Key, keys: frozenset[str] | None, size: int, cluster: str) -> None:
        """A referenced Secret: its keys, None when it is not there, and how many bytes its values have."""
        if key not in self._secrets or (self._secrets[key], self._secret_bytes[key]) != (keys, size):
            self._secrets[key], self._secret_bytes[key] = keys, size
            self._changed((key[0], cluster))

    def forget_secret(self, key: Key) -> None:
        """Nobody refers to it any more."""
        self._secrets.pop(key, None)
        self._secret_bytes.pop(key, None)

    _takers: Mapping[str, Callable[[Store, Key, Json, bool], None]] = {
        "MailCluster": _take_cluster,
        "MailServer": _take_server,
        "MirrorPair": _take_pair,
        "StatefulSet": _take_stateful_set,
        "Deployment": _take_deployment,
        "Pod": _take_pod,
        "PersistentVolumeClaim": _take_claim,
        "ConfigMap": _take_config_map,
        "Service": _take_service,
        "Node": _take_node,
        "StorageClass": _take_storage_class,
    }

    def _group_changed(self, key: Key) -> None:
        group = self._groups[key]
        group.built = None
        if group.cluster:
            self._changed((key[0], group.cluster))


_DATABASE_SUFFIX, _ACCESS_SUFFIX, _TABLE_SUFFIX = names.database(""), names.access(""), names.mirroring_table("")
_CLAIM_PREFIX, _CLAIM_SUFFIX = f"{names.DATABASE_CLAIM}-", f"{_DATABASE_SUFFIX}-0"
_ANSWERED = (*kinds.CUSTOM, *MANAGED)  # kinds that the operator writes, and hears the answers of


def _put(where: dict[str, Any], name: str, value: object) -> bool:
    """Set or remove; whether that changed anything."""
    if where.get(name) == value:
        return False
    if value is None:
        del where[name]
    else:
        where[name] = value
    return True

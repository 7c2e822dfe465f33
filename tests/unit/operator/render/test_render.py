"""Properties of rendering that golden manifests do not say: what depends on what, what never changes, who owns what."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailarray.contract import mirroring_table, settings
from mailarray.contract.mirroring_ring import ring
from mailarray.contract.mirroring_table import Server
from mailarray.contract.server_names import volume_name
from mailarray.contract.settings import AccessSettings, ServerSettings
from mailarray_operator import render
from mailarray_operator.api import names
from mailarray_operator.plan.decisions import Decisions
from mailarray_operator.plan.observation import Group, Observation, Pod, StatefulSet
from mailarray_operator.render import configmap
from mailarray_operator.render.quantity import quantity
from tests.unit.operator.render.cases import CASES, CONFIGURATION, case


def rendered(name: str) -> list[render.Manifest]:
    return render.manifests(*case(name), CONFIGURATION)


def one(manifests: list[render.Manifest], kind: str, name: str) -> render.Manifest:
    (found,) = [m for m in manifests if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return found


def with_group(observation: Observation, name: str, **changes: Any) -> Observation:
    group = dataclasses.replace(observation.groups[name], **changes)
    return dataclasses.replace(observation, groups={**observation.groups, name: group})


# Equal in, equal out ------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CASES)
def test_rendering_again_gives_the_same_bytes(name: str) -> None:
    assert json.dumps(rendered(name)) == json.dumps(rendered(name))


@pytest.mark.parametrize("name", CASES)
def test_what_a_caller_adds_to_metadata_is_in_no_other_manifest(name: str) -> None:
    observation, decisions = case(name)
    manifests = render.manifests(observation, decisions, CONFIGURATION)
    before = copy.deepcopy(manifests)
    for manifest in manifests:
        manifest["metadata"].setdefault("annotations", {})[names.ANNOTATION_APPLIED] = "hash"
        manifest["metadata"]["labels"]["added"] = "yes"
    assert render.manifests(observation, decisions, CONFIGURATION) == before


@pytest.mark.parametrize("name", CASES)
def test_every_object_is_named_once(name: str) -> None:
    keys = [(m["kind"], m["metadata"]["name"]) for m in rendered(name)]
    assert len(keys) == len(set(keys))


# What a group depends on --------------------------------------------------------------------------
def test_a_group_does_not_depend_on_what_changes_every_second() -> None:
    observation, decisions = case("everything")
    context, group = parts(observation, decisions)
    busy = with_group(
        observation,
        "example-a",
        resource=dataclasses.replace(observation.groups["example-a"].resource, status={"replicas": 3}, generation=9),
        pods={"example-a-0": Pod("example-a-0", "u", "node", "zone", "10.0.0.1", True, False, "revision")},
        stateful_set=StatefulSet(3, 3, "revision"),
    )
    newer = dataclasses.replace(decisions, table=mirroring_table.MirroringTable(2, (), {}), restart="example-a-0")
    assert parts(busy, newer) == (context, group)


def test_manifests_of_one_group_do_not_depend_on_another() -> None:
    observation, decisions = case("everything")
    alone = dataclasses.replace(observation, groups={"example-a": observation.groups["example-a"]})
    assert render.group_manifests(*parts(alone, decisions)) == render.group_manifests(*parts(observation, decisions))


def parts(observation: Observation, decisions: Decisions) -> tuple[render.Context, render.ServerGroup]:
    context = render.Context.of(observation, CONFIGURATION)
    group = render.ServerGroup.of(observation.groups["example-a"], decisions.groups["example-a"])
    assert context is not None
    assert group is not None
    return context, group


# What restarts pods, and what must not ------------------------------------------------------------
_TemplateChange = Callable[[Observation, Decisions], tuple[Observation, Decisions]]


def drains(observation: Observation, decisions: Decisions) -> tuple[Observation, Decisions]:
    decision = dataclasses.replace(decisions.groups["example-a"], replicas=2, drain='{"server":"example-a-2"}')
    return observation, dataclasses.replace(decisions, groups={**decisions.groups, "example-a": decision})


def grows(observation: Observation, decisions: Decisions) -> tuple[Observation, Decisions]:
    spec = observation.groups["example-a"].spec
    assert spec is not None
    storage = dataclasses.replace(spec.storage, size=spec.storage.size * 2)
    existing = StatefulSet(3, 3, "revision", claim_size=spec.storage.size)
    changed = with_group(
        observation, "example-a", spec=dataclasses.replace(spec, storage=storage), stateful_set=existing
    )
    return changed, decisions


def another_table(observation: Observation, decisions: Decisions) -> tuple[Observation, Decisions]:
    return observation, dataclasses.replace(decisions, table=mirroring_table.MirroringTable(7, (), {}))


def more_access(observation: Observation, decisions: Decisions) -> tuple[Observation, Decisions]:
    assert observation.cluster is not None
    spec = observation.cluster.spec
    assert spec is not None
    access = dataclasses.replace(spec.access, replicas=9, hostname="elsewhere.example")
    cluster = dataclasses.replace(observation.cluster, spec=dataclasses.replace(spec, access=access))
    return dataclasses.replace(observation, cluster=cluster), decisions


@pytest.mark.parametrize("change", [drains, grows, another_table, more_access])
def test_servers_do_not_restart_for(change: _TemplateChange) -> None:
    observation, decisions = case("everything")
    before = render.manifests(observation, decisions, CONFIGURATION)
    changed = change(observation, decisions)
    assert changed != (observation, decisions)
    after = render.manifests(*changed, CONFIGURATION)
    old, new = (one(m, "StatefulSet", "example-a")["spec"] for m in (before, after))
    assert new["template"] == old["template"]
    assert new["volumeClaimTemplates"] == old["volumeClaimTemplates"]


def test_other_settings_are_another_configmap_and_template() -> None:
    observation, decisions = case("smallest")
    assert observation.cluster is not None
    spec = observation.cluster.spec
    assert spec is not None
    spec = dataclasses.replace(spec, smtp=dataclasses.replace(spec.smtp, max_recipients=7))
    cluster = dataclasses.replace(observation.cluster, spec=spec)
    before = rendered("smallest")
    after = render.manifests(dataclasses.replace(observation, cluster=cluster), decisions, CONFIGURATION)
    assert mounted(one(before, "StatefulSet", "example-a")) != mounted(one(after, "StatefulSet", "example-a"))
    assert mounted(one(before, "Deployment", "example-access")) == mounted(one(after, "Deployment", "example-access"))


def mounted(workload: render.Manifest) -> str:
    """The settings ConfigMap that the pods of a workload mount."""
    (volume,) = [v for v in workload["spec"]["template"]["spec"]["volumes"] if v["name"] == "settings"]
    return str(volume["configMap"]["name"])


# Settings -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CASES)
def test_settings_can_be_read_by_the_processes(name: str, tmp_path: Path) -> None:
    manifests = rendered(name)
    file = tmp_path / "settings.json"
    for workload in [m for m in manifests if m["kind"] in ("StatefulSet", "Deployment")]:
        if workload["metadata"]["name"] == names.database("example"):
            continue
        data = one(manifests, "ConfigMap", mounted(workload))["data"]
        pod = f"{workload['metadata']['name']}-12"
        if workload["kind"] == "Deployment":
            file.write_text(data[names.FILE_ACCESS], encoding="utf-8")
            assert settings.load(AccessSettings, file, pod).name == pod
        else:
            for number in range(len(data)):
                file.write_text(data[configmap.file_of(number)], encoding="utf-8")
                loaded = settings.load(ServerSettings, file, pod)
                assert loaded.server == volume_name(pod, number)
                assert "12" in loaded.smtp.hostname
                assert loaded.smtp.shared_port == (len(data) > 1)
        for settings_file, text in data.items():
            for path in paths_in(text):
                reached = [
                    any(path == m or path.startswith(f"{m}/") for m in s) for s in mounts(workload, settings_file)
                ]
                assert reached and all(reached), f"{path} is on no volume"


def test_volumes_of_one_server_share_nothing_but_the_smtp_port(tmp_path: Path) -> None:
    data = one(
        rendered("several-volumes"), "ConfigMap", mounted(one(rendered("several-volumes"), "StatefulSet", "example-a"))
    )["data"]
    file = tmp_path / "settings.json"
    loaded = []
    for text in data.values():
        file.write_text(text, encoding="utf-8")
        loaded.append(settings.load(ServerSettings, file, "example-a-1"))
    assert [s.server for s in loaded] == ["example-a-1", "example-a-1.1", "example-a-1.2"]
    assert {s.smtp.listen.port for s in loaded} == {names.PORT_SMTP}
    assert len({s.volume for s in loaded}) == len({s.run_directory for s in loaded}) == 3
    assert len({listen.port for s in loaded for listen in (s.writer, s.sidecar)}) == 6


def test_ports_of_all_the_volumes_that_there_can_be_are_different() -> None:
    ports = [port(n) for n in range(names.MAX_VOLUMES) for port in (names.writer_port, names.sidecar_port)]
    assert len({*ports, names.PORT_SMTP}) == 2 * names.MAX_VOLUMES + 1


def test_claims_are_known_by_their_names() -> None:
    for server, number in (("mail-0", 0), ("mail-0", 1), ("a-1-22", 15)):
        assert names.claimed_by(names.claim(server, number)) == (server, number)
    assert names.claim("mail-0", 1) == "volume-1-mail-0"
    for other in ("volume", "volume-", "data-mail-0", "volume-mail", "volume-0", "volume-1-0"):
        assert names.claimed_by(other) == ("", 0)


def paths_in(text: str) -> list[str]:
    """Every absolute path that a settings file names."""
    found: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for inner in value.values():
                walk(inner)
        elif isinstance(value, str) and value.startswith("/"):
            found.append(value)

    walk(json.loads(text))
    assert len(found) > 3
    return found


def mounts(workload: render.Manifest, settings_file: str) -> list[set[str]]:
    """Mount paths of each container of a workload that reads that settings file."""
    containers = workload["spec"]["template"]["spec"]["containers"]
    reading = [c for c in containers if f"{names.PATH_SETTINGS}/{settings_file}" in c["args"]]
    return [{m["mountPath"] for m in c["volumeMounts"]} for c in reading]


def test_the_table_is_the_one_decided() -> None:
    observation, decisions = case("everything")
    servers = [Server(f"example-a-{n}", f"example-a-{n}:2520", f"example-a-{n}:2510", "zone") for n in range(3)]
    decisions = dataclasses.replace(decisions, table=ring(servers, 12))
    manifests = render.manifests(observation, decisions, CONFIGURATION)
    text = one(manifests, "ConfigMap", names.mirroring_table("example"))["data"][names.FILE_TABLE]
    assert mirroring_table.parse(text) == decisions.table
    assert "\n" not in text


# When nothing, or not everything, is rendered -----------------------------------------------------
def test_nothing_is_rendered_while_paused() -> None:
    observation, decisions = case("smallest")
    assert render.manifests(observation, dataclasses.replace(decisions, render=False), CONFIGURATION) == []


def test_nothing_is_rendered_without_a_readable_cluster() -> None:
    observation, decisions = case("smallest")
    assert observation.cluster is not None
    unreadable = dataclasses.replace(observation.cluster, spec=None)
    for cluster in (None, unreadable):
        assert render.manifests(dataclasses.replace(observation, cluster=cluster), decisions, CONFIGURATION) == []


def test_a_group_that_cannot_be_read_stays_as_it_is_and_holds_up_no_other() -> None:
    observation, decisions = case("everything")
    manifests = render.manifests(with_group(observation, "example-a", spec=None), decisions, CONFIGURATION)
    sets = [m["metadata"]["name"] for m in manifests if m["kind"] == "StatefulSet"]
    assert sets == ["example-catalog-database", "example-b"]


def test_a_group_that_is_not_observed_any_more_is_left_out() -> None:
    observation, decisions = case("everything")
    gone: dict[str, Group] = {"example-b": observation.groups["example-b"]}
    manifests = render.manifests(dataclasses.replace(observation, groups=gone), decisions, CONFIGURATION)
    assert not [m for m in manifests if m["metadata"]["labels"].get(names.LABEL_GROUP) == "example-a"]


def test_without_a_table_pods_wait_for_it() -> None:
    observation, decisions = case("smallest")
    manifests = render.manifests(observation, dataclasses.replace(decisions, table=None), CONFIGURATION)
    assert names.mirroring_table("example") not in [m["metadata"]["name"] for m in manifests]
    assert "StatefulSet" in [m["kind"] for m in manifests]


# Scale and drain ----------------------------------------------------------------------------------
def test_the_operators_own_count_and_the_drain_are_annotations() -> None:
    before = one(rendered("everything"), "StatefulSet", "example-a")
    after = one(render.manifests(*drains(*case("everything")), CONFIGURATION), "StatefulSet", "example-a")
    assert before["spec"]["replicas"] == 3
    assert before["metadata"]["annotations"] == {names.ANNOTATION_REPLICAS: "3"}
    assert after["spec"]["replicas"] == 2
    assert after["metadata"]["annotations"] == {
        names.ANNOTATION_REPLICAS: "2",
        names.ANNOTATION_DRAIN: '{"server":"example-a-2"}',
    }


# Ownership ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CASES)
def test_a_deleted_mailcluster_takes_nothing_that_serving_servers_need(name: str) -> None:
    manifests = rendered(name)
    goes = {
        (m["kind"], m["metadata"]["name"])
        for m in manifests
        for owner in m["metadata"].get("ownerReferences", [])
        if owner["kind"] == "MailCluster"
    }
    assert all("access" in name for _, name in goes), goes
    kept = {(m["kind"], m["metadata"]["name"]) for m in manifests} - goes
    for workload in [m for m in manifests if m["kind"] == "StatefulSet"]:
        for volume in workload["spec"]["template"]["spec"]["volumes"]:
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in kept
        assert ("Service", workload["spec"]["serviceName"]) in kept


# Sizes --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0"), (1000, "1000"), (1024, "1Ki"), (10 << 30, "10Gi"), (3 << 49, "1536Ti"), (1 << 70, "1048576Pi")],
)
def test_quantity(size: int, text: str) -> None:
    assert quantity(size) == text

"""Every pod template fits Kubernetes' restricted pod standard, and stricter: a read-only root, no token, no Services.

The rules are those of https://kubernetes.io/docs/concepts/security/pod-security-standards/ as of Kubernetes 1.36.
"""

from __future__ import annotations

from typing import Any

import pytest

from mailarray_operator import render
from tests.unit.operator.render.cases import CASES, CONFIGURATION, case

ALLOWED_VOLUMES = {"configMap", "emptyDir", "secret", "persistentVolumeClaim", "projected", "downwardAPI"}


def violations(spec: dict[str, Any]) -> list[str]:
    """What a pod's spec does that the standard does not allow."""
    found = [f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC", "hostAliases") if spec.get(key)]
    security = spec.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
        found.append("may run as root")
    if security.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        found.append("has no seccomp profile")
    for volume in spec.get("volumes", []):
        found += [f"volume of type {kind}" for kind in volume.keys() - {"name"} - ALLOWED_VOLUMES]
    for container in spec["containers"] + spec.get("initContainers", []):
        found += [f"{container['name']}: {problem}" for problem in container_violations(container)]
    return found


def container_violations(container: dict[str, Any]) -> list[str]:
    security = container.get("securityContext", {})
    found = []
    if security.get("allowPrivilegeEscalation") is not False:
        found.append("may gain privileges")
    if security.get("privileged") or security.get("runAsNonRoot") is False or security.get("runAsUser") == 0:
        found.append("is privileged")
    if security.get("capabilities") != {"drop": ["ALL"]}:
        found.append("keeps capabilities")
    found += ["has a host port" for port in container.get("ports", []) if port.get("hostPort")]
    return found


def pods(name: str) -> list[tuple[str, dict[str, Any]]]:
    """The pod templates of a case, with their owners' names."""
    specs = [(m["metadata"]["name"], m.get("spec", {})) for m in render.manifests(*case(name), CONFIGURATION)]
    return [(owner, spec["template"]["spec"]) for owner, spec in specs if "template" in spec]


@pytest.mark.parametrize("name", CASES)
def test_restricted(name: str) -> None:
    templates = pods(name)
    assert len(templates) >= 2
    for owner, spec in templates:
        found = violations(spec)
        if name == "host-port":  # asked for, and named as such where it is documented
            found = [problem for problem in found if "host port" not in problem]
        assert not found, owner


@pytest.mark.parametrize("name", CASES)
def test_stricter(name: str) -> None:
    for owner, spec in pods(name):
        assert spec["automountServiceAccountToken"] is False, owner
        assert spec["enableServiceLinks"] is False, owner
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, owner
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert probe in container, owner


def test_every_mount_has_a_volume() -> None:
    for name in CASES:
        for workload in render.manifests(*case(name), CONFIGURATION):
            template = workload.get("spec", {}).get("template")
            if template is None:
                continue
            claims = [c["metadata"]["name"] for c in workload["spec"].get("volumeClaimTemplates", [])]
            volumes = claims + [v["name"] for v in template["spec"]["volumes"]]
            assert len(volumes) == len(set(volumes))
            mounted = [{m["name"] for m in container["volumeMounts"]} for container in template["spec"]["containers"]]
            for each in mounted:  # of the server's volumes its own one alone
                assert len(each & set(claims)) == (1 if claims else 0)
                assert each - set(claims) == set(volumes) - set(claims)
            assert set().union(*mounted) == set(volumes)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"hostNetwork": True}, "hostNetwork is set"),
        ({"securityContext": {}}, "may run as root"),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "volume of type hostPath"),
    ],
)
def test_the_checker_sees(change: dict[str, Any], problem: str) -> None:
    _, spec = pods("smallest")[0]
    assert problem in violations({**spec, **change})

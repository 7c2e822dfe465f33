"""The chart is uninstalled: mail is served on, no finalizer holds anything; what is left is what was asked to stay."""

from __future__ import annotations

import json

import pytest

from mailarray_operator.api import names
from tests.e2e.installation import GROUP, NAMESPACE, RELEASE, Installation

pytestmark = pytest.mark.last
KINDS = "all,configmaps,secrets,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets,leases,pvc"
KUBERNETES_OWN = {"kube-root-ca.crt", "default"}


def objects(installation: Installation) -> list[dict[str, object]]:
    listed = json.loads(installation.array.kubectl("get", KINDS, "-o", "json"))["items"]
    custom = installation.array.get("mailclusters,mailservers,mirrorpairs")["items"]
    return [one for one in [*listed, *custom] if one["metadata"]["name"] not in KUBERNETES_OWN]


def test_nothing_holds_and_mail_is_served_on(installation: Installation) -> None:
    array = installation.array
    assert not [one for one in objects(installation) if _finalizers(one)]
    before = installation.pods()
    array.cluster.helm("uninstall", RELEASE, "-n", NAMESPACE, "--wait")
    assert installation.pods() == before
    said = installation.in_client(
        "swaks", "--server", "example-smtp.mail.svc", "--to", "alice@mail.example", "--from", "b@c.example"
    )
    assert "250 2.0.0 Ok" in said
    assert "mailclusters" in array.cluster.kubectl("get", "crds", "-o", "name"), "the CRDs are kept, so that mail is"


def test_resources_go_without_an_operator_and_leave_their_volumes(installation: Installation) -> None:
    array = installation.array
    array.kubectl("delete", "mailserver", GROUP, "--timeout=30s")
    array.kubectl("delete", "mailcluster", array.name, "--timeout=30s")
    array.wait_for(lambda: not installation.pods(), "the servers go with their MailServer", 90)
    left = {f"{one['kind']}/{one['metadata']['name']}" for one in objects(installation)}  # type: ignore[index]
    print(f"\nleft: {sorted(left)}")
    assert not [one for one in left if one.startswith("Lease/")], "the operator's Lease goes with the release"
    assert {f"PersistentVolumeClaim/{names.claim(names.server(GROUP, i))}" for i in range(3)} <= left
    release = json.loads(array.kubectl("get", KINDS, "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "json"))
    assert not release["items"]
    roles = array.cluster.get("clusterroles,clusterrolebindings", "-l", f"app.kubernetes.io/instance={RELEASE}")
    assert not roles["items"]


def _finalizers(one: dict[str, object]) -> list[str]:
    metadata = one["metadata"]
    assert isinstance(metadata, dict)
    return [f for f in metadata.get("finalizers", []) if not f.startswith("kubernetes.io/")]

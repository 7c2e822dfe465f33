"""The CronJob of examples/backup.yaml against what the operator renders and what the command looks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mailarray.cli import array_reach
from mailarray.cli.backup import backup
from mailarray_operator.api import names
from mailarray_operator.render import pod

EXAMPLES = Path(__file__).parents[3] / "examples"
DOCUMENTS = {d["kind"]: d for d in yaml.safe_load_all((EXAMPLES / "backup.yaml").read_text())}
CLUSTER = next(
    d for d in yaml.safe_load_all((EXAMPLES / "cluster.yaml").read_text()) if d and d["kind"] == "MailCluster"
)
NAME = CLUSTER["metadata"]["name"]


def job() -> dict[str, Any]:
    template: dict[str, Any] = DOCUMENTS["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]
    return template


def test_it_mounts_what_the_operator_makes() -> None:
    volumes = {volume["name"]: volume for volume in job()["spec"]["volumes"]}
    assert volumes["table"]["configMap"]["name"] == names.mirroring_table(NAME)
    assert volumes["internal"]["secret"]["secretName"] == names.internal_secret(NAME)
    assert volumes["catalog"]["secret"]["secretName"] == names.database(NAME)
    assert volumes["catalog"]["secret"]["items"] == [{"key": names.KEY_URL, "path": names.KEY_URL}]
    assert volumes["accounts"]["secret"]["secretName"] == CLUSTER["spec"]["accounts"]["secretRef"]["name"]
    assert all(v["secret"]["defaultMode"] == pod.SECRET_MODE for v in volumes.values() if "secret" in v)
    assert {d["metadata"]["namespace"] for d in DOCUMENTS.values()} == {CLUSTER["metadata"]["namespace"]}


def test_the_command_finds_it_there() -> None:
    (container,) = job()["spec"]["containers"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    folder = container["args"][container["args"].index("--mounts") + 1]
    assert (
        f"{folder}/{array_reach.TABLE}"
        == f"{mounted['table']}/{names.FILE_TABLE}"
        == (f"{names.PATH_TABLE}/{names.FILE_TABLE}")
    )
    assert f"{folder}/{array_reach.TOKEN}" == f"{mounted['internal']}/{names.KEY_TOKEN}"
    assert f"{folder}/{array_reach.CATALOG}" == f"{mounted['catalog']}/{names.KEY_URL}"
    assert f"{folder}/{array_reach.ACCOUNTS}" == f"{mounted['accounts']}/{names.KEY_ACCOUNTS}"
    command, *arguments = container["args"]
    assert command == "backup"
    given = backup.commands["take"].make_context("take", arguments).params
    assert given["target"].startswith("s3://") and given["keep"] and str(given["scratch"]) == mounted["scratch"]
    assert given["copies"] == CLUSTER["spec"]["storage"]["copies"]


def test_it_fits_the_restricted_pod_standard() -> None:
    (container,) = job()["spec"]["containers"]
    assert container["securityContext"] == pod.container_security()
    common = pod.common(0)
    assert job()["spec"]["securityContext"] == {
        key: value for key, value in common["securityContext"].items() if key != "fsGroupChangePolicy"
    }
    assert job()["spec"]["automountServiceAccountToken"] is common["automountServiceAccountToken"] is False


def test_it_is_let_in() -> None:
    policy = DOCUMENTS["NetworkPolicy"]["spec"]
    (rule,) = policy["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": job()["metadata"]["labels"]}}]
    assert {port["port"] for port in rule["ports"]} == {names.PORT_WRITER, names.PORT_SIDECAR, names.PORT_POSTGRESQL}
    (expression,) = policy["podSelector"]["matchExpressions"]
    assert set(expression["values"]) == {names.SERVER, names.DATABASE} and expression["key"] == names.LABEL_COMPONENT
    labels = job()["metadata"]["labels"]
    assert labels[names.LABEL_CLUSTER] == NAME
    assert labels[names.LABEL_COMPONENT] not in (names.SERVER, names.ACCESS, names.DATABASE)  # no Service sends to it

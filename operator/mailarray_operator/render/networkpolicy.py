"""NetworkPolicies: who may connect to what. Golden-tested; only a network plugin that knows them enforces them.

Only the ways in are closed. The ways out stay open: a database or a monitor may be anywhere, DNS is reached
differently in every cluster, and a rule too narrow would stop mail. Kubernetes itself always lets probes in.
Policies add up: whoever scrapes metrics from elsewhere adds one of their own.
"""

from __future__ import annotations

from mailarray_operator.api import names
from mailarray_operator.render.context import Context, Manifest, ServerGroup
from mailarray_operator.render.metadata import metadata, owned_by_cluster, owned_by_group, selector

OPERATOR_LABELS = {"app.kubernetes.io/name": "mailarray-operator"}  # of the operator's pods; the chart sets it


def policies(context: Context) -> list[Manifest]:
    """One for each component. Those of servers and database belong to nobody: servers serve on without a cluster."""
    servers, readers, operator = _pods(context, names.SERVER), _pods(context, names.ACCESS), _operator(context)
    rendered = [
        _policy(
            context,
            names.headless_service(context.name),
            names.SERVER,
            [
                {"ports": _ports(names.PORT_SMTP)},
                {
                    "from": [servers, readers, operator],
                    "ports": _ports(names.PORT_WRITER, names.PORT_SIDECAR),
                },
            ],
        ),
        _policy(
            context,
            names.access(context.name),
            names.ACCESS,
            [
                {"ports": _ports(names.PORT_POP3, names.PORT_POP3S)},
                {"from": [operator], "ports": _ports(names.PORT_ACCESS)},
            ],
            owner=owned_by_cluster(context),
        ),
    ]
    if context.runs_database:
        rendered.append(
            _policy(
                context,
                names.database(context.name),
                names.DATABASE,
                [{"from": [servers, readers], "ports": _ports(names.PORT_POSTGRESQL)}],
            )
        )
    return rendered


def further_volumes(context: Context, group: ServerGroup) -> list[Manifest]:
    """The internal ports of servers with several volumes, beside those that the policy of all servers opens."""
    numbers = range(1, group.spec.storage.volumes)
    if not numbers:
        return []
    among = [_pods(context, names.SERVER), _pods(context, names.ACCESS), _operator(context)]
    ports = _ports(*map(names.writer_port, numbers), *map(names.sidecar_port, numbers))
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(
            context, names.further_volumes(group.name), names.SERVER, group=group, owner=owned_by_group(group)
        ),
        "spec": {
            "podSelector": {"matchLabels": {**selector(context, names.SERVER), names.LABEL_GROUP: group.name}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": among, "ports": ports}],
        },
    }
    return [policy]


def _operator(context: Context) -> Manifest:
    return {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": context.configuration.operator_namespace}},
        "podSelector": {"matchLabels": dict(OPERATOR_LABELS)},
    }


def _policy(
    context: Context, name: str, component: str, ingress: list[Manifest], owner: Manifest | None = None
) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(context, name, component, owner=owner),
        "spec": {
            "podSelector": {"matchLabels": selector(context, component)},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }


def _pods(context: Context, component: str) -> Manifest:
    return {"podSelector": {"matchLabels": selector(context, component)}}


def _ports(*numbers: int) -> list[Manifest]:
    return [{"port": number, "protocol": "TCP"} for number in numbers]

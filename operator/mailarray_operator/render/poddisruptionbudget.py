"""PodDisruptionBudgets: how much a drain of nodes may take at once."""

from __future__ import annotations

from mailarray_operator.api import names
from mailarray_operator.render.context import Context, Manifest
from mailarray_operator.render.metadata import metadata, owned_by_cluster, selector


def servers(context: Context) -> Manifest:
    """One server at a time in the whole cluster, whatever its group: two could be the only holders of a message.

    Also a pod that is not ready counts: it may wait for the very mirror that is away, and hold the other copy itself.
    Belongs to nobody: servers without their MailCluster still hold mail.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(context, names.disruption_budget(context.name), names.SERVER),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector(context, names.SERVER)},
            "unhealthyPodEvictionPolicy": "IfHealthyBudget",
        },
    }


def access(context: Context) -> Manifest:
    """Readers keep all access servers but one. With a single one, its node can still be drained."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(context, names.access(context.name), names.ACCESS, owner=owned_by_cluster(context)),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector(context, names.ACCESS)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }

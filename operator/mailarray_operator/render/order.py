"""What is rendered, in the order in which it is to be applied: first what pods mount and are named by, then pods.

A group's manifests depend on its own ServerGroup and on the Context, and on no other group.
"""

from __future__ import annotations

from mailarray.contract.mirroring_table import MirroringTable
from mailarray_operator.api.configuration import Configuration
from mailarray_operator.plan.decisions import Decisions
from mailarray_operator.plan.observation import Observation
from mailarray_operator.render import (
    configmap,
    deployment,
    networkpolicy,
    poddisruptionbudget,
    service,
    statefulset_database,
    statefulset_server,
)
from mailarray_operator.render.context import Context, Manifest, ServerGroup


def manifests(observation: Observation, decisions: Decisions, configuration: Configuration) -> list[Manifest]:
    """Everything of one MailCluster; empty while it is paused, not there or not readable."""
    context = Context.of(observation, configuration)
    if context is None or not decisions.render:
        return []
    rendered = cluster_manifests(context, decisions.table)
    for name in sorted(decisions.groups.keys() & observation.groups.keys()):
        group = ServerGroup.of(observation.groups[name], decisions.groups[name])
        if group is not None:
            rendered += group_manifests(context, group)
    return rendered


def cluster_manifests(context: Context, table: MirroringTable | None) -> list[Manifest]:
    """What a cluster has once. Without a table its ConfigMap is left out, and pods that start wait for it."""
    rendered = networkpolicy.policies(context)
    rendered += [service.headless(context), service.smtp(context), poddisruptionbudget.servers(context)]
    if context.runs_database:
        rendered += [service.database(context), statefulset_database.database(context)]
    if table is not None:
        rendered.append(configmap.mirroring_table(context, table))
    rendered += [configmap.access_settings(context), service.access(context), poddisruptionbudget.access(context)]
    rendered.append(deployment.access(context))
    return rendered


def group_manifests(context: Context, group: ServerGroup) -> list[Manifest]:
    """What one MailServer has."""
    return [
        configmap.server_settings(context, group),
        *networkpolicy.further_volumes(context, group),
        *service.servers(context, group),
        statefulset_server.servers(context, group),
    ]

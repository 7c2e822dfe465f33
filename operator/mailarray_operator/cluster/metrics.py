"""What the operator measures of itself, and its count of servers. Fed by the loop; read by the port."""

from __future__ import annotations

import contextlib
from collections import Counter as Counted
from collections.abc import Iterable
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

RECONCILE = Histogram(
    "mailarray_operator_reconcile_seconds", "Time of one run: observe, plan, apply.", buckets=_SECONDS
)
REACTION = Histogram(
    "mailarray_operator_reaction_seconds", "From a change that was seen to the end of the run for it.", buckets=_SECONDS
)
FAILURES = Counter("mailarray_operator_failures_total", "Runs that failed and were tried again.")
WRITES = Counter("mailarray_operator_writes_total", "Writes to the API server and to servers.", ["what"])
QUEUE = Gauge("mailarray_operator_queue_depth", "MailClusters that wait or are worked on.")
LEADER = Gauge("mailarray_operator_leader", "1 while this process holds the Lease.")
HELD = Gauge("mailarray_operator_objects", "Objects in memory.", ["what"])
SERVERS_SILENT = Gauge("mailarray_operator_servers_silent", "Servers whose sidecar did not answer when last asked.")
SERVERS = Gauge(
    "mailarray_operator_servers",
    "Servers by phase, as the status of their MailServer says; of the operator that leads.",
    ["namespace", "cluster", "phase"],
)
VOLUMES_BROKEN = Gauge(
    "mailarray_operator_volumes_broken",
    "Volumes that do not work while others of their server do; of the operator that leads.",
    ["namespace", "cluster"],
)
TABLES_BEHIND = Gauge("mailarray_operator_mirroring_tables_behind", "Processes that have not taken the latest table.")

MX_PLAN = Histogram("mailarray_operator_mx_plan_seconds", "Time of one plan of the MX records.", buckets=_SECONDS)
MX_CHANGES = Counter(
    "mailarray_operator_mx_changes_total", "Servers that changed their place in the MX records.", ["reason"]
)
MX_STALE = Gauge(
    "mailarray_operator_mx_stale",
    "1 while no server's load is known, so that the last plan stays.",
    ["namespace", "cluster"],
)
MX_PUBLISHED = Gauge(
    "mailarray_operator_mx_published", "1 while DNS answers the MX records as asked for.", ["namespace", "cluster"]
)

PHASES: Final = ("Joining", "Serving", "Draining", "Drained", "Lost", "Rebuilding")


def count_servers(namespace: str, cluster: str, phases: Iterable[str], broken: int = 0) -> None:
    """All servers of a MailCluster; a phase that nobody is in is 0, so that alerts end. `broken` volumes likewise."""
    counted = Counted(phases)
    VOLUMES_BROKEN.labels(namespace, cluster).set(broken)
    for phase in PHASES:
        SERVERS.labels(namespace, cluster, phase).set(counted[phase])


def forget_servers(namespace: str, cluster: str) -> None:
    """The MailCluster is gone."""
    VOLUMES_BROKEN.remove(namespace, cluster)
    for phase in PHASES:
        SERVERS.remove(namespace, cluster, phase)


def forget_published(namespace: str, cluster: str) -> None:
    """Nobody is asked to publish the MX records of a MailCluster."""
    with contextlib.suppress(KeyError):  # nobody was
        MX_PUBLISHED.remove(namespace, cluster)


def forget_mx(namespace: str, cluster: str) -> None:
    """The MX records of a MailCluster are planned no more."""
    forget_published(namespace, cluster)
    with contextlib.suppress(KeyError):  # nothing was planned yet
        MX_STALE.remove(namespace, cluster)


def forget_all_servers() -> None:
    """Another operator leads."""
    for gauge in (SERVERS, VOLUMES_BROKEN, MX_STALE, MX_PUBLISHED):
        gauge.clear()

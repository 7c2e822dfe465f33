"""What the operator measures of itself. Fed by the loop; read by the port."""

from __future__ import annotations

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
TABLES_BEHIND = Gauge("mailarray_operator_mirroring_tables_behind", "Processes that have not taken the latest table.")

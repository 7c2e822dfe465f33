"""Metrics of the access server."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SESSIONS = Gauge("mailarray_access_sessions", "POP3 sessions that are open")
REFUSED = Counter("mailarray_access_refused_connections_total", "Connections refused by a limit", ["limit"])
LOGINS = Counter("mailarray_access_logins_total", "Login attempts by result", ["result"])
OPENED = Counter("mailarray_access_opened_total", "Mailboxes opened, by where their listing came from", ["source"])
RETRIEVED = Counter("mailarray_access_retrieved_messages_total", "Messages sent whole to clients")
RETRIEVED_BYTES = Counter("mailarray_access_retrieved_bytes_total", "Bytes of message text read for clients")
REPLICA_FAILURES = Counter(
    "mailarray_access_replica_failures_total", "Reads of a replica that did not give the bytes", ["reason"]
)
HEDGES = Counter("mailarray_access_hedges_total", "Reads for which another replica was asked since the first was slow")
FETCH_SECONDS = Histogram(
    "mailarray_access_fetch_seconds",
    "Seconds to read a range of a segment, all replicas tried",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
EXPUNGED = Counter("mailarray_access_expunged_total", "Messages whose deletion was acknowledged by a writer")
EXPUNGE_FAILURES = Counter("mailarray_access_expunge_failures_total", "Sessions whose deletions were not acknowledged")

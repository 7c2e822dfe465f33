"""Prometheus metrics of the SMTP listener.

Messages are counted in a plain `Tally` while they pass and handed to Prometheus by the listener's sweep, since a
counter with a lock for each message costs more than parsing its envelope. Labels are the reasons in replies.py.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge

ACCEPTED = Counter("mailarray_smtp_messages_accepted", "Messages answered with 250 after they were durable")
BYTES = Counter("mailarray_smtp_bytes_accepted", "Bytes of accepted messages, trace lines included")
REFUSED = Counter("mailarray_smtp_refused", "Commands, messages and connections refused", ["reason"])
CONNECTIONS = Counter("mailarray_smtp_connections", "Connections accepted")
TLS_SESSIONS = Counter("mailarray_smtp_tls_sessions", "Sessions that began TLS")
TLS_FAILURES = Counter("mailarray_smtp_tls_failures", "TLS handshakes that failed")
PLACED = Counter(
    "mailarray_placement_messages",
    "Messages that a placement rule fits: here (own group), handed_over, kept (meant for another group, kept here)",
    ["rule", "result"],
)
TAKEN = Counter("mailarray_placement_taken", "Messages that this server keeps for others, which received them")
SESSIONS = Gauge("mailarray_smtp_sessions", "Sessions open now")
LOAD = Gauge("mailarray_load", "How loaded the server is, 0 to 1")
LOAD_PARTS = Gauge("mailarray_load_part", "The parts of the load, each 0 to 1; the largest counts", ["part"])
SHED_SHARE = Gauge("mailarray_smtp_shed_share", "Share of new connections that are told to use another server")
PENDING_BYTES = Gauge("mailarray_smtp_pending_bytes", "Bytes submitted and not yet answered")


class Tally:
    """What happened since the last sweep, and what is under way."""

    __slots__ = ("accepted", "bytes", "connections", "pending", "refused")

    def __init__(self) -> None:
        self.accepted = 0
        self.bytes = 0
        self.connections = 0
        self.refused: dict[str, int] = {}
        self.pending = 0  # bytes submitted to the sink and not yet answered

    def refuse(self, reason: str) -> None:
        """Count one refusal."""
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def flush(self) -> None:
        """Hand everything to Prometheus."""
        ACCEPTED.inc(self.accepted)
        BYTES.inc(self.bytes)
        CONNECTIONS.inc(self.connections)
        for reason, count in self.refused.items():
            REFUSED.labels(reason).inc(count)
        PENDING_BYTES.set(self.pending)
        self.accepted = self.bytes = self.connections = 0
        self.refused.clear()

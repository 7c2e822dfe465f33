"""What the catalog client of one process counts; once a call, never once a message."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

CALLS = Histogram(
    "mailarray_catalog_call_seconds",
    "Time of one call to the catalog database.",
    ["call"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
FAILURES = Counter("mailarray_catalog_failures_total", "Calls that found the catalog database away.", ["call"])
REGISTERED = Counter("mailarray_catalog_registered_messages_total", "Message records registered by this process.")
REFUSED = Counter("mailarray_catalog_registrations_refused_total", "Registrations whose ground was gone.", ["reason"])

"""Metrics of the writer."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

COMMIT_SECONDS = Histogram(
    "mailarray_commit_seconds", "Time until a batch is durable on every member of its segment", buckets=_SECONDS
)
BATCH_RECORDS = Histogram(
    "mailarray_batch_records", "Records in a batch", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
)
MIRROR_SECONDS = Histogram(
    "mailarray_mirror_seconds", "Time until a mirror answered that a batch is durable", ["mirror"], buckets=_SECONDS
)
SEGMENTS_LEFT = Counter("mailarray_segments_left", "Segments that the writer closed or abandoned")
HAND_OVER_SECONDS = Histogram(
    "mailarray_hand_over_seconds", "Time until another server said that it keeps a message", buckets=_SECONDS
)

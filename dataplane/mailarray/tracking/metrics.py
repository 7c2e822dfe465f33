"""Metrics of the catalog sidecar."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

MIRRORED_BYTES = Counter("mailarray_mirrored_bytes", "Bytes of mirror copies made durable on this volume")
REGISTERED_MESSAGES = Counter("mailarray_registered_messages", "Messages registered in the catalog by this sidecar")
REGISTERED_TOMBSTONES = Counter("mailarray_registered_tombstones", "Tombstones registered in the catalog")
REGISTER_SECONDS = Histogram(
    "mailarray_register_seconds",
    "Time of one registration transaction",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)
LAG_BYTES = Gauge("mailarray_catalog_lag_bytes", "Bytes of own segments that are not registered yet")
SEALED = Counter("mailarray_segments_sealed", "Segments whose seal this sidecar proposed and the catalog holds")
SEAL_REFUSED = Counter(
    "mailarray_seals_refused", "Seals below what was acknowledged: a disk lied or a volume was rolled back"
)
COPIES = Counter("mailarray_segments_copied", "Whole segments fetched from other servers, to repair, drain or rebuild")
COPIED_BYTES = Counter("mailarray_copied_bytes", "Bytes of such segments")
SURPLUS = Gauge(
    "mailarray_surplus_segments",
    "Copies too many that this server is to give back; the sum over all servers is how many there are",
)
GIVEN_BACK = Counter("mailarray_surplus_given_back", "Copies too many that were removed from this volume")
GIVEN_BACK_BYTES = Counter("mailarray_surplus_given_back_bytes", "Bytes of such copies")
COMPACTED = Counter("mailarray_segments_compacted", "Segments whose living mail this server wrote into another one")
DROPPED = Counter("mailarray_segments_dropped", "Superseded segments that were removed from this volume")
RECLAIMED_BYTES = Counter("mailarray_reclaimed_bytes", "Bytes of such segments")
DEAD_BYTES = Gauge(
    "mailarray_dead_bytes",
    "Bytes of deleted mail, about, in segments that this server is to compact; each segment is counted by one server",
)
CATALOG_UP = Gauge("mailarray_catalog_up", "1 when the last call to the catalog was answered")
UNSETTLED = Gauge("mailarray_segments_unsettled", "Segments here that are not yet sealed, whole and registered")
UNDER_REPLICATED = Gauge(
    "mailarray_segments_under_replicated",
    "Segments on fewer servers than their copies; each is counted by one server, so that the sum over all is right",
)
IN_ONE_ZONE = Gauge(
    "mailarray_segments_in_one_zone",
    "Segments whose copies are all in one zone, against the mirroring table; each is counted by one server",
)
SCRUBBED_BYTES = Counter("mailarray_scrubbed_bytes", "Bytes of sealed segments read through and checked")
DAMAGED = Counter("mailarray_damages_found", "Damaged stretches of segments found by reading them through")
MENDED = Counter("mailarray_damages_mended", "Damaged stretches mended from another replica")
UNMENDED = Gauge(
    "mailarray_segments_damaged", "Segments here with damage that no other replica that answers could mend, yet"
)
SCRUB_INTERVAL = Gauge(
    "mailarray_scrub_interval_seconds", "Within which everything on this volume is to be read through: scrubInterval"
)
SCRUB_AGE = Gauge(
    "mailarray_scrub_oldest_seconds", "Time since the segment was read that was read through longest ago on this volume"
)
DUPLICATES = Counter(
    "mailarray_duplicates_dropped", "Second deliveries of a message whose sender had not heard the 250, dropped"
)
DUPLICATES_OWED = Gauge("mailarray_duplicates_owed", "Second deliveries that this server has found and not dropped yet")
BYTES_LEFT = Gauge(
    "mailarray_bytes_left", "Bytes that this server has to fetch, to get back, or to see on other servers", ["work"]
)
SECONDS_LEFT = Gauge(
    "mailarray_seconds_left",
    "About how long that takes at the pace of the last two minutes; not there while nobody can know",
    ["work"],
)
DRAINING = Gauge("mailarray_draining", "1 while this server is to be emptied and is not yet")
DRAIN_BYTES_LEFT = Gauge("mailarray_drain_bytes_left", "Bytes that a drain has not proved on other servers yet")

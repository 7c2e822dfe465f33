"""The internal HTTP interface: every path, header and port name in one file.

Who speaks it: a writer to the sidecars of its mirrors (PUT), access servers to sidecars (GET) and to
writers (tombstones), sidecars to sidecars (fence, GET), supervisor and operator to all (status, metrics).
Every request but `HEALTH` and `READY` carries `Authorization: Bearer <token>`.
"""

from __future__ import annotations

# Sidecar (message tracking agent) -----------------------------------------------------------------
VOLUME = "/v1/volume"  # GET: {"volume": hex, "server": name, "stopping": bool, "full": bool}; stopping: also draining
# GET: {"segments": [{"segment": hex, "length": durable bytes offered, "sealed_length": n | null, "own": bool,
#    "replica": bool, "leaving": bool}, ...]}: what is held, for status, repair and the proof at the end of a drain,
#    which does not count what is leaving
SEGMENTS = "/v1/volumes/{volume}/segments"
SEGMENT = "/v1/volumes/{volume}/segments/{segment}"  # PUT ?offset=&acknowledged= ; GET with Range
# POST ?length=L with exactly L bytes: a whole sealed segment that a restore brings; 200 when it is durable here as a
#   repaired copy, also when it was before; 409 not whole or not this segment, 507 no room
COPY = "/v1/volumes/{volume}/segments/{segment}/copy"
# GET ?length=L: whether another one may give back its copy on the word of this one (rule 25): {"stays": bool, "counts":
#    bool, "reason": why it does not stay}; counts: a compacted segment stands for its inputs, as noted here
STAYS = "/v1/volumes/{volume}/segments/{segment}/stays"
FENCE = "/v1/volumes/{volume}/segments/{segment}/fence"  # POST: durable fence, answers length and L
# GET: this volume's records for a mailbox, from the local index, as JSON:
#   {"volume": hex, "messages": [{"placement": "hex.0", "message": hex, "segment": hex, "offset": n, "length": n,
#    "checksum": n, "received_at": n, "members": [hex, ...]}, ...], "tombstones": ["hex.0", ...],
#    "gone": [hex, ...], "named": [hex, ...], "lost": [hex, ...]}: volumes that nobody has to wait for, since all that
#    they held is on `copies` others; those that somebody has to, since segments here name them; and those among them
#    that are lost, and so no server's. 503 while it cannot tell all
MAILBOX = "/v1/mailboxes/{mailbox}"
# POST: read the whole volume through now; answers {"segments": n, "bytes": n}: how much that is
SCRUB = "/v1/scrub"
# POST: [mailbox, ...] -> {"used": {mailbox: bytes | null, ...}}: how full these are (null: not counted yet), those that
#   never had mail left out; 503 while the catalog is away or being told: the asker goes on with what it knows
USAGE = "/v1/usage"
# GET ?revision=: this server's snapshot of the accounts, as JSON lines: {"position": [revision, stamp]}, then any
# number of {"accounts": [[address, hash, quota, enabled, created, false], ...]} and
# {"aliases": [[address, account, false], ...]}, then {"end": true}; 204 when the asker's revision is as new, 503 when
# there is no snapshot
ACCOUNTS = "/v1/accounts"
ACCOUNTS_SECONDS = 30.0  # without a byte, before an answer is given up

# Writer (smtp process) ----------------------------------------------------------------------------
# POST: [{"placement": "hex.0", "message": hex, "mailbox": address}, ...]; 200 when acknowledged as mail is, 503 else
TOMBSTONES = "/v1/tombstones"
WRITER_FENCE = "/v1/writer/segments/{segment}/fence"  # POST: rule 9, the writer answers for its own volume
# PUT: a message that another server received and this one is to keep, as a batch of one record whose segment field
#   holds the message id (docs/placement.md); 200 when acknowledged as mail is, also for a repeated PUT; 400 not such a
#   record or damaged, 409 the id is known with other bytes, 503 not now: the asker keeps it itself
RECORD = "/v1/records/{message}"
# GET: how loaded the server is (docs/load.md), measured within the last second; new keys may come:
#   {"server": name, "load": 0..1, "parts": {"sessions": 0..1, "pending", "commit", "loop", "disk"}, "refusing": text |
#    null, "shedding": 0..1, "accepted_per_second": n, "sessions": n, "max_connections": n, "pending_bytes": n,
#    "pending_limit": n, "commit_seconds": s | null, "disk_free": bytes}
LOAD = "/v1/load"

# All processes ------------------------------------------------------------------------------------
# PUT: the mirroring table as JSON; answers {"generation": n, "taken": bool}: a higher generation is taken, another not
MIRRORING_TABLE = "/v1/mirroring-table"
HEALTH = "/healthz"  # GET without token: 200 when the process lives
# GET without token: 200 when it does its work; else 503 with the reason in one line. A draining writer is not ready.
READY = "/readyz"
STATUS = "/v1/status"  # GET: JSON for `mailarray status`
METRICS = "/metrics"  # GET: Prometheus text format

TOKEN_SCHEME = "Bearer"


def segment_path(volume_hex: str, segment_hex: str) -> str:
    """Path of one segment on one volume."""
    return f"/v1/volumes/{volume_hex}/segments/{segment_hex}"


def fence_path(volume_hex: str, segment_hex: str) -> str:
    """Path that fences one segment on one volume."""
    return f"/v1/volumes/{volume_hex}/segments/{segment_hex}/fence"


def copy_path(volume_hex: str, segment_hex: str, length: int) -> str:
    """Path that brings a whole segment to one volume."""
    return f"/v1/volumes/{volume_hex}/segments/{segment_hex}/copy?length={length}"


def segments_path(volume_hex: str) -> str:
    """Path of the list of segments that a volume holds."""
    return f"/v1/volumes/{volume_hex}/segments"


def writer_fence_path(segment_hex: str) -> str:
    """Path on the writer process that fences one of its own segments."""
    return f"/v1/writer/segments/{segment_hex}/fence"


def record_path(message_hex: str) -> str:
    """Path of a message that is handed over."""
    return f"/v1/records/{message_hex}"


def accounts_path(revision: int) -> str:
    """Path of a server's accounts, for who knows a revision already (-1: none)."""
    return f"{ACCOUNTS}?revision={revision}"


def mailbox_path(mailbox: str) -> str:
    """Path of one mailbox in a sidecar's local index; the address is percent-encoded."""
    from urllib.parse import quote

    return f"/v1/mailboxes/{quote(mailbox, safe='')}"

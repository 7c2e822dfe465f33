"""Every reason of a condition or an event, in one file: programs and alerts match on these words, so they never change.

A reason that is worth an event stands in EVENTS with its type; the others change conditions silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

# Ready
READY: Final = "Ready"
INVALID_SPEC: Final = "InvalidSpec"
SECRET_MISSING: Final = "SecretMissing"
SECRET_KEY_MISSING: Final = "SecretKeyMissing"
OWN_SECRET_MISSING: Final = "OwnSecretMissing"
NO_SERVERS: Final = "NoServers"
TOO_FEW_SERVERS: Final = "TooFewServers"
SERVERS_NOT_READY: Final = "ServersNotReady"
ACCESS_NOT_READY: Final = "AccessNotReady"
DATABASE_NOT_READY: Final = "DatabaseNotReady"
OLDER_SERVERS: Final = "OlderServers"
VOLUMES_LEFT_OUT: Final = "VolumesLeftOut"
# Progressing
STABLE: Final = "Stable"
RESTARTING: Final = "Restarting"
SCALING: Final = "Scaling"
JOINING: Final = "Joining"
# Degraded
AS_EXPECTED: Final = "AsExpected"
SERVER_LOST: Final = "ServerLost"
REBUILDING: Final = "Rebuilding"
UNDER_REPLICATED: Final = "UnderReplicated"
ACCOUNTS_SECRET_LARGE: Final = "AccountsSecretLarge"
# Paused
PAUSED: Final = "Paused"
NOT_PAUSED: Final = "NotPaused"
# SpreadAsAsked
SPREAD: Final = "Spread"
SPREAD_NOT_KNOWN: Final = "SpreadNotKnown"
SPREAD_NOT_POSSIBLE: Final = "SpreadNotPossible"
COPIES_IN_ONE_ZONE: Final = "CopiesInOneZone"
# PlacementAsAsked, which is there only with rules
GROUPS_FOUND: Final = "GroupsFound"
GROUP_MISSING: Final = "GroupMissing"
# Draining
DRAINING: Final = "Draining"
NOT_DRAINING: Final = "NotDraining"
WOULD_LOSE_COPIES: Final = "WouldLoseCopies"
WAITING_FOR_SERVERS: Final = "WaitingForServers"
# ClusterMissing
CLUSTER_MISSING: Final = "ClusterMissing"  # reason of Ready, where the condition ClusterMissing says NotFound
NOT_FOUND: Final = "NotFound"
CLUSTER_FOUND: Final = "ClusterFound"
# VolumesAsAsked
VOLUMES_AS_ASKED: Final = "VolumesAsAsked"
VOLUMES_GROWING: Final = "VolumesGrowing"
VOLUMES_NOT_EXPANDABLE: Final = "VolumesNotExpandable"
# VolumesBroken, which is there only where servers have several volumes; of Degraded too
VOLUME_BROKEN: Final = "VolumeBroken"
VOLUMES_WORK: Final = "VolumesWork"
# DNSPublished
PUBLISHED: Final = "Published"
PUBLISHING: Final = "Publishing"
RECORDS_DIFFER: Final = "RecordsDiffer"
NAME_SERVERS_SILENT: Final = "NameServersSilent"
EXTERNAL_DNS_MISSING: Final = "ExternalDNSMissing"
EXTERNAL_DNS_NOT_READING: Final = "ExternalDNSNotReading"
MX_NOT_HELD: Final = "MXNotHeld"
PUBLISHING_REFUSED: Final = "PublishingRefused"
# MXPlanned
PLANNED: Final = "Planned"
LOADS_UNKNOWN: Final = "LoadsUnknown"
NO_TARGETS: Final = "NoTargets"  # of DNSPublished too
# MirrorPair
SAME_SOURCE: Final = "SameSource"
NOT_OVERLAPPING: Final = "NotOverlapping"
MAIL_SERVER_MISSING: Final = "MailServerMissing"
NO_MIRROR: Final = "NoMirror"
TOO_FEW_CANDIDATES: Final = "TooFewCandidates"
# Events alone
SCALE_TAKEN: Final = "ScaleTaken"
SERVER_RETURNED: Final = "ServerReturned"
SERVER_DRAINING: Final = "ServerDraining"
SERVER_STOPPED: Final = "ServerStopped"
VOLUME_RETURNED: Final = "VolumeReturned"
SERVER_RESTARTED: Final = "ServerRestarted"
MAIL_SERVER_DELETED: Final = "MailServerDeleted"
SECRET_RESTORED: Final = "SecretRestored"

EVENTS: Final[Mapping[str, Literal["Normal", "Warning"]]] = {
    READY: "Normal",
    INVALID_SPEC: "Warning",
    SECRET_MISSING: "Warning",
    SECRET_KEY_MISSING: "Warning",
    OWN_SECRET_MISSING: "Warning",
    TOO_FEW_SERVERS: "Warning",
    DATABASE_NOT_READY: "Warning",
    OLDER_SERVERS: "Warning",
    VOLUMES_LEFT_OUT: "Warning",
    UNDER_REPLICATED: "Warning",
    VOLUME_BROKEN: "Warning",
    ACCOUNTS_SECRET_LARGE: "Warning",
    PAUSED: "Normal",
    SPREAD_NOT_POSSIBLE: "Warning",
    COPIES_IN_ONE_ZONE: "Warning",
    GROUP_MISSING: "Warning",
    WOULD_LOSE_COPIES: "Warning",
    CLUSTER_MISSING: "Warning",
    NOT_FOUND: "Warning",
    VOLUMES_NOT_EXPANDABLE: "Warning",
    RECORDS_DIFFER: "Warning",
    NAME_SERVERS_SILENT: "Warning",
    EXTERNAL_DNS_MISSING: "Warning",
    EXTERNAL_DNS_NOT_READING: "Warning",
    MX_NOT_HELD: "Warning",
    PUBLISHING_REFUSED: "Warning",
    LOADS_UNKNOWN: "Warning",
    SAME_SOURCE: "Warning",
    MAIL_SERVER_MISSING: "Warning",
    NO_MIRROR: "Warning",
    TOO_FEW_CANDIDATES: "Warning",
}

"""Which conditions somebody should look at."""

from __future__ import annotations

import pytest

from mailarray_operator.kubectl.advice import bad
from mailarray_operator.kubectl.array import Condition


@pytest.mark.parametrize(
    ("type_", "status", "reason", "wrong"),
    [
        ("Ready", "True", "Ready", False),
        ("Ready", "False", "ServersNotReady", True),
        ("Ready", "Unknown", "", True),
        ("Progressing", "True", "Restarting", False),
        ("Degraded", "True", "UnderReplicated", True),
        ("Degraded", "False", "AsExpected", False),
        ("SpreadAsAsked", "False", "SpreadNotPossible", True),
        ("VolumesAsAsked", "False", "VolumesGrowing", False),
        ("VolumesAsAsked", "False", "VolumesNotExpandable", True),
        ("Draining", "True", "Draining", False),
        ("Draining", "True", "WaitingForServers", False),
        ("Draining", "False", "WouldLoseCopies", True),
        ("Draining", "True", "WouldLoseCopies", True),
        ("ClusterMissing", "True", "ClusterMissing", True),
        ("Paused", "True", "Paused", False),
        ("DNSPublished", "True", "Published", False),
        ("DNSPublished", "False", "Publishing", False),
        ("DNSPublished", "False", "ExternalDNSMissing", True),
        ("MXPlanned", "False", "LoadsUnknown", True),
        ("OfALaterVersion", "True", "Odd", True),
    ],
)
def test_bad_conditions(type_: str, status: str, reason: str, wrong: bool) -> None:
    assert bad(Condition(type_, status, reason, "")) is wrong

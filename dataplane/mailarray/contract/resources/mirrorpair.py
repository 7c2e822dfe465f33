"""MirrorPair: one row of the mirroring table, for clusters whose default ring will not do."""

from __future__ import annotations

from dataclasses import dataclass

from mailarray.contract.resources.common import NameRef


@dataclass(frozen=True, slots=True)
class Side:
    """All servers of a MailServer."""

    mail_server_ref: NameRef


@dataclass(frozen=True, slots=True)
class MirrorPairSpec:
    """spec of a MirrorPair."""

    cluster_ref: NameRef
    source: Side
    mirrors: tuple[Side, ...]  # classes of candidates, best first

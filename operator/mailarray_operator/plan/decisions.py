"""What shall be, for one MailCluster: the output of `plan.decide`, the input of rendering and of applying."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mailarray.contract.mirroring_table import MirroringTable


@dataclass(frozen=True, slots=True)
class Event:
    """For people: `kubectl describe` shows it."""

    kind: Literal["MailCluster", "MailServer", "MirrorPair"]
    name: str
    type: Literal["Normal", "Warning"]
    reason: str  # CamelCase, one of a fixed set
    message: str  # one sentence


@dataclass(frozen=True, slots=True)
class GroupDecision:
    """One MailServer."""

    replicas: int  # of the StatefulSet; as many Services, when each server has its own
    drain: str  # annotation of the StatefulSet: the drain's persisted state, JSON; "" when nothing drains
    status: Mapping[str, Any]  # of the MailServer, whole
    wish: int | None = None  # to be written to the MailServer's spec.replicas: somebody scaled the StatefulSet


@dataclass(frozen=True, slots=True)
class Growth:
    """A PersistentVolumeClaim that shall ask for more."""

    claim: str
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Decisions:
    """One MailCluster."""

    table: MirroringTable | None
    groups: Mapping[str, GroupDecision]
    cluster_status: Mapping[str, Any] | None  # None: there is no MailCluster
    pair_statuses: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    new_secrets: tuple[str, ...] = ()  # of the operator's own: names of those that are to be made, with new contents
    restart: str | None = None  # the one pod to be deleted now, so that it starts from the new template
    past_budget: bool = False  # of that restart: deleted, not evicted (plan/rolling.py says why)
    growths: tuple[Growth, ...] = ()
    events: tuple[Event, ...] = ()
    render: bool = True  # False while paused, or while the cluster is not there: nothing is applied but status
    look_again: float | None = None  # seconds; something is awaited that no watch tells

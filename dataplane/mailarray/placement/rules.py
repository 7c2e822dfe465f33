"""Which group of servers keeps a message: the first rule that fits. Pure; rules are made ready once.

Invariants: all conditions of one rule must fit, one recipient among several is enough for `domains` and `recipients`,
and what no rule fits stays with the server that received it. A recipient counts by its mailbox and as the sender wrote
it, so a rule may name an alias; addresses are compared in the directory's one spelling.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mailarray.contract.settings import PlacementRule
from mailarray.directory.addresses import canonical_domain, split
from mailarray.model.message import Delivery
from mailarray.placement.urgency import Urgency


@dataclass(frozen=True, slots=True)
class _Ready:
    """A rule with its texts in the spelling that is compared."""

    rule: PlacementRule
    urgency: Urgency | None
    least: int
    most: int | None
    domains: frozenset[str]
    addresses: frozenset[str]


class RuleBook:
    """All rules of a cluster."""

    def __init__(self, rules: Sequence[PlacementRule]) -> None:
        """Raises ValueError for an urgency that is none."""
        self._rules = tuple(_ready(rule) for rule in rules)
        self.needs_urgency = any(rule.urgency is not None for rule in self._rules)
        self._needs_recipients = any(rule.domains or rule.addresses for rule in self._rules)

    def first_fitting(self, size: int, urgency: Urgency, deliveries: Iterable[Delivery]) -> PlacementRule | None:
        """`size` in bytes of the text as it is stored."""
        domains: set[str] = set()
        addresses: set[str] = set()
        if self._needs_recipients:
            for delivery in deliveries:
                for address in (delivery.mailbox, delivery.recipient):
                    local, domain = split(address)
                    domains.add(domain)
                    addresses.add(f"{local}@{domain}")
        for ready in self._rules:
            if (
                (ready.urgency is None or ready.urgency is urgency)
                and ready.least <= size
                and (ready.most is None or size <= ready.most)
                and (not ready.domains or not ready.domains.isdisjoint(domains))
                and (not ready.addresses or not ready.addresses.isdisjoint(addresses))
            ):
                return ready.rule
        return None


def _ready(rule: PlacementRule) -> _Ready:
    when = rule.when
    return _Ready(
        rule,
        None if when.urgency is None else Urgency(when.urgency),
        when.min_size or 0,
        when.max_size,
        frozenset(canonical_domain(domain) for domain in when.domains),
        frozenset("@".join(split(address)) for address in when.recipients),
    )

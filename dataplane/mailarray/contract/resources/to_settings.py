"""From a MailCluster's spec to the parts of settings that do not depend on the launcher."""

from __future__ import annotations

from mailarray.contract.resources.mailcluster import MailClusterSpec
from mailarray.contract.settings import (
    DomainSettings,
    PlacementRule,
    PlacementSettings,
    PlacementWhen,
    SmtpLimits,
    StorageSettings,
)

HAND_OVER_TIMEOUTS = 2  # mirror timeouts: the other server may have to leave one mirror and begin with the next


def smtp_limits(spec: MailClusterSpec, volumes: int = 1) -> SmtpLimits:
    """Limits of the SMTP listener of every server, or of one of its `volumes`: what many clients share is the server's,
    so that each volume's process has its part, rounded up; what one session or transaction may do is not parted."""
    smtp = spec.smtp
    return SmtpLimits(
        max_message_size=smtp.max_message_size,
        max_connections=_part(smtp.max_connections, volumes),
        max_connections_per_address=_part(smtp.max_connections_per_address, volumes),
        max_recipients=smtp.max_recipients,
        max_command_line=smtp.max_command_line,
        max_commands_without_mail=smtp.max_commands_without_mail,
        max_errors=smtp.max_errors,
        idle_timeout=smtp.idle_timeout,
        max_received_headers=smtp.max_received_headers,
        soft_pending_bytes=_part(smtp.soft_pending_bytes, volumes),
        soft_limit_percent=smtp.soft_limit_percent,
    )


def _part(limit: int, volumes: int) -> int:
    return -(-limit // max(1, volumes))


def storage(spec: MailClusterSpec) -> StorageSettings:
    """How every server keeps mail."""
    kept = spec.storage
    return StorageSettings(
        copies=kept.copies,
        on_mirror_loss=kept.on_mirror_loss,
        mirror_timeout=kept.mirror_timeout,
        segment_size=kept.segment_size,
        segment_age=kept.segment_age,
        reserve=kept.reserve,
        copy_rate=kept.copy_rate,
        compact_percent=kept.compact_percent,
        compact_least=kept.compact_least,
        scrub_interval=kept.scrub_interval,
        scrub_rate=kept.scrub_rate,
        duplicate_window=kept.duplicate_window if kept.duplicates == "Drop" else 0.0,
    )


def placement(spec: MailClusterSpec) -> PlacementSettings:
    """Which servers keep a message."""
    rules = tuple(
        PlacementRule(
            name=rule.name,
            when=PlacementWhen(
                urgency=rule.when.urgency,
                min_size=rule.when.min_size,
                max_size=rule.when.max_size,
                domains=rule.when.domains,
                recipients=rule.when.recipients,
            ),
            group=rule.group,
        )
        for rule in spec.placement.rules
    )
    timeout = spec.placement.hand_over_timeout or HAND_OVER_TIMEOUTS * spec.storage.mirror_timeout
    return PlacementSettings(rules=rules, hand_over_timeout=timeout)


def domains(spec: MailClusterSpec) -> tuple[DomainSettings, ...]:
    """The domains, in the order they are written."""
    return tuple(DomainSettings(name=d.name, postmaster=d.postmaster) for d in spec.domains)


def access_hostname(spec: MailClusterSpec) -> str:
    """The access servers' name in the outside world."""
    return spec.access.hostname or f"pop.{spec.domains[0].name}"

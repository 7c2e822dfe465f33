"""`mailarray journal`: a volume read by hand, with no other part running."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from mailarray.journal import inspect
from mailarray.journal.format import FormatError, MessageEntry, TombstonesEntry
from mailarray.journal.scan import Damage
from mailarray.model.ids import MessageId, SegmentId, parse_id

_volume = click.argument("volume", type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.group()
def journal() -> None:
    """Look into a volume (for example data/servers/mail-0/volume) with nothing else running."""


@journal.command()
@_volume
def verify(volume: Path) -> int:
    """Check every checksum; exit code 1 when something is damaged."""
    messages = bad = 0
    for report in inspect.verify(inspect.open_for_reading(volume)):
        survey = report.survey
        messages += survey.messages
        bad += not report.sound
        state = "open" if report.sealed_length is None else f"sealed at {report.sealed_length}"
        notes = [report.trouble] if report.trouble else []
        notes += [f"damaged {damage.start}-{damage.end}: {damage.reason}" for damage in survey.damages]
        if report.missing:
            notes.append(f"{report.missing} bytes below the seal are missing here; the sidecar fetches them")
        if report.sealed_length is None and survey.torn:
            notes.append(f"a torn tail of {survey.file_length - survey.length} bytes, never acknowledged")
        click.echo(f"{report.segment.hex()}  {survey.messages:>8} messages  {survey.length:>12} bytes  {state}")
        for note in notes:
            click.echo(f"    {note}")
    click.echo(f"{messages} messages, {bad} damaged segments")
    return 1 if bad else 0


@journal.command("list")
@_volume
def list_records(volume: Path) -> int:
    """One line for each record: id, time, size, sender, mailboxes."""
    for record in inspect.records(inspect.open_for_reading(volume), _warn):
        entry = record.entry
        time = datetime.fromtimestamp(entry.received_at / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if isinstance(entry, MessageEntry):
            mailboxes = ",".join(delivery.mailbox for delivery in entry.deliveries)
            click.echo(f"{entry.id.hex()}  {time}  {entry.body_length:>9}  <{entry.sender}>  {mailboxes}")
        elif isinstance(entry, TombstonesEntry):
            for tombstone in entry.tombstones:
                click.echo(f"{entry.id.hex()}  {time}  expunged {tombstone.placement}  {tombstone.mailbox}")
        else:
            named = ",".join(segment.hex() for segment in entry.supersedes)
            click.echo(f"{entry.id.hex()}  {time}  stands for {named}")
    return 0


@journal.command()
@_volume
@click.argument("message")
def cat(volume: Path, message: str) -> int:
    """Write one message, found by its id, to standard output."""
    try:
        wanted = MessageId(parse_id(message))
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    opened = inspect.open_for_reading(volume)
    reason = "this volume does not hold that message"
    for record in inspect.find(opened, wanted, _warn):
        try:
            sys.stdout.buffer.write(inspect.read_body(opened, record))
            sys.stdout.buffer.flush()
            return 0
        except FormatError as error:
            reason = str(error)
    raise click.ClickException(f"{reason}; try another server's volume")


@journal.command()
@_volume
@click.argument("target", type=click.Path(path_type=Path))
def export(volume: Path, target: Path) -> int:
    """Write all mail as Maildirs below TARGET; goes on past damage and says what it skipped."""
    done = inspect.export(inspect.open_for_reading(volume), target, _warn, _warn_message)
    click.echo(
        f"{done.messages} messages in {done.deliveries} deliveries written below {target}; "
        f"{done.deleted} expunged left out, {done.damaged} damaged skipped"
    )
    return 1 if done.damaged else 0


def _warn(segment: SegmentId, damage: Damage) -> None:
    click.echo(f"skipped {damage.start}-{damage.end} of segment {segment.hex()}: {damage.reason}", err=True)


def _warn_message(message: MessageId, reason: str) -> None:
    click.echo(f"skipped: {reason}", err=True)

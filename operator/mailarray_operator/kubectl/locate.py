"""`kubectl mailarray locate`: in which mailboxes a message is, and which servers hold it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import click
from rich.text import Text

from mailarray_operator.kubectl import array, drawing
from mailarray_operator.kubectl.asking import in_any, remote
from mailarray_operator.kubectl.targets import kubectl, output_option, target_options

SECONDS = 600.0  # the catalog has no index from a message to its mailboxes, so a large one is read through
_ID = re.compile(r"[0-9a-fA-F]{32}(\.[0-9]{1,5})?")
_INTERNET_MESSAGE_ID = re.compile(r"<?[^<>@\s]+@[^<>@\s]+>?")  # RFC 5322 section 3.6.4
WHICH_ID = (
    "give the 32 hexadecimal digits that the sender heard behind `250 2.0.0 Ok: queued as`, "
    "or the message's UIDL in POP3"
)


@click.command()
@target_options
@click.argument("message_id", metavar="MESSAGE-ID")
@output_option
def locate(message_id: str, output: str) -> int:
    """Show where a message lies. MESSAGE-ID is what its sender heard after `queued as`, or its UIDL in POP3."""
    wanted = message_id.strip()
    if _ID.fullmatch(wanted) is None:
        header = _INTERNET_MESSAGE_ID.fullmatch(wanted) is not None
        what = "is a Message-ID header, which is not indexed" if header else "is not a message id"
        raise click.ClickException(f"{wanted or 'an empty text'} {what}: {WHICH_ID}")
    client = kubectl()
    cluster = array.chosen(client)
    done = in_any(client, cluster.name, remote("locate", wanted, options=["--missing-ok"]), seconds=SECONDS)
    try:
        answer = json.loads(done.said)
    except ValueError:
        raise click.ClickException("the answer is not JSON; try the same again") from None
    if output == "json":
        click.echo(json.dumps(answer, indent=2))
    elif answer.get("message") is None:
        raise click.ClickException(_unknown(wanted, bool(answer.get("catalog_open"))))
    else:
        _draw(answer)
    return 0 if answer.get("message") else 1


def _unknown(wanted: str, catalog_open: bool) -> str:
    if catalog_open:
        return f"no message {wanted}: it was never accepted here, or it was sent to another MailCluster"
    return (
        f"the catalog does not know {wanted}, but it has not heard from all servers since it was rebuilt or restored; "
        "try again later"
    )


def _draw(found: Mapping[str, Any]) -> None:
    console = drawing.console()
    console.print(
        Text.assemble((str(found["message"]), "bold"), f"  received {found.get('received_at', drawing.DASH)}")
    )
    sender = found.get("sender") or "<> (a bounce)"
    console.print(Text(f"  from {sender}, {drawing.size(found.get('size'))}"))
    console.print()
    boxes = drawing.table("  MAILBOX", "UID", "UIDL", right=("UID",))
    for box in found.get("mailboxes") or []:
        boxes.add_row(f"  {box.get('mailbox')}", str(box.get("uid")), str(box.get("uidl")))
    for mailbox in found.get("deleted_from") or []:
        boxes.add_row(f"  {mailbox}", drawing.DASH, Text("deleted", "dim"))
    console.print(boxes)
    console.print()
    places = drawing.table("  SERVER", "VOLUME", "ROLE", "SEGMENT", "OFFSET", "STATE", right=("OFFSET",))
    for place in found.get("places") or []:
        state = "superseded" if place.get("superseded") else "sealed" if place.get("sealed") else "being written"
        for holder in place.get("holders") or []:
            gone = "lost" if holder.get("lost") else "drained" if holder.get("retired") else ""
            shown = Text(f"{state}, volume {gone}", "bold red") if gone else Text(state)
            places.add_row(
                f"  {holder.get('server') or '(unknown)'}", drawing.short(str(holder.get("volume", ""))),
                holder.get("role", ""), str(place.get("segment")), str(place.get("offset")), shown,
            )  # fmt: skip
    console.print(places)
    for place in found.get("places") or []:
        living = sum(not holder.get("lost") and not holder.get("retired") for holder in place.get("holders") or [])
        if living < place.get("copies", 0) and not place.get("superseded"):
            console.print(
                drawing.note(str(place.get("segment")), f"{living} of {place['copies']} copies; it waits for repair"),
                soft_wrap=True,
            )
    if not found.get("catalog_open"):
        console.print(
            drawing.note("catalog", "has not heard from all servers yet; there may be more places"), soft_wrap=True
        )

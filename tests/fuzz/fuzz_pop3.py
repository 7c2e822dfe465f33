"""Fuzz target: the POP3 machine takes any bytes without an exception, without growing, and answers in order.

`one_input` is run by hypothesis in the suite, and by atheris: `python -m tests.fuzz.fuzz_pop3`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from mailarray.access.pop3 import Close, Login, Offer, Pop3Machine, Retrieve, StartTls, Update
from mailarray.access.pop3.commands import MAX_LINE
from mailarray.access.pop3.machine import OUTPUT_HIGH

PIECE = 61  # bytes that arrive at once


@dataclass(frozen=True)
class Item:
    length: int
    uidl: str


def one_input(data: bytes) -> None:
    """Run one session on these bytes; every password ending in an even byte is right."""
    machine = Pop3Machine(Offer("pop.example", starttls=True))
    for start in range(0, len(data), PIECE):
        machine.receive(data[start : start + PIECE])
        while (event := machine.next_event()) is not None:
            if isinstance(event, Login):
                if len(event.password) % 2 == 0:
                    machine.logged_in([Item(n, f"id{n}") for n in range(5)])
                else:
                    machine.login_refused("AUTH", "no")
            elif isinstance(event, Retrieve):
                machine.message_starts(event.index)
                machine.message_chunk(data)
                machine.message_ends()
            elif isinstance(event, StartTls):
                machine.tls_begins()
                machine.tls_started()
            elif isinstance(event, Update):
                machine.updated(True)
            replies = machine.take_output()
            assert replies.startswith((b"+OK", b"-ERR", b"+ ")) or not replies
            assert replies.endswith(b"\r\n") or not replies
            if isinstance(event, Close):
                return
        assert machine.output_due < OUTPUT_HIGH
        machine.take_output()
        assert machine.buffered <= MAX_LINE + PIECE


def main() -> None:
    """Run under atheris."""
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

    atheris.instrument_all()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

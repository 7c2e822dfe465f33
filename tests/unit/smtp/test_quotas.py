"""A mailbox that is full refuses its own recipient, nobody else's, and nobody waits for the answer."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from mailarray.directory.directory import Account, NotFound
from mailarray.model.message import Delivery
from mailarray.smtp import quotas as module
from mailarray.smtp.quotas import Quotas
from mailarray.smtp.replies import LARGER_THAN_QUOTA, MAILBOX_FULL
from tests.unit.smtp.dialog import Peer, run
from tests.unit.smtp.doubles import MemoryDirectory

ANNA, BERT = "anna@mail.example", "bert@mail.example"


class WithQuotas(MemoryDirectory):
    """Anna may keep 1,000 bytes, Bert as many as he likes."""

    def resolve(self, recipient: str) -> Account | NotFound:
        found = super().resolve(recipient)
        return Account(ANNA, 1000) if isinstance(found, Account) and found.address == ANNA else found


def peer(used: Mapping[str, int | None]) -> Peer:
    made = Peer(auto_commit=True)
    made.service.directory = WithQuotas()
    quotas = made.service.quotas
    assert quotas.refusal(ANNA, 1000, 0) is None  # nothing is known yet
    assert quotas.unknown.is_set()
    quotas.learn(quotas.wanted(), used)
    return made


def test_only_the_full_recipient_is_refused() -> None:
    run(
        """
        S: 220 ...
        C: HELO client.example
        S: 250 ...
        C: MAIL FROM:<s@far.example>
        S: 250 2.1.0 Ok
        C: RCPT TO:<anna@mail.example>
        S: 452 4.2.2 Mailbox is full, try again later
        C: RCPT TO:<bert@mail.example>
        S: 250 2.1.5 Ok
        """,
        peer({ANNA: 1000}),
    )


@pytest.mark.parametrize(
    ("used", "size", "reply"),
    [
        (999, 1, "250 2.1.5 Ok"),
        (999, 2, "452 4.2.2 Mailbox is full, try again later"),
        (0, 1000, "250 2.1.5 Ok"),
        (0, 1001, "552 5.2.2 Message is larger than the mailbox may be"),
        (None, 1000, "250 2.1.5 Ok"),
        (None, 1001, "552 5.2.2 Message is larger than the mailbox may be"),
    ],
)
def test_an_announced_size_is_what_must_fit(used: int | None, size: int, reply: str) -> None:
    run(
        f"""
        S: 220 ...
        C: EHLO client.example
        S: 250-...
        S: 250-...
        S: 250-...
        S: 250-...
        S: 250-...
        S: 250-...
        S: 250 ...
        C: MAIL FROM:<s@far.example> SIZE={size}
        S: 250 2.1.0 Ok
        C: RCPT TO:<anna@mail.example>
        S: {reply}
        """,
        peer({ANNA: used}),
    )


def test_many_full_mailboxes_do_not_end_the_session() -> None:
    made = peer({ANNA: 1000})
    made.send(
        b"HELO c\r\nMAIL FROM:<>\r\n" + b"RCPT TO:<anna@mail.example>\r\n" * 90 + b"RCPT TO:<bert@mail.example>\r\n"
    )
    assert made.output.count(b"452 4.2.2") == 90
    assert made.output.endswith(b"250 2.1.5 Ok\r\n")
    assert made.service.tally.refused == {"quota": 90}


def test_what_was_taken_here_counts_before_the_catalog_knows_it() -> None:
    made = peer({ANNA: 0})
    text = b"Subject: x\r\n\r\n" + b"x" * 700 + b"\r\n"
    mail = b"MAIL FROM:<>\r\nRCPT TO:<anna@mail.example>\r\nDATA\r\n" + text + b".\r\n"
    made.send(b"HELO c\r\n" + mail + mail)
    assert made.output.count(b"queued as") == 2  # the second began with room, and did not say how long it is
    made.output = b""
    made.send(mail)
    assert made.output.startswith(b"250 2.1.0 Ok\r\n452 4.2.2")


def test_an_answer_replaces_what_was_counted_here_before_it_was_asked_for() -> None:
    quotas = Quotas()
    quotas.refusal(ANNA, 1000, 0)
    to_anna = [Delivery(ANNA, ANNA)]
    quotas.accepted(to_anna, 300)
    asked = quotas.wanted()
    quotas.accepted(to_anna, 500)  # on its way while the question was
    quotas.learn(asked, {ANNA: 300})
    assert quotas.refusal(ANNA, 1000, 200) is None
    assert quotas.refusal(ANNA, 1000, 201) is MAILBOX_FULL
    assert quotas.refusal(ANNA, 100, 101) is LARGER_THAN_QUOTA


def test_the_last_answer_holds_while_there_is_none() -> None:
    quotas = Quotas()
    quotas.refusal(ANNA, 1000, 0)
    quotas.learn(quotas.wanted(), {ANNA: 1000})
    assert quotas.refusal(ANNA, 1000, 0) is MAILBOX_FULL
    asked = quotas.wanted()
    quotas.want_again(asked)
    assert quotas.refusal(ANNA, 1000, 0) is MAILBOX_FULL
    assert quotas.wanted() == asked == {ANNA: 0}


def test_only_mailboxes_that_mail_came_for_are_asked_for() -> None:
    quotas = Quotas()
    quotas.refusal(ANNA, 1000, 0)
    assert quotas.wanted() == {ANNA: 0}
    assert quotas.wanted(all=False) == {ANNA: 0}  # still unknown
    quotas.learn({ANNA: 0}, {})
    assert quotas.wanted() == {}
    quotas.refusal(ANNA, 1000, 0)
    assert quotas.wanted(all=False) == {}
    assert quotas.wanted() == {ANNA: 0}


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MAILBOXES", 3)
    quotas = Quotas()
    for number in (0, 1, 2, 0, 3):
        quotas.refusal(f"{number}@x", 1000, 0)
    assert set(quotas.wanted()) == {"0@x", "2@x", "3@x"}

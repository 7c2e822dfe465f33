"""The judge: what it calls lost, damaged, duplicated and undead."""

from __future__ import annotations

import pytest

from tests.faults.ledger import Entry, Fate, Ledger

BOX, OTHER = "a@mail.example", "b@mail.example"
TRACE = b"Return-Path: <x@y.example>\r\nReceived: from y.example\r\n by mail.example; now\r\n"


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(1)


def acknowledged(ledger: Ledger, *boxes: str) -> tuple[Entry, bytes]:
    entry, text = ledger.new(boxes or (BOX,))
    ledger.acknowledge(entry)
    return entry, TRACE + text


def test_each_acknowledged_message_once_is_good(ledger: Ledger) -> None:
    texts = [acknowledged(ledger)[1] for _ in range(5)]
    verdict = ledger.judge({BOX: texts})
    assert verdict.good and verdict.acknowledged == 5


def test_one_that_is_missing_is_lost_in_that_mailbox(ledger: Ledger) -> None:
    entry, text = acknowledged(ledger, BOX, OTHER)
    verdict = ledger.judge({BOX: [text], OTHER: []})
    assert verdict.lost == [f"{OTHER}: {entry.name}"] and not verdict.good


def test_one_that_was_not_acknowledged_may_be_there_once_and_not_twice(ledger: Ledger) -> None:
    entry, text = ledger.new((BOX,))
    assert ledger.judge({BOX: []}).good
    assert ledger.judge({BOX: [TRACE + text]}).good
    assert ledger.judge({BOX: [TRACE + text] * 2}).duplicated == [f"{BOX}: {entry.name} x2"]


@pytest.mark.parametrize("harm", [lambda t: t[:-3], lambda t: t.replace(b"\r\n.", b"\r\n"), lambda t: t + b"x\r\n"])
def test_a_text_that_is_not_what_was_sent_is_damaged(ledger: Ledger, harm) -> None:  # type: ignore[no-untyped-def]
    _, text = acknowledged(ledger)
    verdict = ledger.judge({BOX: [harm(text)]})
    assert len(verdict.damaged) == 1 and len(verdict.lost) == 1


def test_a_text_in_another_mailbox_is_damage(ledger: Ledger) -> None:
    _, text = acknowledged(ledger)
    assert len(ledger.judge({BOX: [text], OTHER: [text]}).damaged) == 1


def test_what_was_deleted_with_an_answer_stays_away_and_without_one_may_be_either(ledger: Ledger) -> None:
    entry, text = acknowledged(ledger)
    entry.deleted[BOX] = Fate.UNKNOWN
    assert ledger.judge({BOX: []}).good and ledger.judge({BOX: [text]}).good
    entry.deleted[BOX] = Fate.CONFIRMED
    assert ledger.judge({BOX: []}).good
    assert ledger.judge({BOX: [text]}).undead == [f"{BOX}: {entry.name}"]
    entry.sent_again = True  # then it may be another copy
    verdict = ledger.judge({BOX: [text]})
    assert verdict.duplicated == [f"{BOX}: {entry.name} x2"] and not verdict.undead

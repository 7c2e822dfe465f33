"""What the senders know: every message that was ever sent, and whether its 250 was heard. The judge of a faults run.

A message that got a 250 must be in each of its mailboxes exactly once; one that was sent without a 250 at most
once; one that was deleted with a `+OK` nowhere. Each is known by a header of its own and by its SHA-256.
"""

from __future__ import annotations

import enum
import hashlib
import random
import re
from collections import Counter
from dataclasses import dataclass, field

MARK = b"X-Ledger: "
_MARKED = re.compile(rb"^X-Ledger: (\S+)\r\n", re.MULTILINE)
_TRACE = re.compile(rb"Return-Path: <[^>\r\n]*>\r\n(Received: [^\r\n]*\r\n([ \t][^\r\n]*\r\n)*)")


class Fate(enum.Enum):
    """How an attempt, or a deletion, ended as far as the client knows."""

    UNKNOWN = "no answer, or an error"
    CONFIRMED = "confirmed"


@dataclass(slots=True)
class Entry:
    """One message."""

    name: str
    mailboxes: tuple[str, ...]
    digest: bytes
    fate: Fate = Fate.UNKNOWN
    sent_again: bool = False  # after an attempt without an answer: there may have been several copies for a while
    deleted: dict[str, Fate] = field(default_factory=dict)  # by mailbox: somebody asked for its deletion


@dataclass(slots=True)
class Verdict:
    """What was found against what was promised; every list is empty in a good run."""

    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    undead: list[str] = field(default_factory=list)  # deleted, and there again

    @property
    def good(self) -> bool:
        """Nothing is wrong."""
        return not (self.lost or self.damaged or self.duplicated or self.undead)

    def __str__(self) -> str:
        return (
            f"acknowledged {self.acknowledged}, lost {len(self.lost)}, damaged {len(self.damaged)}, "
            f"duplicated {len(self.duplicated)}, undead {len(self.undead)}"
        )

    def examples(self) -> list[str]:
        """Lines for a person: some of what is wrong."""
        return [
            f"{what}: {line}"
            for what in ("lost", "damaged", "duplicated", "undead")
            for line in getattr(self, what)[:5]
        ]


class Ledger:
    """All messages of a run."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.entries: dict[str, Entry] = {}
        self.acknowledged = 0
        self.deleted = 0
        self.damaged: list[str] = []  # seen by readers while the run went on

    def new(self, mailboxes: tuple[str, ...]) -> tuple[Entry, bytes]:
        """The next message and its text."""
        name = f"{len(self.entries)}-{self._random.randrange(1 << 32):08x}"
        text = _text(name, self._random)
        entry = self.entries[name] = Entry(name, mailboxes, hashlib.sha256(text).digest())
        return entry, text

    def acknowledge(self, entry: Entry) -> None:
        """Its sender heard 250."""
        entry.fate = Fate.CONFIRMED
        self.acknowledged += 1

    def confirmed(self, mailbox: str) -> set[str]:
        """Names of the messages that must be in a mailbox now."""
        return {
            entry.name
            for entry in self.entries.values()
            if entry.fate is Fate.CONFIRMED and mailbox in entry.mailboxes and mailbox not in entry.deleted
        }

    def check_text(self, mailbox: str, text: bytes) -> Entry | None:
        """A text that was read from a mailbox: whose it is; None, and noted, when it is nobody's or damaged."""
        found = _MARKED.search(text)
        entry = self.entries.get(found[1].decode()) if found else None
        if found is None or entry is None or mailbox not in entry.mailboxes:
            self.damaged.append(f"{mailbox}: unknown text that begins {text[:120]!r}")
            return None
        head, sent = text[: found.start()], text[found.start() :]
        if not _TRACE.fullmatch(head) or hashlib.sha256(sent).digest() != entry.digest:
            self.damaged.append(f"{mailbox}: {entry.name} is not what was sent")
            return None
        return entry

    def judge(self, found: dict[str, list[bytes]]) -> Verdict:
        """Whole mailboxes, as read at the end."""
        verdict = Verdict(self.acknowledged)
        for mailbox, texts in found.items():
            self.judge_mailbox(verdict, mailbox, texts)
        verdict.damaged = list(self.damaged)
        return verdict

    def judge_mailbox(self, verdict: Verdict, mailbox: str, texts: list[bytes]) -> None:
        """One whole mailbox, so that not all have to be in memory; `damaged` is added by the caller."""
        seen = Counter(entry.name for text in texts if (entry := self.check_text(mailbox, text)) is not None)
        for name, times in seen.items():
            entry = self.entries[name]
            deleted = entry.deleted.get(mailbox) is Fate.CONFIRMED
            if times > 1 or (deleted and entry.sent_again):  # a reader deleted one of several copies, or the first one
                verdict.duplicated.append(f"{mailbox}: {name} x{times + deleted}")
            elif deleted:
                verdict.undead.append(f"{mailbox}: {name}")
        for entry in self.entries.values():
            gone = mailbox not in entry.mailboxes or mailbox in entry.deleted or seen[entry.name]
            if entry.fate is Fate.CONFIRMED and not gone:
                verdict.lost.append(f"{mailbox}: {entry.name}")


def _text(name: str, source: random.Random) -> bytes:
    """Mostly a few KiB; now and then one that is spooled to disk; lines that begin with dots, and 8-bit octets."""
    size = source.choice((200, 1_000, 2_000, 4_000, 4_000, 20_000)) if source.random() < 0.99 else 400_000
    block = source.randbytes(97).replace(b"\r", b"r").replace(b"\n", b"n").replace(b"\0", b"0")
    lines = [
        MARK + name.encode(),
        b"From: <sender@elsewhere.example>",
        b"Message-ID: <%b@elsewhere.example>" % name.encode(),
        b"Subject: " + name.encode(),
        b"",
        b".",
        b"..",
    ]
    length = 0
    while length < size:
        start = source.randrange(90)
        lines.append(b".%d " % length + block[start:] + block[:start])
        length += 110
    return b"\r\n".join(lines) + b"\r\n"

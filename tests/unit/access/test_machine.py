"""POP3 dialogs on the machine alone: no socket, no mailbox but a list."""

from __future__ import annotations

import base64
import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailarray.access.pop3 import (
    Close,
    Event,
    Flush,
    Login,
    Offer,
    Pop3Machine,
    Retrieve,
    StartTls,
    Update,
)
from mailarray.access.pop3.machine import MAX_ERRORS, OUTPUT_HIGH
from tests.support.pop3_dialog import lines_of

BODIES = (b"Subject: one\r\n\r\nfirst\r\n.second\r\nthird\r\n", b"Subject: two\r\n\r\n", b"")


@dataclass(frozen=True)
class Item:
    length: int
    uidl: str


ITEMS = [Item(len(body), f"id-{i}") for i, body in enumerate(BODIES)]


class Driver:
    """Does what the machine asks for, from constants."""

    def __init__(self, *, starttls: bool = False, plaintext_login: bool = True) -> None:
        self.machine = Pop3Machine(Offer("pop.example", starttls=starttls, plaintext_login=plaintext_login))
        self.events: list[Event] = []
        self.output = bytearray(self.machine.take_output())

    def feed(self, data: bytes) -> None:
        self.machine.receive(data)
        while (event := self.machine.next_event()) is not None:
            self.events.append(event)
            self.answer(event)
            self.output += self.machine.take_output()
            if isinstance(event, Close):
                break
        self.output += self.machine.take_output()

    def answer(self, event: Event) -> None:
        machine = self.machine
        if isinstance(event, Login):
            if (event.login, event.password) == ("ann", "open sesame"):
                machine.logged_in(ITEMS)
            else:
                machine.login_refused("AUTH", "wrong name or password")
        elif isinstance(event, Retrieve):
            machine.message_starts(event.index)
            for byte in BODIES[event.index]:
                if not machine.message_chunk(bytes([byte])):
                    break
            machine.message_ends()
        elif isinstance(event, Update):
            machine.updated(True)
        elif isinstance(event, StartTls):
            machine.receive(b"PASS in clear\r\n")
            machine.tls_begins()
            machine.receive(b"NOOP\r\n")  # may arrive together with the end of the handshake
            machine.tls_started()


def play(transcript: str, **offer: bool) -> Driver:
    driver = Driver(**offer)
    expected = ["+OK pop.example Mailarray POP3 server ready", *lines_of(transcript, "S")]
    driver.feed("".join(line + "\r\n" for line in lines_of(transcript, "C")).encode())
    assert driver.output.decode().split("\r\n")[:-1] == expected
    return driver


LOGIN = """
    C: USER ann
    S: +OK
    C: PASS open sesame
    S: +OK 3 messages (55 octets)
"""

SESSION = (
    LOGIN
    + """
    C: STAT
    S: +OK 3 55
    C: LIST
    S: +OK 3 messages
    S: 1 39
    S: 2 16
    S: 3 0
    S: .
    C: list 2
    S: +OK 2 16
    C: UIDL 1
    S: +OK 1 id-0
    C: RETR 1
    S: +OK 39 octets
    S: Subject: one
    S:
    S: first
    S: ..second
    S: third
    S: .
    C: TOP 1 0
    S: +OK top of message follows
    S: Subject: one
    S:
    S: .
    C: TOP 1 2
    S: +OK top of message follows
    S: Subject: one
    S:
    S: first
    S: ..second
    S: .
    C: RETR 3
    S: +OK 0 octets
    S: .
    C: DELE 1
    S: +OK message 1 deleted
    C: DELE 1
    S: -ERR message 1 is deleted
    C: RETR 1
    S: -ERR message 1 is deleted
    C: STAT
    S: +OK 2 16
    C: UIDL
    S: +OK 2 messages
    S: 2 id-1
    S: 3 id-2
    S: .
    C: RSET
    S: +OK 3 messages (55 octets)
    C: NOOP
    S: +OK
    C: DELE 3
    S: +OK message 3 deleted
    C: DELE 2
    S: +OK message 2 deleted
    C: QUIT
    S: +OK bye
"""
)


def test_a_whole_session() -> None:
    driver = play(SESSION)
    assert driver.events[-2:] == [Update((1, 2)), Close()]


def test_quit_before_login_updates_nothing() -> None:
    driver = play(
        """
        C: QUIT
        S: +OK bye
        """
    )
    assert driver.events == [Close()]


def test_nothing_is_handled_after_quit() -> None:
    driver = play(LOGIN + "C: QUIT\nS: +OK bye\nC: STAT")
    assert [type(e) for e in driver.events] == [Login, Update, Close]


def test_what_is_not_understood() -> None:
    play(
        """
        C: STAT
        S: -ERR not now: log in first
        C: PASS x
        S: -ERR USER first
        C: USER
        S: -ERR USER needs a name
        C: APOP ann c4c9334bac560ecc979e58001b3e22fb
        S: -ERR unknown command
        C:
        S: -ERR unknown command
        C: AUTH CRAM-MD5
        S: -ERR AUTH knows PLAIN only
        C: STLS
        S: -ERR no TLS here
        C: USER ann
        S: +OK
        C: PASS open sesame
        S: +OK 3 messages (55 octets)
        C: USER ann
        S: -ERR not after login
        C: RETR
        S: -ERR not a message number
        C: RETR 0
        S: -ERR no such message, 3 in mailbox
        C: RETR 4
        S: -ERR no such message, 3 in mailbox
        C: RETR -1
        S: -ERR not a message number
        C: RETR 99999999999999999999
        S: -ERR not a message number
        C: TOP 1
        S: -ERR TOP needs a message number and a number of lines
        """
    )


def test_a_refused_login_may_be_tried_again() -> None:
    play(
        """
        C: USER ann
        S: +OK
        C: PASS guess
        S: -ERR [AUTH] wrong name or password
        C: PASS open sesame
        S: -ERR USER first
        """
        + LOGIN
    )


def plain(*parts: str) -> str:
    return base64.b64encode("\0".join(parts).encode()).decode()


@pytest.mark.parametrize("response", [plain("", "ann", "open sesame"), plain("ann", "ann", "open sesame")])
def test_auth_plain(response: str) -> None:
    play(f"C: AUTH PLAIN {response}\nS: +OK 3 messages (55 octets)")
    play(f"C: auth plain\nS: + \nC: {response}\nS: +OK 3 messages (55 octets)")


def test_auth_plain_that_fails() -> None:
    play(
        f"""
        C: AUTH PLAIN
        S: +
        C: *
        S: -ERR cancelled
        C: AUTH PLAIN =
        S: -ERR not a PLAIN response
        C: AUTH PLAIN %%%
        S: -ERR not a PLAIN response
        C: AUTH PLAIN {plain("bob", "ann", "open sesame")}
        S: -ERR [AUTH] nobody logs in for somebody else
        C: AUTH PLAIN {plain("", "ann", "guess")}
        S: -ERR [AUTH] wrong name or password
        """.replace("S: +\n", "S: + \n")  # RFC 5034 section 4: plus, space
    )


def test_capabilities() -> None:
    play(
        """
        C: CAPA
        S: +OK
        S: TOP
        S: UIDL
        S: RESP-CODES
        S: AUTH-RESP-CODE
        S: PIPELINING
        S: EXPIRE NEVER
        S: UTF8 USER
        S: USER
        S: SASL PLAIN
        S: STLS
        S: IMPLEMENTATION Mailarray
        S: .
        """,
        starttls=True,
    )


def test_no_password_in_clear_where_tls_is_wanted() -> None:
    driver = play(
        """
        C: USER ann
        S: -ERR login needs TLS, say STLS first
        C: PASS open sesame
        S: -ERR login needs TLS, say STLS first
        C: AUTH PLAIN AGFubgBvcGVuIHNlc2FtZQ==
        S: -ERR login needs TLS, say STLS first
        C: STLS
        S: +OK begin TLS
        S: -ERR not now: log in first
        """,
        starttls=True,
        plaintext_login=False,
    )
    driver.output.clear()
    driver.feed(b"USER ann\r\nPASS open sesame\r\nCAPA\r\n")
    assert b"STLS" not in driver.output
    assert driver.output.startswith(b"+OK\r\n+OK 3 messages")


def test_what_was_sent_in_clear_behind_stls_is_forgotten() -> None:
    driver = Driver(starttls=True)
    driver.feed(b"USER ann\r\nSTLS\r\nPASS open sesame\r\n")
    driver.feed(b"PASS open sesame\r\n")
    assert [type(e) for e in driver.events] == [StartTls]
    assert driver.output.endswith(b"+OK begin TLS\r\n-ERR not now: log in first\r\n-ERR USER first\r\n")


def test_a_scanner_is_shown_the_door() -> None:
    driver = Driver()
    driver.feed(b"GET / HTTP/1.1\r\n" * 100)
    assert driver.events == [Close()]
    assert driver.output.count(b"-ERR") == MAX_ERRORS


def test_long_lines_are_refused_once_and_cost_no_memory() -> None:
    driver = Driver()
    for _ in range(1000):
        driver.feed(b"x" * 1000)
        assert driver.machine.buffered <= 3048
    driver.feed(b"\r\nCAPA\r\n")
    assert driver.output.decode().split("\r\n")[1:3] == ["-ERR line too long", "+OK"]


def test_output_waits_for_the_client() -> None:
    machine = Pop3Machine(Offer("pop.example"))
    machine.receive(b"USER ann\r\nPASS x\r\n")
    assert isinstance(machine.next_event(), Login)
    machine.logged_in([Item(1, "x" * 60)] * 1000)
    machine.receive(b"UIDL\r\n" * 1000)
    assert machine.next_event() == Flush()
    assert OUTPUT_HIGH <= machine.output_due < 3 * OUTPUT_HIGH
    machine.take_output()
    assert machine.next_event() == Flush()


def test_the_password_is_not_in_the_event_s_repr() -> None:
    assert "sesame" not in repr(Login("ann", "open sesame"))


WIRE = "".join(line + "\r\n" for line in lines_of(SESSION, "C")).encode()


def test_every_split_gives_the_same_answers() -> None:
    whole = Driver()
    whole.feed(WIRE)
    for cut in range(len(WIRE)):
        parts = Driver()
        parts.feed(WIRE[:cut])
        parts.feed(WIRE[cut:])
        assert (parts.output, parts.events) == (whole.output, whole.events)


@given(st.lists(st.integers(0, len(WIRE)), max_size=20))
def test_many_splits_give_the_same_answers(cuts: list[int]) -> None:
    whole, parts = Driver(), Driver()
    whole.feed(WIRE)
    edges = [0, *sorted(cuts), len(WIRE)]
    for start, end in itertools.pairwise(edges):
        parts.feed(WIRE[start:end])
    assert (parts.output, parts.events) == (whole.output, whole.events)

"""The POP3 fuzz target, run by hypothesis."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.fuzz_pop3 import one_input

VERBS = b"USER PASS AUTH STAT LIST RETR DELE NOOP RSET QUIT TOP UIDL CAPA STLS UTF8".split()
WORD = st.one_of(
    st.sampled_from(VERBS),
    st.sampled_from([b"1", b"5", b"6", b"0", b"PLAIN", b"=", b"*", b"\xff"]),
    st.binary(max_size=9),
)
LINE = st.tuples(st.lists(WORD, max_size=4).map(b" ".join), st.sampled_from([b"\r\n", b"\n", b"\r", b""])).map(b"".join)


@given(st.lists(LINE, max_size=40).map(b"".join))
def test_commands(data: bytes) -> None:
    one_input(data)


@given(st.lists(LINE, max_size=40).map(b"".join))
def test_commands_after_login(data: bytes) -> None:
    one_input(b"USER ann\r\nPASS even\r\n" + data)


@given(st.binary(max_size=5000))
def test_bytes(data: bytes) -> None:
    one_input(data)

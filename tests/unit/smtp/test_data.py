"""The DATA reader against a slow one that looks at one line end after another; smuggling, at every cut."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailarray.smtp.data import ChunkReader, DataReader, HopCounter, Smuggling
from tests.fuzz.fuzz_smtp import one_input
from tests.unit.smtp.dialog import HELLO, Peer, run
from tests.unit.smtp.doubles import content_of

PREFIX = b"Received: x\r\n"


def read(pieces: list[bytes]) -> tuple[bytes, bytes] | str:
    """Text and rest, "open" or "smuggling"."""
    reader = DataReader(PREFIX)
    text = b""
    for number, piece in enumerate(pieces):
        try:
            more, rest = reader.feed(piece)
        except Smuggling:
            return "smuggling"
        assert rest is not None or len(reader._tail) <= 4
        text += more
        if rest is not None:
            assert text.startswith(PREFIX)
            return text[len(PREFIX) :], rest + b"".join(pieces[number + 1 :])
    return "open"


def oracle(data: bytes) -> tuple[bytes, bytes] | str:
    """The same by the letter: cut into line ends and what is between, then look at each line."""
    text = b""
    start = b"\r\n"
    position = 0
    while True:
        match = re.compile(rb"\r\n|\n|\r(?=[^\n])").search(data, position)
        if match is None:
            line = data[position:]
            return "smuggling" if line == b".\r" and start != b"\r\n" else "open"
        line, end = data[position : match.start()], match[0]
        position = match.end()
        if line == b".":
            if start == end == b"\r\n":
                return text, data[position:]
            return "smuggling"
        if line.startswith(b".") and start == b"\r\n":
            line = line[1:]
        text += line + end
        start = end


ALPHABET = [b"\r", b"\n", b".", b"a", b"\r\n", b"\r\n.", b"\r\n.\r\n", b"\x00", b"b" * 9000]


@settings(max_examples=600, deadline=None)
@given(st.lists(st.sampled_from(ALPHABET), max_size=30), st.data())
def test_reader_agrees_with_the_oracle_at_any_cuts(words: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(words)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    pieces = [wire[a:b] for a, b in itertools.pairwise([0, *cuts, len(wire)])]
    assert read(pieces) == oracle(wire)


def test_all_short_texts_at_all_single_cuts() -> None:
    for length in range(7):
        for letters in itertools.product(b"\r\n.a", repeat=length):
            wire = bytes(letters)
            due = oracle(wire)
            assert read([wire]) == due, wire
            for cut in range(1, length):
                assert read([wire[:cut], wire[cut:]]) == due, (wire, cut)
            assert read([wire[i : i + 1] for i in range(length)]) == due, wire


SMUGGLERS = [
    start + b"." + end for start in (b"\r\n", b"\n", b"\r") for end in (b"\r\n", b"\n", b"\r", b"\r\r", b"\r\x00")
]
SMUGGLERS.remove(b"\r\n.\r\n")


@pytest.mark.parametrize("smuggler", SMUGGLERS, ids=repr)
def test_smuggled_commands_are_never_run(smuggler: bytes) -> None:
    wire = b"first" + smuggler + b"MAIL FROM:<evil@example.org>\r\nRCPT TO:<anna@mail.example>\r\nDATA\r\nx\r\n.\r\n"
    for cut in range(len(wire)):
        peer = Peer()
        peer.send(b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<anna@mail.example>\r\nDATA\r\n")
        peer.output = b""
        peer.send(wire[:cut])
        peer.send(wire[cut:])
        run("S: 550 5.5.2 A line of one dot must begin and end with <CR><LF>\n! close", peer)
        assert not peer.sink.messages and peer.sink.open_writers == 0
    with pytest.raises(Smuggling):  # and in chunks
        chunks = ChunkReader(b"")
        chunks.expect(len(wire))
        chunks.feed(wire)


@given(st.lists(st.sampled_from(ALPHABET), max_size=20), st.data())
@settings(max_examples=300, deadline=None)
def test_chunks_keep_every_byte(words: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(words)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))

    def chunked(pieces: list[bytes]) -> bytes | None:
        reader = ChunkReader(PREFIX)
        text = b""
        try:
            for piece in pieces:
                reader.expect(len(piece))
                more, rest = reader.feed(piece + b"NOOP")
                assert rest == b"NOOP" and len(reader._tail) <= max(4, len(PREFIX))
                text += more
            return text + reader.finish()
        except Smuggling:
            return None

    text = chunked([wire[a:b] for a, b in itertools.pairwise([0, *cuts, len(wire)])])
    ambiguous = re.search(rb"(?<!\r)\n\.[\r\n]|\r\.[\r\n]|\r\n\.\n|\r\n\.\r(?!\n)", PREFIX + wire)
    assert text == (None if ambiguous else PREFIX + wire)


@pytest.mark.parametrize(
    "text", [b"a\nb\r\n", b"a\rb\r\n", b"\x00\x00\r\n", b"\n..\r\n", b"\n.x\r\n", b"a" * 100_000 + b"\r\n", b"\xff\r\n"]
)
def test_odd_bytes_are_kept(text: bytes) -> None:
    assert read([text + b".\r\nQUIT"]) == (text, b"QUIT")


@given(
    st.lists(st.sampled_from([b"Received: a\r\n", b"RECEIVED: b\r\n", b"X: Received: c\r\n", b" d\r\n"]), max_size=9)
)
def test_hops_are_counted_once_at_any_cut(lines: list[bytes]) -> None:
    text = b"\r\n" + b"".join(lines) + b"\r\nReceived: not this\r\n"
    due = sum(line[:9].lower() == b"received:" for line in lines)
    for cut in range(len(text)):
        counter = HopCounter()
        if counter.feed(text[:cut]):
            counter.feed(text[cut:])
        assert counter.hops == due
    counter = HopCounter()
    for byte in text:
        if not counter.feed(bytes([byte])):
            break
    assert counter.hops == due


DIALOG = (
    b"EHLO client.example\r\nMAIL FROM:<a@b.example> SIZE=99\r\nRCPT TO:<anna@mail.example>\r\nFOO\r\n"
    b"DATA\r\nSubject: x\r\n\r\n..\r\n.dot\r\nbare\nlf\r\n.\r\nRSET\r\nMAIL FROM:<>\r\nRCPT TO:<bert@mail.example>\r\n"
    b"BDAT 5\r\nab\r\n.BDAT 3 LAST\r\nxyzRCPT TO:<>\r\n" + b"y" * 2100 + b"\r\nbare\nNOOP\r\nQUIT\r\nNOOP\r\n"
)


def play(pieces: list[bytes]) -> tuple[bytes, list[bytes], bool]:
    peer = Peer(auto_commit=True)
    for piece in pieces:
        peer.send(piece)
        assert len(peer.session._held) <= 2048
    return peer.output, [content_of(message) for message in peer.sink.messages], peer.closed


def test_a_dialog_cut_anywhere_is_the_same_dialog() -> None:
    whole = play([DIALOG])
    assert whole[1] == [b"Subject: x\r\n\r\n.\r\ndot\r\nbare\nlf\r\n", b"ab\r\n.xyz"] and whole[2]
    for cut in range(1, len(DIALOG)):
        assert play([DIALOG[:cut], DIALOG[cut:]]) == whole, cut
    for size in (1, 2, 3, 7):
        assert play([DIALOG[i : i + size] for i in range(0, len(DIALOG), size)]) == whole, size


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(DIALOG.splitlines(keepends=True))), max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_answered_without_an_exception(pieces: list[bytes]) -> None:
    peer = Peer(auto_commit=True)
    for piece in pieces:
        peer.send(piece)
        assert len(peer.session._held) <= 2048
    assert all(re.match(rb"[2345]\d\d[ -]", line) for line in peer.output.split(b"\r\n")[:-1])
    peer.session.lost()
    assert peer.sink.open_writers == 0


def test_twenty_mebibytes_leave_nothing_behind() -> None:
    peer = run(HELLO)
    peer.send(b"MAIL FROM:<>\r\nRCPT TO:<anna@mail.example>\r\nDATA\r\n")
    for piece in (b"x" * 65536, b"." * 65536, b"\r\n..x" * 13107):  # one line of megabytes, dots, a stuffed dot a line
        for _ in range(107):
            peer.send(piece)
            assert len(peer.session._held) == 0
            reader = peer.session._reader
            assert reader is not None and len(reader._tail) <= 4
    peer.send(b"\r\n.\r\n")
    assert peer.sink.largest_chunk <= 65536 + 200
    assert len(content_of(peer.sink.messages[0])) > 15 * 1024 * 1024


@given(st.lists(st.one_of(st.binary(max_size=20), st.sampled_from(DIALOG.splitlines(keepends=True))), max_size=20))
@settings(max_examples=200, deadline=None)
def test_the_fuzz_target_holds(pieces: list[bytes]) -> None:
    one_input(b"".join(pieces))

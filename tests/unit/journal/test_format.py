"""The bytes of a segment: round trips, what is refused, and a second reader written from the document alone."""

from __future__ import annotations

import contextlib
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailarray.journal.format import (
    BATCH_HEADER_LENGTH,
    MAX_MEMBERS,
    BatchHeader,
    FormatError,
    MessageEntry,
    SegmentHeader,
    Tombstone,
    TombstonesEntry,
    crc32c,
    decode_batch_header,
    decode_entries,
    decode_segment_header,
    encode_message,
    encode_tombstones,
)
from mailarray.model.ids import (
    IncarnationId,
    MessageId,
    PlacementId,
    SegmentId,
    VolumeId,
    new_message_id,
    new_segment_id,
)
from tests.fuzz.fuzz_journal import one_input
from tests.support.segments import Made, made, mail, tombstone
from tests.unit.journal import independent_reader

ids = st.binary(min_size=16, max_size=16)
u64 = st.integers(0, (1 << 64) - 1)
texts = st.binary(max_size=60).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
headers = st.builds(
    lambda segment, incarnation, worker, created, copies, members: SegmentHeader(
        SegmentId(segment),
        VolumeId(members[0]),
        IncarnationId(incarnation),
        worker,
        created,
        copies,
        tuple(VolumeId(member) for member in members),
    ),
    ids,
    ids,
    st.integers(0, 65535),
    u64,
    st.integers(0, 255),
    st.lists(ids, min_size=1, max_size=MAX_MEMBERS, unique=True),
)


def test_the_checksum_is_castagnoli() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0
    assert crc32c(b"6789", crc32c(b"12345")) == 0xE3069283


@given(headers, st.binary(max_size=40))
def test_a_segment_header_comes_back(header: SegmentHeader, behind: bytes) -> None:
    raw = header.encode()
    assert len(raw) == header.length == 76 + 16 * len(header.members)
    assert decode_segment_header(raw + behind) == header


@given(headers, st.data())
def test_a_flipped_bit_in_a_segment_header_is_refused(header: SegmentHeader, data: st.DataObject) -> None:
    raw = bytearray(header.encode())
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(FormatError):
        decode_segment_header(bytes(raw))


def test_another_version_is_refused_with_a_sentence() -> None:
    raw = bytearray(made().header.encode())
    raw[9] = 2
    raw[-4:] = crc32c(bytes(raw[:-4])).to_bytes(4, "big")
    with pytest.raises(FormatError, match="format version 2; this program reads version 1"):
        decode_segment_header(bytes(raw))


messages = st.tuples(
    ids, u64, texts, st.lists(st.tuples(texts.filter(bool), texts), max_size=4), st.binary(max_size=50)
)
tombstones = st.tuples(
    ids, u64, st.lists(st.tuples(ids, st.integers(0, 65535), ids, texts).map(
        lambda t: Tombstone(PlacementId(t[0], t[1]), MessageId(t[2]), t[3])
    ), max_size=4),
)  # fmt: skip


@given(st.lists(st.one_of(messages, tombstones), max_size=5), u64, st.integers(0, 1 << 60))
def test_entries_come_back(items: list[tuple], mark: int, offset: int) -> None:  # type: ignore[type-arg]
    metadata, at, expected = b"", 0, []
    for item in items:
        if len(item) == 3:
            metadata += encode_tombstones(MessageId(item[0]), item[1], item[2])
            expected.append(TombstonesEntry(MessageId(item[0]), item[1], tuple(item[2])))
            continue
        id, when, sender, deliveries, body = item
        metadata += encode_message(MessageId(id), when, sender, deliveries, at, len(body), crc32c(body))
        whole = tuple((box, path or box) for box, path in deliveries)
        expected.append(MessageEntry(MessageId(id), when, sender, whole, at, len(body), crc32c(body)))  # type: ignore[arg-type]
        at += len(body)
    segment = SegmentId(bytes(16))
    header = BatchHeader(segment, offset, mark, len(items), len(metadata), at, crc32c(metadata))
    raw = header.encode()
    assert len(raw) == BATCH_HEADER_LENGTH == 64
    assert decode_batch_header(raw, segment, offset) == header
    assert list(decode_entries(metadata, header)) == expected
    with pytest.raises(FormatError, match="another place"):
        decode_batch_header(raw, segment, offset + 1)
    with pytest.raises(FormatError, match="another place"):
        decode_batch_header(raw, SegmentId(b"x" * 16), offset)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_but_a_format_error(data: bytes) -> None:
    one_input(data)


def test_bytes_with_right_checksums_raise_nothing_else_either() -> None:
    # What a fuzzer cannot reach behind the checksums: entries of random bytes that the checksum covers.
    seed = 20_240_611
    print("seed", seed)
    dice = random.Random(seed)
    good = encode_message(new_message_id(), 1, "a@b", [("c@d", ""), ("e@f", "g@h")], 0, 0, 0)
    for _ in range(3000):
        raw = bytearray(good * dice.randint(1, 2) if dice.random() < 0.8 else dice.randbytes(120))
        for _ in range(dice.randint(1, 4)):
            raw[dice.randrange(len(raw))] = dice.choice((0, 1, 2, 255, dice.randrange(256)))
        metadata = bytes(raw[: dice.randint(0, len(raw))] if dice.random() < 0.3 else raw)
        header = BatchHeader(SegmentId(bytes(16)), 0, 0, dice.randint(0, 3), len(metadata), 0, crc32c(metadata))
        with contextlib.suppress(FormatError):
            list(decode_entries(metadata, header))


def test_a_text_that_reaches_past_its_entry_is_refused() -> None:
    first = bytearray(encode_message(new_message_id(), 1, "", [("box@x", "")], 0, 0, 0))
    first[-4 - len("box@x") + 1] += 1  # the mailbox takes one byte of the next text
    metadata = bytes(first) + encode_message(new_message_id(), 1, "", [("box@x", "")], 0, 0, 0)
    header = BatchHeader(SegmentId(bytes(16)), 0, 0, 2, len(metadata), 0, crc32c(metadata))
    with pytest.raises(FormatError):
        list(decode_entries(metadata, header))


def unknown_entry(kind: int = 200, tail: bytes = b"from the future", body_offset: int = 0, body: bytes = b"") -> bytes:
    head = (52 + len(tail)).to_bytes(4, "big") + bytes((kind, 0, 0, 0)) + bytes(16) + (7).to_bytes(8, "big")
    where = body_offset.to_bytes(8, "big") + len(body).to_bytes(8, "big") + crc32c(body).to_bytes(4, "big")
    return head + where + tail


def test_unknown_kinds_and_longer_entries_are_stepped_over() -> None:
    one, two = mail(b"one"), mail(b"two")
    future = encode_message(two.id, 5, two.sender, two.deliveries, 3, 3, crc32c(b"two"))
    longer = (len(future) + 4).to_bytes(4, "big") + future[4:] + b"more"
    metadata = encode_message(one.id, 5, one.sender, one.deliveries, 0, 3, crc32c(b"one")) + longer + unknown_entry()
    header = BatchHeader(SegmentId(bytes(16)), 0, 0, 3, len(metadata), 6, crc32c(metadata))
    assert [entry.id for entry in decode_entries(metadata, header)] == [one.id, two.id]


# -- the document ----------------------------------------------------------------------------------------------------


def example() -> Made:
    segment = made(copies=2)
    first = mail(b"Subject: one\r\n\r\n1\r\n", "anna@mail.example", "ben@mail.example")
    second = mail(b"", "anna@mail.example", sender="")
    segment.add([first])
    segment.add([second, mail(b"\x00\xff" * 300)], [tombstone(first, 1)])
    segment.add(tombstones=[tombstone(second), tombstone(first)])
    return segment


def test_a_reader_written_from_the_document_reads_the_same() -> None:
    segment = example()
    data, header = segment.data, segment.header
    read = independent_reader.read_header(data)
    assert [read["segment"], read["writer"], read["incarnation"]] == [header.segment, header.writer, header.incarnation]
    assert [read["created_at"], read["copies"], read["members"]] == [header.created_at, 2, list(header.members)]
    at = read["length"]
    assert isinstance(at, int)
    for expected in segment.batches:
        assert at == expected.start
        records, at = independent_reader.read_batch(data, at, header.segment)
        assert at == expected.end
        mails = [record for record in records if record["kind"] == 1]
        assert [(r["id"], r["body"], r["sender"]) for r in mails] == [
            (m.id, m.body, m.sender.encode()) for m in expected.mails
        ]
        assert [r["deliveries"] for r in mails] == [
            [(box.encode(), path.encode()) for box, path in m.deliveries] for m in expected.mails
        ]
        dead = [t for r in records if r["kind"] == 2 for t in r["tombstones"]]  # type: ignore[attr-defined]
        assert dead == [
            (t.placement.record, t.placement.index, t.message, t.mailbox.encode()) for t in expected.tombstones
        ]
    assert at == len(data)


def test_the_second_reader_refuses_what_the_first_one_refuses() -> None:
    segment = example()
    batch = segment.batches[1]
    for at in range(batch.start, batch.end, 7):
        data = bytearray(segment.data)
        data[at] ^= 0x10
        with pytest.raises(independent_reader.Unreadable):
            independent_reader.read_batch(bytes(data), batch.start, segment.header.segment)


def test_the_example_of_the_document_is_what_is_written() -> None:
    text = (Path(__file__).parents[3] / "docs" / "formats" / "journal.md").read_text()
    lines = re.findall(r"^[0-9a-f]{4}  ((?:[0-9a-f]{2} ?){1,16})", text, re.MULTILINE)
    data = bytes.fromhex("".join(lines))
    writer, mirror = VolumeId(b"\xa0" * 16), VolumeId(b"\xb1" * 16)
    segment = SegmentId(bytes.fromhex("0190c0ffee00") + b"\x5e" * 10)
    message = MessageId(bytes.fromhex("0190c0ffee01") + b"\x1d" * 10)
    when = 1_718_000_000_000_000
    body = b"Subject: hi\r\n\r\nhello\r\n"
    header = SegmentHeader(segment, writer, IncarnationId(b"\xc2" * 16), 0, when, 2, (writer, mirror))
    deliveries = [("anna@b.example", "Anna@b.example"), ("ben@b.example", "ben@b.example")]
    metadata = encode_message(message, when + 1, "s@a.example", deliveries, 0, len(body), crc32c(body))
    first = BatchHeader(segment, header.length, 0, 1, len(metadata), len(body), crc32c(metadata))
    expected = header.encode() + first.encode() + metadata + body
    record = MessageId(bytes.fromhex("0190c0ffee02") + b"\x2e" * 10)
    metadata = encode_tombstones(record, when + 2, [Tombstone(PlacementId(message, 1), message, "ben@b.example")])
    second = BatchHeader(segment, first.end, first.end, 1, len(metadata), 0, crc32c(metadata))
    assert data == expected + second.encode() + metadata
    records, at = independent_reader.read_batch(data, header.length, segment)
    assert (at, records[0]["body"]) == (308, body)


def test_a_placement_id_that_no_record_can_hold_is_refused_before_it_is_journalled() -> None:
    assert PlacementId.parse("ab" * 16 + ".65535").index == 65535
    for index in ("65536", "-1", "", "x"):
        with pytest.raises(ValueError):
            PlacementId.parse("ab" * 16 + "." + index)


def test_a_fingerprint_is_kept_and_what_stands_around_it_skipped() -> None:
    message, mark = new_message_id(), bytes(range(24))
    entry = encode_message(message, 5, "s@x", [("box@x", "")], 0, 0, 0, mark)
    plain = encode_message(message, 5, "s@x", [("box@x", "")], 0, 0, 0)
    assert entry[len(plain) :] == b"\x01\x18" + mark
    for more in (b"", b"\x07\x02ab", b"\x07", b"\x07\xffab"):
        raw = entry[: len(plain)] + (more if len(more) == 4 and more[1] == 2 else b"") + entry[len(plain) :] + more
        raw = len(raw).to_bytes(4, "big") + raw[4:]
        header = BatchHeader(new_segment_id(), 0, 0, 1, len(raw), 0, crc32c(raw))
        (found,) = decode_entries(raw, header)
        assert isinstance(found, MessageEntry) and found.fingerprint == mark
    garbage = len(plain + b"\x01\xff").to_bytes(4, "big") + plain[4:] + b"\x01\xff"
    (found,) = decode_entries(garbage, BatchHeader(new_segment_id(), 0, 0, 1, len(garbage), 0, crc32c(garbage)))
    assert isinstance(found, MessageEntry) and found.fingerprint == b""

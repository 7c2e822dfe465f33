"""Bodies on their way in: any size, flat memory, no file left behind."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailarray.journal.format import crc32c
from mailarray.journal.spool import CHUNK, MEMORY_LIMIT, SpoolWriter, check_directory


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, MEMORY_LIMIT // 2), max_size=8))
def test_what_went_in_comes_out(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    directory = tmp_path_factory.getbasetemp()
    pieces = [bytes([i + 1]) * size for i, size in enumerate(sizes)]
    spool = SpoolWriter(directory)
    for piece in pieces:
        spool.write(piece)
    whole = b"".join(pieces)
    assert spool.length == len(whole)
    body = spool.finish()
    for _ in range(2):  # a second segment may need the bytes again
        assert b"".join(body.chunks()) == whole
    assert (body.length, body.checksum) == (len(whole), crc32c(whole))
    body.release()


def test_memory_is_flat_and_nothing_is_left(tmp_path: Path) -> None:
    piece = os.urandom(64 * 1024)
    before = len(list(Path("/proc/self/fd").iterdir()))
    tracemalloc.start()
    spool = SpoolWriter(tmp_path)
    for _ in range(32 * 16):
        spool.write(piece)
    body = spool.finish()
    total = sum(len(chunk) for chunk in body.chunks())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == body.length == 32 * 1024 * 1024
    assert peak < 4 * CHUNK + MEMORY_LIMIT
    assert list(tmp_path.iterdir()) == []
    body.release()
    body.release()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("size", [10, MEMORY_LIMIT * 3])
def test_a_transaction_without_a_message_leaves_nothing(tmp_path: Path, size: int) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    spool = SpoolWriter(tmp_path)
    spool.write(bytes(size))
    spool.discard()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_directory_that_takes_no_bodies_is_found_before_the_first_mail(tmp_path: Path) -> None:
    check_directory(tmp_path)
    with pytest.raises(OSError):
        check_directory(tmp_path / "absent")
    spool = SpoolWriter(tmp_path / "absent")
    with pytest.raises(OSError):
        spool.write(bytes(MEMORY_LIMIT + 1))

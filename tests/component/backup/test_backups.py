"""A backup is taken, interrupted, taken again, thinned out and verified: on a directory, and on a real S3 API."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailarray.backup import keeping, manifest
from mailarray.backup.directory_store import DirectoryStore
from mailarray.backup.manifest import Manifest, StoredSegment
from mailarray.backup.opening import open_store
from mailarray.backup.source import Held, SourceError
from mailarray.backup.store import NotThere, Store, TargetError
from mailarray.backup.taking import plan, take
from mailarray.catalog.rows import SealedRow
from mailarray.model.ids import SegmentId, VolumeId, new_segment_id, new_volume_id
from tests.component.backup.stores import moto_server, s3_server
from tests.support.segments import Made, made, mail, random_body

BEGIN = datetime(2026, 1, 31, 4, tzinfo=UTC)


class Volumes:
    """A `Source` of bytes in memory: what each volume says that it holds."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.held_by: dict[SegmentId, dict[VolumeId, bytes]] = {}
        self.lengths: dict[SegmentId, int] = {}
        self.read_bytes = 0

    def add(self, segment: Made, *copies: bytes) -> SegmentId:
        """On a volume for each copy; whole on two without one."""
        id = segment.header.segment
        volumes = [new_volume_id() for _ in copies or (1, 1)]
        self.held_by[id] = dict(zip(volumes, copies or (segment.data, segment.data), strict=True))
        self.lengths[id] = len(segment.data)
        return id

    async def held(self) -> list[Held]:
        return [Held(id, self.lengths[id], tuple(copies)) for id, copies in sorted(self.held_by.items())]

    async def read(self, volume: VolumeId, segment: SegmentId, start: int, end: int) -> AsyncIterator[bytes]:
        data = self.held_by[segment][volume][start:end]
        if not data:
            raise SourceError("nothing there")
        self.read_bytes += len(data)
        for at in range(0, len(data), 1000):
            yield data[at : at + 1000]

    async def close(self) -> None: ...


def segment(mails: int = 4, size: int = 3000) -> Made:
    grown = made()
    for _ in range(mails):
        grown.add([mail(random_body(size))])
    return grown


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    program = moto_server()
    if program is None:
        pytest.skip("moto's S3 server is not installed; `make test` does that")
    with s3_server(program) as url:
        yield url


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "directory":
        return open_store(str(tmp_path / "target"))
    url = request.getfixturevalue("s3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of-the-test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return open_store(f"s3://mail/{new_segment_id().hex()}", url)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    return path


async def backed_up(store: Store, source: Volumes, scratch: Path, hours: int = 0) -> Manifest:
    return await take(store, source, None, None, scratch, lambda *_: None, lambda: BEGIN + timedelta(hours=hours))


async def whole(store: Store, backup: Manifest, source: Volumes, scratch: Path) -> None:
    """Every segment of the backup is the source's, byte for byte."""
    for stored in backup.segments:
        await keeping.fetch_segment(store, stored, scratch / "fetched")
        assert (scratch / "fetched").read_bytes() in source.held_by[stored.segment].values()
    (scratch / "fetched").unlink(missing_ok=True)


async def test_each_segment_once(store: Store, scratch: Path) -> None:
    source = Volumes()
    large = made()
    large.add([mail(random_body(9 << 20))])  # more than one part of an upload
    first = {source.add(segment()), source.add(segment()), source.add(large)}
    one = await backed_up(store, source, scratch)
    assert {s.segment for s in one.segments} == first and not one.troubles
    assert source.read_bytes == one.copied_bytes == sum(source.lengths.values())
    new = source.add(segment())
    source.read_bytes = 0
    two = await backed_up(store, source, scratch, 1)
    assert {s.segment for s in two.segments} == first | {new}
    assert source.read_bytes == two.copied_bytes == source.lengths[new]
    await whole(store, two, source, scratch)
    assert await manifest.backup_ids(store) == [one.id, two.id]
    assert await manifest.newest(store) == two
    assert await manifest.newest(store, BEGIN + timedelta(minutes=59)) == one
    assert await manifest.newest(store, datetime.fromisoformat(one.id)) == one
    with pytest.raises(TargetError, match="no backup from"):
        await manifest.newest(store, BEGIN - timedelta(seconds=1))
    assert list(scratch.iterdir()) == []


async def test_damage_is_mended_from_the_other_copies(store: Store, scratch: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    source, generator = Volumes(), random.Random(seed)
    good: dict[SegmentId, bytes] = {}
    for number in range(12):  # each batch is bad on one of the two, or the one that has less is bad nowhere
        one = segment()
        copies = [one.data, one.data]
        end = len(one.data) if number % 2 else generator.choice(one.batches).start + 1
        for batch in one.batches:
            if batch.end <= end:
                at = generator.randrange(2)
                copies[at] = flipped(copies[at], generator.randrange(batch.start, batch.end))
        copies[0] = copies[0][:end]
        generator.shuffle(copies)
        good[source.add(one, *copies)] = one.data
    backup = await backed_up(store, source, scratch)
    assert not backup.missing and {s.segment for s in backup.segments} == set(good)
    for stored in backup.segments:
        await keeping.fetch_segment(store, stored, scratch / "fetched")
        assert (scratch / "fetched").read_bytes() == good[stored.segment]


async def test_what_nobody_holds_whole_is_named(store: Store, scratch: Path) -> None:
    source, one = Volumes(), segment()
    at = one.batches[1].start + 100
    bad = source.add(one, flipped(one.data, at), flipped(one.data, at + 1))
    good = source.add(segment())
    backup = await backed_up(store, source, scratch)
    assert [s.segment for s in backup.segments] == [good]
    assert [m.segment for m in backup.missing] == [bad] and backup.troubles
    assert await manifest.load(store, backup.id) == backup


class Interrupted(Exception):
    pass


async def test_an_interrupted_backup_is_none(store: Store, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Volumes()
    for _ in range(5):
        source.add(segment())
    real, puts = store.put, 0

    async def put(name: str, file: Path) -> None:
        nonlocal puts
        if puts == 3:
            raise Interrupted
        puts += 1
        await real(name, file)

    monkeypatch.setattr(store, "put", put)
    with pytest.raises(Interrupted):
        await backed_up(store, source, scratch)
    assert await manifest.backup_ids(store) == [] and list(scratch.iterdir()) == []
    monkeypatch.setattr(store, "put", real)
    source.read_bytes = 0
    backup = await backed_up(store, source, scratch, 1)
    assert len(backup.segments) == 5
    assert source.read_bytes == backup.copied_bytes < sum(source.lengths.values()), "what was there was taken again"
    await whole(store, backup, source, scratch)


async def test_the_manifest_comes_last(store: Store, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Volumes()
    source.add(segment())
    order: list[str] = []
    for method in ("put", "put_bytes"):

        def told(real: Callable[..., object]) -> Callable[..., object]:
            def call(name: str, what: object) -> object:
                order.append(name)
                return real(name, what)

            return call

        monkeypatch.setattr(store, method, told(getattr(store, method)))
    backup = await backed_up(store, source, scratch)
    assert order[-1] == backup.name and order[0] == manifest.MARKER


async def test_a_segment_that_goes_meanwhile_is_noticed(
    store: Store, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Volumes()
    source.add(segment())
    await backed_up(store, source, scratch)
    source.add(segment())
    real = store.put

    async def put(name: str, file: Path) -> None:
        await real(name, file)
        await store.delete([n for n in await store.list(manifest.SEGMENTS) if n != name])  # a prune, at a bad moment

    monkeypatch.setattr(store, "put", put)
    with pytest.raises(TargetError, match="run it again"):
        await backed_up(store, source, scratch, 1)


async def test_prune_removes_what_no_backup_names(store: Store, scratch: Path) -> None:
    source = Volumes()
    old = source.add(segment())
    both = source.add(segment())
    await backed_up(store, source, scratch)
    del source.held_by[old]  # compacted, say
    kept = await backed_up(store, source, scratch, 1)
    last = await backed_up(store, source, scratch, 2)
    assert (await keeping.prune(store, 3)).backups == 0
    done = await keeping.prune(store, 2)
    assert (done.backups, done.segments, done.bytes) == (1, 1, source.lengths[old])
    assert await manifest.backup_ids(store) == [kept.id, last.id]
    assert {id for id, _ in await manifest.stored_segments(store)} == {both}
    found = await keeping.verify(store, [kept, last], scratch, lambda *_: None)
    assert (found.backups, found.segments, found.bad) == (2, 1, [])
    await store.put_bytes(last.name, b"{}")
    with pytest.raises(TargetError, match="is damaged"):
        await keeping.prune(store, 1)
    assert {id for id, _ in await manifest.stored_segments(store)} == {both}


async def test_verify_finds_every_flipped_byte_and_what_is_gone(store: Store, scratch: Path) -> None:
    source = Volumes()
    for _ in range(3):
        source.add(segment(1, 300))
    backup = await backed_up(store, source, scratch)
    first, second, _ = backup.segments
    data = next(iter(source.held_by[first.segment].values()))
    await store.put_bytes(first.name, flipped(data, random.randrange(len(data))))
    await store.delete([second.name])
    found = await keeping.verify(store, [backup], scratch, lambda *_: None)
    assert len(found.bad) == 2 and first.name in found.bad[0] and f"{second.name} is missing" in found.bad[1]


async def test_a_store_says_what_is_not_there(store: Store) -> None:
    with pytest.raises(NotThere):
        await store.read("backups/none.json")
    assert await store.list("segments") == {}
    await store.delete(["segments/none"])
    with pytest.raises(TargetError, match="no backups"):
        await manifest.check_target(store, make=False)


async def test_a_full_directory_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, source = DirectoryStore(tmp_path / "target"), Volumes()
    source.add(segment())
    await manifest.check_target(store, make=True)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("mailarray.backup.directory_store.os.write", full)
    with pytest.raises(TargetError, match="is full; make room"):
        await backed_up(store, source, scratch)
    assert [path.name for path in (tmp_path / "target").rglob("*") if path.is_file()] == [manifest.MARKER]


async def test_an_s3_target_that_is_away_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailarray.backup.object_store.RETRY_SECONDS", 0.1)
    store = open_store("s3://mail/x", "http://127.0.0.1:9")
    with pytest.raises(TargetError, match=r"^s3://mail/x cannot be used: [^\n]+$"):
        await manifest.check_target(store, make=True)


def test_the_catalog_says_what_there_should_be() -> None:
    a, b, c, d, e = (new_segment_id() for _ in range(5))
    volume = (new_volume_id(),)
    held = [Held(a, 100, volume), Held(b, 100, volume), Held(c, 100, volume), Held(d, 100, volume)]
    rows = [
        SealedRow(1, a, 90, None),  # lowered since: rule 13
        SealedRow(2, b, 100, c),  # compacted into c
        SealedRow(3, c, 100, None),
        SealedRow(4, d, 100, e),  # compacted into one that is not there
        SealedRow(5, e, 70, None),
    ]
    planned = plan(held, rows)
    assert {one.segment: one.length for one in planned.held} == {a: 90, c: 100, d: 100}
    assert [(one.segment, one.length) for one in planned.missing] == [(e, 70)]


def test_a_name_says_what_is_in_it() -> None:
    stored = StoredSegment(new_segment_id(), 473, "ab" * 32)
    assert StoredSegment.of_name(stored.name) == stored
    assert StoredSegment.of_name("segments/x") is None

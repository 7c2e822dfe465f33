"""A volume read by hand: verify, list, cat, export, with nothing else running and with damage in the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mailarray.cli.journal import journal
from mailarray.journal import inspect
from mailarray.journal.fence import Fence, save_fence
from mailarray.journal.volume import Volume
from mailarray.model.ids import new_segment_id
from tests.support.segments import Made, Mail, made, mail, put_file, tombstone, volume

ANNA, BEN = "anna@mail.example", "ben@mail.example"


class Scene:
    """One volume with two segments, one mail in both, one expunged."""

    def __init__(self, path: Path) -> None:
        self.volume: Volume = volume(path)
        self.one: Mail = mail(b"Subject: one\r\n\r\n1\r\n", ANNA, BEN)
        self.two: Mail = mail(b"Subject: two\r\n\r\n2\r\n", ANNA, sender="")
        self.gone: Mail = mail(b"Subject: gone\r\n\r\n", BEN)
        older, newer = sorted((new_segment_id(), new_segment_id()))
        self.first: Made = made(self.volume.id, segment=older)
        self.first.add([self.one])
        self.first.add([self.two, self.gone])
        self.first.add([mail(b"torn", ANNA)])
        self.second: Made = made(self.volume.id, segment=newer)
        self.second.add([self.two])
        self.second.add(tombstones=[tombstone(self.gone), tombstone(self.one, 1)])
        self.write(self.first.data[:-1])

    def write(self, first: bytes) -> None:
        put_file(self.volume, self.first.header.segment, first)
        put_file(self.volume, self.second.header.segment, self.second.data)

    def flip(self, at: int) -> None:
        data = bytearray(self.first.data[:-1])
        data[at] ^= 1
        self.write(bytes(data))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "volume")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(journal, [str(a) for a in arguments], standalone_mode=False)


def maildir(target: Path) -> dict[str, list[bytes]]:
    return {box.name: sorted(f.read_bytes() for f in (box / "new").iterdir()) for box in target.iterdir()}


def test_verify_of_a_sound_volume(scene: Scene) -> None:
    done = run("verify", scene.volume.path)
    assert done.return_value == 0
    assert "4 messages, 0 damaged segments" in done.output
    assert "a torn tail of" in done.output


def test_verify_names_the_damage(scene: Scene) -> None:
    start = scene.first.batches[0]
    scene.flip(start.end - 1)
    done = run("verify", scene.volume.path)
    assert done.return_value == 1
    assert f"damaged {start.start}-{start.end}: the body of message {scene.one.id.hex()} is damaged" in done.output
    assert "3 messages, 1 damaged segments" in done.output


def test_verify_tells_what_a_seal_says_is_missing(scene: Scene) -> None:
    sealed = len(scene.first.data)
    save_fence(scene.volume, scene.first.header.segment, Fence(True, sealed, 1))
    empty = new_segment_id()
    save_fence(scene.volume, empty, Fence(True))
    done = run("verify", scene.volume.path)
    missing = sealed - scene.first.batches[1].end
    assert f"{missing} bytes below the seal are missing here" in done.output
    assert f"sealed at {sealed}" in done.output
    assert f"{empty.hex()}         0 messages" in done.output


def test_verify_goes_on_past_a_fence_that_cannot_be_read(scene: Scene) -> None:
    scene.volume.fence_path(scene.first.header.segment).write_text("?")
    done = run("verify", scene.volume.path)
    assert done.return_value == 1 and "is damaged" in done.output and "1 messages, 1 damaged" in done.output


def test_list(scene: Scene) -> None:
    done = run("list", scene.volume.path)
    lines = done.output.splitlines()
    assert [line.split()[0] for line in lines[:4]] == [
        m.id.hex() for m in (scene.one, scene.two, scene.gone, scene.two)
    ]
    assert f"<s@out.example>  {ANNA},{BEN}" in lines[0]
    assert f"expunged {scene.gone.id.hex()}.0  {BEN}" in lines[4]


def test_cat(scene: Scene) -> None:
    assert run("cat", scene.volume.path, scene.one.id.hex()).stdout_bytes == scene.one.body
    done = CliRunner().invoke(journal, ["cat", str(scene.volume.path), "00" * 16])
    assert done.exit_code == 1 and "does not hold that message; try another server's volume" in done.output
    assert CliRunner().invoke(journal, ["cat", str(scene.volume.path), "xyz"]).exit_code == 2


def test_cat_finds_the_other_copy_of_a_damaged_body(scene: Scene) -> None:
    batch = scene.first.batches[1]
    scene.flip(scene.first.data.index(scene.two.body, batch.start))
    assert run("cat", scene.volume.path, scene.two.id.hex()).stdout_bytes == scene.two.body
    scene.flip(scene.first.data.index(scene.gone.body, batch.start))
    done = CliRunner().invoke(journal, ["cat", str(scene.volume.path), scene.gone.id.hex()])
    assert done.exit_code == 1 and "is damaged; try another" in done.output


def test_export(scene: Scene, tmp_path: Path) -> None:
    done = run("export", scene.volume.path, tmp_path / "out")
    assert done.return_value == 0
    assert maildir(tmp_path / "out") == {ANNA: [scene.one.body, scene.two.body]}
    assert "2 messages in 2 deliveries" in done.output and "2 expunged left out, 0 damaged skipped" in done.output


def test_export_goes_on_past_damage_of_every_byte(scene: Scene, tmp_path: Path) -> None:
    every = {scene.one.body, scene.two.body, scene.gone.body}
    for at in range(0, scene.first.batches[1].end, 5):
        scene.flip(at)
        target = tmp_path / str(at)
        inspect.export(scene.volume, target, lambda *_: None, lambda *_: None)
        found = {body for bodies in maildir(target).values() for body in bodies}
        assert found <= every and scene.two.body in found, at  # the second segment still has it


def test_export_says_what_it_skipped(scene: Scene, tmp_path: Path) -> None:
    scene.flip(scene.first.batches[0].end - 1)
    done = run("export", scene.volume.path, tmp_path / "out")
    assert done.return_value == 1
    assert f"the body of message {scene.one.id.hex()} is damaged" in done.output
    assert maildir(tmp_path / "out") == {ANNA: [scene.two.body]}


def test_a_mailbox_name_cannot_leave_the_target(scene: Scene, tmp_path: Path) -> None:
    scene.first.add([mail(b"evil", "../../etc/x@mail.example")])
    scene.write(scene.first.data)
    inspect.export(scene.volume, tmp_path / "out", lambda *_: None, lambda *_: None)
    assert {entry.name for entry in (tmp_path / "out").iterdir()} >= {"_.._etc_x@mail.example"}
    assert {entry.name for entry in tmp_path.iterdir()} == {"volume", "out"}


def test_what_is_no_volume_is_said_in_a_sentence(tmp_path: Path) -> None:
    done = CliRunner().invoke(journal, ["verify", str(tmp_path)])
    assert "has no volume.json" in str(done.exception)

"""A server that has fewer volumes than before: refused while mail is on what would be left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailarray.local.checks import StartError, check_no_volume_left_out
from mailarray.local.layout import Layout

SEGMENT = "0196f0a1b2c3aaaabbbbccccddddeeee.segment"


def keep(layout: Layout, volume: str, file: str = SEGMENT) -> None:
    segments = layout.volume(volume) / "segments"
    segments.mkdir(parents=True, exist_ok=True)
    (segments / file).touch()


def test_mail_on_a_volume_that_is_left_out(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for volume in ("mail-0", "mail-0.1", "mail-0.2", "mail-1"):
        keep(layout, volume)
    check_no_volume_left_out(layout, ("mail-0", "mail-0.1", "mail-0.2", "mail-1"))
    check_no_volume_left_out(layout, ("mail-0", "mail-0.1", "mail-0.2", "mail-0.3", "mail-1"))  # one more
    with pytest.raises(StartError) as error:
        check_no_volume_left_out(layout, ("mail-0", "mail-0.1", "mail-1"))
    assert str(error.value) == (
        f"{tmp_path}/servers/mail-0/volume-2 holds mail, but spec.storage.volumes of mail is 2; set it to 3 or more "
        "again, or `mailarray backup` then and restore into another folder (--data)"
    )


def test_an_empty_volume_may_go(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    keep(layout, "mail-0")
    keep(layout, "mail-0.1", "0196f0a1b2c3aaaabbbbccccddddeeee.fence")
    check_no_volume_left_out(layout, ("mail-0",))

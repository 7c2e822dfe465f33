"""What a sidecar believes of its writer's words."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from unittest.mock import Mock

from mailarray.mirroring.announce import SOCKET_NAME, Announcer
from mailarray.model.ids import new_incarnation_id, new_segment_id
from mailarray.tracking.following import Follower


async def test_a_word_that_a_later_one_overtook_is_ignored(tmp_path: Path) -> None:
    heard: Any = Mock()
    follower = Follower(heard, heard, heard, asyncio.Event())
    follower.listen(tmp_path)
    assert (tmp_path / SOCKET_NAME).exists()
    words = []
    incarnation, first, second = new_incarnation_id(), new_segment_id(), new_segment_id()

    def say(announcer: Announcer, *state: Any) -> None:
        announcer.state = lambda: state
        announcer.announce()
        follower._receive()
        words.append(follower.announcement)

    announcer = Announcer(tmp_path)
    say(announcer, incarnation, 0, first, 10)
    say(announcer, incarnation, 0, second, 0)
    old, new = words
    assert old is not None and new is not None and (old.segment, new.segment) == (first, second)
    follower.hear(old)
    assert follower.announcement is new and follower.holds(second)
    restarted = Announcer(tmp_path)  # a writer that was started again counts from the begin
    say(restarted, new_incarnation_id(), 0, first, 0)
    assert follower.holds(first)
    announcer.close()
    restarted.close()
    follower.close()

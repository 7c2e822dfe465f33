"""The poller: rates from two answers, and silence where nobody answers."""

from __future__ import annotations

import pytest

from mailarray.contract.settings import Listen
from mailarray.local.poller import Poller, Target
from mailarray.observe.http import bound_port, internal_app, serve


async def test_rates_and_silence() -> None:
    now, status = [10.0], {"accepted": 100}
    runner = await serve(internal_app("token", lambda: dict(status)), Listen(host="127.0.0.1", port=0))
    there = Listen(host="127.0.0.1", port=bound_port(runner))
    gone = Target("b", "mail-1", "smtp", Listen(host="127.0.0.1", port=1))
    poller = Poller([Target("a", "mail-0", "smtp", there), gone], "token", clock=lambda: now[0])
    try:
        await poller.poll()
        now[0], status["accepted"] = 12.0, 300
        await poller.poll()
        assert poller.answers["a"].accepted_per_second == pytest.approx(100.0)
        now[0], status["accepted"] = 13.0, 5  # it was started again
        await poller.poll()
        assert poller.answers["a"].accepted_per_second == 0.0
        assert set(poller.answers) == poller.ever_answered == {"a"}
        assert set(await poller.metrics()) == {("mail-0", "smtp")}
    finally:
        await runner.cleanup()
        await poller.poll()
        await poller.close()
    assert poller.answers == {}


async def test_a_wrong_token_is_no_answer() -> None:
    runner = await serve(internal_app("token", dict), Listen(host="127.0.0.1", port=0))
    listen = Listen(host="127.0.0.1", port=bound_port(runner))
    poller = Poller([Target("a", "mail-0", "smtp", listen)], "another")
    await poller.poll()
    assert poller.answers == {}
    await poller.close()
    await runner.cleanup()

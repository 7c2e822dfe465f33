"""The supervisor with tiny children: what dies is started again, and stopping leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from mailarray.local.supervisor import Death, ProcessSpec, ProcessState, Supervisor, restart_delay

PYTHON = (sys.executable, "-S", "-E", "-c")
WAIT = "import signal; signal.pause()"
# Says on its pipe that it is deaf to SIGTERM by now, then waits.
DEAF = "import signal,sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); open(sys.argv[1],'w').close(); signal.pause()"
# Writes its pid into a file, whole, then waits.
TELLS_PID = (
    "import os,signal,sys\n"
    "open(sys.argv[1] + '.new', 'w').write(str(os.getpid()))\n"
    "os.rename(sys.argv[1] + '.new', sys.argv[1])\n"
    "signal.pause()\n"
)
LIMIT = 20.0


class Watch:
    """Gathers what the supervisor tells, and wakes whoever waits for it."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int]] = []
        self.deaths: list[Death] = []
        self._changed = asyncio.Event()

    def on_start(self, state: ProcessState) -> None:
        assert state.pid is not None
        self.started.append((state.spec.name, state.pid))
        self._changed.set()

    def on_death(self, death: Death) -> None:
        self.deaths.append(death)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


def gone(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return False
    return True


@pytest.fixture
def watch() -> Watch:
    return Watch()


async def test_what_is_killed_is_started_again_at_once(watch: Watch) -> None:
    supervisor = Supervisor(
        [ProcessSpec("a", "s", "smtp", (WAIT,))], command=PYTHON, on_start=watch.on_start, on_death=watch.on_death
    )
    supervisor.start()
    await watch.until(lambda: len(watch.started) == 1)
    os.kill(watch.started[0][1], signal.SIGKILL)
    await watch.until(lambda: len(watch.started) == 2)
    assert [(d.how, d.restart_in) for d in watch.deaths] == [("signal 9 (SIGKILL)", 0.0)]
    assert supervisor.states["a"].restarts == 1
    await supervisor.stop()
    assert all(gone(pid) for _, pid in watch.started)
    assert len(watch.deaths) == 1  # being stopped is no death


async def test_what_keeps_dying_young_waits_longer_and_longer(watch: Watch) -> None:
    waits: list[float] = []
    enough = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            enough.set()
            await asyncio.Event().wait()

    code = "import sys; print('first line', file=sys.stderr); print('no such volume', file=sys.stderr); sys.exit(3)"
    supervisor = Supervisor(
        [ProcessSpec("a", "s", "smtp", (code,))], command=PYTHON, on_death=watch.on_death, sleep=sleep
    )
    supervisor.start()
    async with asyncio.timeout(LIMIT):
        await enough.wait()
    await supervisor.stop()
    assert waits == [0.25, 0.5, 1.0]
    assert {(d.how, d.last_words) for d in watch.deaths} == {("exit code 3", "no such volume")}


def test_delays_are_bounded_and_begin_at_once() -> None:
    assert [restart_delay(n) for n in (1, 2, 3, 4, 7, 8, 1000)] == [0.0, 0.25, 0.5, 1.0, 8.0, 10.0, 10.0]


async def test_one_that_lived_long_is_not_dying_repeatedly(watch: Watch) -> None:
    now = [0.0]
    supervisor = Supervisor(
        [ProcessSpec("a", "s", "smtp", (WAIT,))],
        command=PYTHON,
        on_start=watch.on_start,
        on_death=watch.on_death,
        clock=lambda: now[0],
    )
    supervisor.start()
    for n in range(1, 4):
        await watch.until(lambda n=n: len(watch.started) == n)  # type: ignore[misc]
        now[0] += 3600
        os.kill(watch.started[-1][1], signal.SIGKILL)
    await watch.until(lambda: len(watch.started) == 4)
    await supervisor.stop()
    assert [d.restart_in for d in watch.deaths] == [0.0, 0.0, 0.0]


async def test_stop_goes_phase_by_phase(watch: Watch, tmp_path: Path) -> None:
    log = tmp_path / "order"
    code = (
        "import signal,sys\n"
        "def end(*_):\n"
        f"    open({str(log)!r}, 'a').write(sys.argv[1])\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "open(sys.argv[2], 'w').close()\n"
        "while True: signal.pause()\n"
    )
    marks = {name: tmp_path / name for name in "abc"}
    specs = [
        ProcessSpec(n, "s", "r", (code, n, str(marks[n])), stop_phase=p) for n, p in (("a", 2), ("b", 0), ("c", 1))
    ]
    supervisor = Supervisor(specs, command=PYTHON, on_start=watch.on_start)
    supervisor.start()
    await _until_there(*marks.values())
    await supervisor.stop()
    assert log.read_text(encoding="utf-8") == "bca"
    await supervisor.stop()  # a second time does nothing


async def test_one_that_is_deaf_is_killed(watch: Watch, tmp_path: Path) -> None:
    mark = tmp_path / "deaf"
    spec = ProcessSpec("a", "s", "smtp", (DEAF, str(mark)), stop_seconds=0.05)
    supervisor = Supervisor([spec], command=PYTHON, on_start=watch.on_start)
    supervisor.start()
    await _until_there(mark)
    async with asyncio.timeout(LIMIT):
        await supervisor.stop()
    assert gone(watch.started[0][1])


async def test_a_wrapper_dies_with_what_it_wraps(watch: Watch, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    outer = f"import subprocess,sys; subprocess.run([sys.executable,'-c',{TELLS_PID!r},sys.argv[1]])"
    supervisor = Supervisor([ProcessSpec("a", "s", "smtp", (outer, str(mark)))], command=PYTHON)
    supervisor.start()
    await _until_there(mark)
    async with _ends(int(mark.read_text(encoding="utf-8"))):
        await supervisor.stop()


async def test_children_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    code = (
        "import asyncio, sys\n"
        "from mailarray.local.supervisor import *\n"
        "async def main():\n"
        f"    Supervisor([ProcessSpec('a','s','r',({TELLS_PID!r}, sys.argv[1]))], command={PYTHON!r}).start()\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(mark))
    await _until_there(mark)
    pid = int(mark.read_text(encoding="utf-8"))
    async with _ends(pid):
        parent.kill()
        await parent.wait()


async def test_a_grandchild_that_holds_standard_error_hides_no_death(watch: Watch, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    outer = (
        "import os,subprocess,sys,time\n"
        "if os.path.exists(sys.argv[1]): sys.exit('second')\n"
        f"subprocess.Popen([sys.executable,'-c',{TELLS_PID!r},sys.argv[1]], start_new_session=True)\n"
        "while not os.path.exists(sys.argv[1]): time.sleep(0.01)\n"
        "sys.exit('last words')\n"
    )
    wait = asyncio.Event()
    supervisor = Supervisor(
        [ProcessSpec("a", "s", "smtp", (outer, str(mark)))],
        command=PYTHON,
        on_death=watch.on_death,
        sleep=lambda _: _forever(wait),
    )
    supervisor.start()
    try:
        await watch.until(lambda: len(watch.deaths) == 2)
    finally:
        await supervisor.stop()
        os.kill(int(mark.read_text(encoding="utf-8")), signal.SIGKILL)
    assert watch.deaths[0].last_words == "last words"


async def test_a_command_that_is_not_there_is_a_death_like_others(watch: Watch) -> None:
    supervisor = Supervisor([ProcessSpec("a", "s", "smtp", ())], command=("/nowhere/at/all",), on_death=watch.on_death)
    supervisor.start()
    await watch.until(lambda: len(watch.deaths) >= 1)
    await supervisor.stop()
    assert watch.deaths[0].last_words.startswith("cannot be started: ")


async def _forever(event: asyncio.Event) -> None:
    await event.wait()


@asynccontextmanager
async def _ends(pid: int) -> AsyncIterator[None]:
    """Waits, after what is done inside, until a process that is no child of ours has ended."""
    descriptor, ended = os.pidfd_open(pid), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        yield
        async with asyncio.timeout(LIMIT):
            await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def _until_there(*paths: Path) -> None:
    """Children say that they are ready by making a file; there is no event for that but looking."""
    async with asyncio.timeout(LIMIT):
        while not all(path.exists() for path in paths):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

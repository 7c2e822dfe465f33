"""`mailarray up`: from a file of resources to a running array, and back to nothing on Ctrl-C.

Order: read, check the machine, write folders and settings, start processes, show them, stop them. Everything that
can be said before something is started is said then, in one sentence (ResourceError, StartError).
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from mailarray.contract import mirroring_table
from mailarray.contract.resources.reading import ResourceError
from mailarray.contract.server_names import host_of
from mailarray.contract.settings import Listen
from mailarray.local import checks, supervisor
from mailarray.local.array_status import ACCESS, SIDECAR, SMTP, array_status
from mailarray.local.checks import StartError
from mailarray.local.demo import demo_address, demo_password, make_demo_account, make_demo_in_database
from mailarray.local.layout import Isolation, Layout, prepare, write_private
from mailarray.local.poller import POLL_SECONDS, Poller, Target
from mailarray.local.render import ACCESS_NAME, RenderedArray, render
from mailarray.local.resources import Resources, read_resources
from mailarray.local.status_server import status_app
from mailarray.local.supervisor import MAX_DELAY, Death, ProcessSpec, ProcessState, Supervisor
from mailarray.local.table_keeper import TableKeeper
from mailarray.local.view import draw, plain_line
from mailarray.observe import logs
from mailarray.observe.http import ListenError, serve

MAX_EARLY_DEATHS = 3  # of a process that never served: starting it again would not help, a person must look
EVENTS_SHOWN = 6  # lines under the table
PLAIN_SECONDS = 60.0  # between summary lines without a terminal
MAX_FILE_SIZE = 4 << 20  # bytes of resources; a cluster is some hundred lines

# Readers go first, then listeners (they seal their segments), then the sidecars that register what was sealed.
_STOP = {ACCESS: (0, 5.0), SMTP: (1, 10.0), SIDECAR: (2, 10.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """What a person says on the command line."""

    file: Path
    data: Path
    plain: bool = False
    isolate_users: bool = False
    catalog_url: str | None = None
    command: Sequence[str] = field(default_factory=lambda: supervisor.COMMAND)


def read_file(file: Path) -> Resources:
    """Read resources from a file. Raises ResourceError."""
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_FILE_SIZE + 1)
        if len(raw) > MAX_FILE_SIZE:
            raise ResourceError(f"{file} is larger than {MAX_FILE_SIZE >> 20}Mi; it is not a file of resources")
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ResourceError(f"{file} is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise ResourceError(f"{file} cannot be read: {error.strerror}; give the path of a file with -f") from None
    return read_resources(text, str(file))


def run_up(options: UpOptions, console: Console) -> None:
    """Run until a signal. Raises ResourceError or StartError; returns after a clean stop."""
    resources = read_file(options.file)
    layout = Layout(options.data.absolute())
    isolation = _isolation(options)
    array = render(resources, layout, catalog_url=options.catalog_url)
    checks.check_paths(layout, array)
    if isolation is not None:
        checks.check_reach(layout)
    with checks.lock_data(layout):
        checks.check_ports(array.ports())
        checks.check_volumes(array)
        checks.check_no_volume_left_out(layout, resources.volume_names)
        checks.check_disk(layout, array)
        checks.check_tls(layout, array)
        domains = [d.name for d in resources.spec.domains]
        try:
            if resources.spec.accounts.database is None:
                make_demo_account(layout, domains)
            prepare(layout, resources.volume_names, isolation)
            if resources.spec.accounts.database is not None:
                asyncio.run(make_demo_in_database(layout, domains, array.access.catalog))
            array = _write_settings(resources, layout, options, isolation)
            logs.configure("up", file=layout.log)
        except OSError as error:
            where = error.filename or layout.data
            raise StartError(
                f"{where} cannot be written: {error.strerror}; mend its permissions or make room"
            ) from error
        for note in resources.notes:
            console.print(note, style="dim", markup=False, highlight=False, soft_wrap=True)
        _print_demo(console, layout, domains)
        asyncio.run(Up(array, layout, isolation, options, console, domains, resources.max_restart_delay).run())


class Up:
    """One run of the array."""

    def __init__(
        self,
        array: RenderedArray,
        layout: Layout,
        isolation: Isolation | None,
        options: UpOptions,
        console: Console,
        domains: Sequence[str],
        max_restart_delay: float | None = None,
    ) -> None:
        self._array = array
        self._layout = layout
        self._options = options
        self._console = console
        self._live = console.is_terminal and not options.plain
        self._demo = (demo_address(domains), str(layout.demo_password)) if demo_password(layout) else None
        self._events: deque[str] = deque(maxlen=EVENTS_SHOWN)
        self._stop = asyncio.Event()
        self._failure: str | None = None
        self._poller = Poller(_targets(array), layout.token.read_text(encoding="utf-8").strip())
        self._table = TableKeeper(
            array.table, array.access.copies, lambda text: write_table(layout, text, isolation), self._poller
        )
        self._supervisor = Supervisor(
            process_specs(array, layout, isolation),
            command=options.command,
            max_delay=max_restart_delay or MAX_DELAY,
            on_start=self._started,
            on_death=self._died,
        )

    async def run(self) -> None:
        """Until a signal comes, or a process cannot be started at all (StartError)."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled)
        try:
            runner = await serve(status_app(self._status, self._poller.metrics), self._array.status)
        except ListenError as error:
            raise StartError(f"status: {error}") from error
        try:
            self._supervisor.start()
            await self._show()
        finally:
            self._say("stopping")
            await self._supervisor.stop()
            await self._poller.close()
            await runner.cleanup()
        if self._failure is not None:
            raise StartError(self._failure)
        self._print("stopped")

    def _signalled(self) -> None:
        if self._stop.is_set():
            self._supervisor.kill()  # asked twice: a person who will not wait
        self._stop.set()

    async def _show(self) -> None:
        with ExitStack() as stack:
            live = None
            if self._live:
                live = stack.enter_context(Live(console=self._console, auto_refresh=False, transient=False))
            await self._poll_until_stopped(live)

    async def _poll_until_stopped(self, live: Live | None) -> None:
        ready, next_line = False, time.monotonic() + PLAIN_SECONDS
        while not self._stop.is_set():
            await self._poller.poll()
            await self._table.follow(self._poller.answers)
            status = self._status()
            if live is not None:
                live.update(draw(status, width=self._console.width, demo=self._demo, events=self._events), refresh=True)
            elif status["ready"] and not ready:
                self._print(f"ready: {plain_line(status)}")
            elif time.monotonic() >= next_line:
                next_line = time.monotonic() + PLAIN_SECONDS
                self._print(plain_line(status))
            ready = ready or status["ready"]
            await _wait(self._stop, POLL_SECONDS if ready else POLL_SECONDS / 5)

    def _status(self) -> dict[str, Any]:
        return array_status(self._array, self._supervisor.states, self._poller.answers, time.monotonic())

    def _started(self, state: ProcessState) -> None:
        self._poller.answers.pop(state.spec.name, None)
        self._say(f"{state.spec.name} started, process {state.pid}")

    def _died(self, death: Death) -> None:
        last = death.last_words.removeprefix("mailarray: ")
        words = f": {last}" if last else ""
        later = f"in {death.restart_in:g} s" if death.restart_in else "at once"
        self._say(f"{death.name} died, {death.how}{words}; started again {later}")
        state = self._supervisor.states[death.name]
        hopeless = state.young_deaths >= MAX_EARLY_DEATHS and death.how.startswith("exit code")
        if hopeless and death.name not in self._poller.ever_answered and self._failure is None:
            self._failure = f"{death.name} cannot run, {death.how}{words or ': see ' + str(self._layout.data)}"
            self._stop.set()

    def _say(self, text: str) -> None:
        self._events.append(f"{time.strftime('%H:%M:%S')} {text}")
        if not self._live:
            self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def process_specs(array: RenderedArray, layout: Layout, isolation: Isolation | None) -> list[ProcessSpec]:
    """Every process of an array, with its command line."""

    def spec(name: str, server: str, role: str, folder: Path, settings: Path, index: int) -> ProcessSpec:
        arguments = ["run", role, str(settings), "--log-file", str(folder / f"{role}.log")]
        if isolation is not None:
            owner = isolation.owner(index)
            arguments += ["--user", str(owner.user), "--group", str(owner.group)]
        phase, seconds = _STOP[role]
        return ProcessSpec(name, server, role, tuple(arguments), stop_phase=phase, stop_seconds=seconds)

    specs = []
    servers = list(dict.fromkeys(host_of(server.server) for server in array.servers))
    for server in array.servers:
        for role in (SIDECAR, SMTP):
            folder, settings = layout.logs(server.server), layout.settings_file(server.server)
            index = servers.index(host_of(server.server))  # the volumes of one share its port, and so its user
            specs.append(spec(f"{server.server}/{role}", server.server, role, folder, settings, index))
    settings = layout.settings_file(ACCESS_NAME)
    specs.append(spec(ACCESS, ACCESS_NAME, ACCESS, layout.access / "log", settings, len(servers)))
    return specs


def _targets(array: RenderedArray) -> list[Target]:
    targets = [
        Target(f"{s.server}/{role}", s.server, role, listen)
        for s in array.servers
        for role, listen in ((SMTP, s.writer), (SIDECAR, s.sidecar))
    ]
    access: Listen = array.access.internal
    return [*targets, Target(ACCESS, ACCESS_NAME, ACCESS, access)]


def _isolation(options: UpOptions) -> Isolation | None:
    if not options.isolate_users:
        return None
    if os.geteuid() != 0:
        raise StartError("--isolate-users needs root, since it gives each server a user id of its own; leave it out")
    return Isolation()


def _write_settings(
    resources: Resources, layout: Layout, options: UpOptions, isolation: Isolation | None
) -> RenderedArray:
    """Render and write; the table's generation grows when its content changed since the last run."""
    array = render(resources, layout, generation=1, catalog_url=options.catalog_url)
    try:
        before = mirroring_table.load(layout.mirroring_table)
    except (OSError, ValueError):
        before = None
    if before is not None:
        same = (before.servers, before.rows) == (array.table.servers, array.table.rows)
        generation = before.generation + (0 if same else 1)
        array = render(resources, layout, generation=generation, catalog_url=options.catalog_url)
    for path, text in array.files(layout).items():
        _write(Path(path), text, isolation)
    return array


def write_table(layout: Layout, text: str, isolation: Isolation | None) -> None:
    """Put another mirroring table in place of the one that processes start with. Raises OSError."""
    _write(Path(layout.mirroring_table), text, isolation)


def _write(path: Path, text: str, isolation: Isolation | None) -> None:
    write_private(path, text)
    if isolation is not None:
        os.chown(path, -1, isolation.group)
        path.chmod(0o640)


def _print_demo(console: Console, layout: Layout, domains: Sequence[str]) -> None:
    password = demo_password(layout)
    if password is not None:
        text = f"demo account {demo_address(domains)}, password {password} (kept in {layout.demo_password})"
        console.print(text, markup=False, highlight=False, soft_wrap=True)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return

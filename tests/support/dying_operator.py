"""The operator, but it dies at a write: before or after the N-th write to the API server, without any clean-up.

`python -m tests.support.dying_operator run … --die-before=N` (or `--die-after`) takes what the operator takes, and ends
with status 66 when it died so. `DyingOperator` is the same in a process that is forked from one that has imported all,
so that a hundred of them may die in a test; its number is told while it runs, and its timers are short.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Awaitable, Callable, MutableSequence
from multiprocessing import sharedctypes
from pathlib import Path
from typing import Any

from mailarray_operator import main as operator
from mailarray_operator.cluster import loop, pusher, reconcile, reporter
from mailarray_operator.cluster.held import Key
from mailarray_operator.cluster.writer import Writer
from mailarray_operator.plan import deciding

DIED = 66
CALM_SECONDS = 0.15  # between two looks when nothing happens and nothing is awaited; more than any other pause
COUNTED = ("apply", "apply_status", "create", "change", "delete", "evict")
BEFORE, AFTER, COUNT, LOOKS = range(4)


class Dying:
    """Wraps a Writer; every method of COUNTED is one write, also one that the API server refuses.

    `numbers`: die before, die after (0: never), writes, looks in vain.
    """

    def __init__(self, writer: Writer, numbers: MutableSequence[int]) -> None:
        self._writer = writer
        self._numbers = numbers

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method: Callable[..., Awaitable[Any]] = getattr(self._writer, name)
        if name not in COUNTED:
            return method
        numbers = self._numbers

        async def counted(*arguments: Any, **options: Any) -> Any:
            if options.get("only_ask"):  # a dry run changes nothing
                return await method(*arguments, **options)
            numbers[COUNT] += 1
            mine = numbers[COUNT]
            if mine == numbers[BEFORE]:
                os._exit(DIED)
            try:
                return await method(*arguments, **options)
            finally:
                if mine == numbers[AFTER]:
                    os._exit(DIED)

        return counted


class DyingOperator:
    """Forked at once. It has no Lease."""

    _context = multiprocessing.get_context("forkserver")

    def __init__(self, kubeconfig: Path, log: Path, *arguments: str) -> None:
        self._context.set_forkserver_preload([__name__])
        self._numbers = sharedctypes.RawArray("i", 4)
        self.log = log
        command = ["run", f"--kubeconfig={kubeconfig}", "--no-leader-elect", "--listen=127.0.0.1:0", *arguments]
        command += ["--dataplane-image=dataplane:test", "--postgresql-image=postgresql:test"]
        self._process = self._context.Process(target=_run, args=(command, self._numbers, log), daemon=True)
        self._process.start()

    def die(self, when: str, number: int) -> None:
        """At the number-th write from now on, `when` is before or after."""
        self._numbers[COUNT] = 0
        self._numbers[BEFORE if when == "before" else AFTER] = number

    @property
    def writes(self) -> int:
        """Since its start, or since it was told when to die."""
        return int(self._numbers[COUNT])

    @property
    def looks(self) -> int:
        """Those that wrote nothing and await nothing, since its start; while all is calm there are some in a second."""
        return int(self._numbers[LOOKS])

    @property
    def dead(self) -> bool:
        """Whether it died as it was told to. Any other end is an AssertionError."""
        status = self._process.exitcode
        assert status in (None, DIED), f"the operator ended with {status}:\n{self.log.read_text()[-4000:]}"
        return status == DIED

    def kill(self) -> None:
        """SIGKILL, if it lives."""
        self._process.kill()
        self._process.join()


def _run(command: list[str], numbers: MutableSequence[int], log: Path) -> None:
    """In the forked process."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    deciding.REPORT_WAIT = reporter.HURRIED_SECONDS = reporter.LOOK_SECONDS = 0.1
    reporter.CALM_SECONDS, reporter.TICK_SECONDS = 2.0, 0.05
    reconcile.BLOCKED_SECONDS = reconcile.RETRY_SECONDS = reconcile.SECRETS_SECONDS = 0.1
    reconcile.PRUNE_SECONDS = CALM_SECONDS
    pusher.FIRST_BACKOFF = loop.FIRST_BACKOFF = 0.2
    _operate(command, numbers)


def _operate(command: list[str], numbers: MutableSequence[int]) -> None:
    start = operator.start
    look = reconcile.Reconciler.run

    async def counted_look(self: reconcile.Reconciler, key: Key) -> float | None:
        writes = numbers[COUNT]
        again = await look(self, key)
        if numbers[COUNT] == writes and again == reconcile.PRUNE_SECONDS:
            numbers[LOOKS] += 1
        return again

    reconcile.Reconciler.run = counted_look  # type: ignore[method-assign]

    def dying(configuration: Any, kubeconfig: Any, decide: Any) -> int:
        return start(configuration, kubeconfig, decide, lambda w: Dying(w, numbers))  # type: ignore[arg-type, return-value]

    operator.start = dying  # type: ignore[assignment]
    operator.main(command)


def main() -> None:
    """The operator's command line, with two more options."""
    numbers = {"--die-before": 0, "--die-after": 0}
    rest = []
    for argument in sys.argv[1:]:
        name, _, value = argument.partition("=")
        if name in numbers:
            numbers[name] = int(value)
        else:
            rest.append(argument)
    _operate(rest, [*numbers.values(), 0, 0])


if __name__ == "__main__":
    main()

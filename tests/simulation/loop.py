"""An event loop in virtual time: nothing waits, nothing happens but what a seed decides.

Invariants:

- Time moves only when no callback is ready, and then to the next timer: a run takes as long as its callbacks do.
- Everything runs in one thread in a fixed order; what an executor would do happens as one step after a delay.
- A callback belongs to the process in whose context it was scheduled. A process that is dead runs nothing any more,
  not even its `finally`; one that is stopped runs everything when it goes on.

Callbacks that are ready run first in, first out, as asyncio promises; other orders come from the delays of the network,
the disks and the catalog, which are drawn by seed.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol


class Owner(Protocol):
    """A process, as the loop knows it."""

    alive: bool
    stopped: bool
    backlog: list[Any]


PROCESS: contextvars.ContextVar[Any] = contextvars.ContextVar("process", default=None)
NOBODY = contextvars.Context()  # of the world itself


class ProcessDied(BaseException):
    """The end of a process, in the middle of a call."""


class Handle:
    """A callback that waits; a timer has a time."""

    __slots__ = ("args", "callback", "context", "time")

    def __init__(self, callback: Any, args: Any, context: contextvars.Context, time: float = 0.0) -> None:
        self.callback = callback
        self.args = args
        self.context = context
        self.time = time

    def cancel(self) -> None:
        self.callback = None

    def cancelled(self) -> bool:
        return self.callback is None

    def when(self) -> float:
        return self.time


class Task(asyncio.Task[Any]):
    """A task whose place in a set does not depend on where it lies in memory."""

    count = 0  # of the tasks of this world
    number = -1

    def __hash__(self) -> int:
        if self.number < 0:  # asked for before `__init__` is over, when asyncio puts it in the set of all tasks
            self.number = Task.count
            Task.count += 1
        return self.number


class VirtualLoop(asyncio.AbstractEventLoop):
    """See the module. `delay` draws the seconds that a call in a thread takes."""

    def __init__(self, delay: Callable[[], float]) -> None:
        Task.count = 0
        self.now = 0.0
        self.errors: list[str] = []
        self.steps = 0
        self._delay = delay
        self._ready: deque[Any] = deque()  # timers that are due, and (callback, arguments, context)
        self._timers: list[tuple[float, int, Handle]] = []
        self._count = 0
        self._tasks: list[Task] = []
        self._threads: dict[int, float] = {}  # a thread of its own -> busy until
        # Without a frame of Python's own: each is called some thousand times in a run.
        self.create_future = partial(asyncio.Future, loop=self)  # type: ignore[method-assign]

    # -- asyncio -------------------------------------------------------------------------------------
    def time(self) -> float:
        return self.now

    get_debug = staticmethod(bool)  # False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:  # type: ignore[override]
        self._ready.append((callback, args, contextvars.copy_context() if context is None else context))

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        when = self.now + delay
        handle = Handle(callback, args, contextvars.copy_context() if context is None else context, when)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, handle))
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        handle = Handle(callback, args, contextvars.copy_context() if context is None else context, when)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, handle))
        return handle

    def create_task(self, coro: Coroutine[Any, Any, Any], *, name: Any = None, context: Any = None) -> Any:  # type: ignore[override]
        task = Task(coro, loop=self, name="t", context=context)
        self._tasks.append(task)  # kept: a task that nobody waits for must not end when memory is cleaned up
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """As one step, after a while; calls for an executor of one thread come one after the other."""
        future = self.create_future()
        key = id(executor) if getattr(executor, "_max_workers", 0) == 1 else 0
        self.in_thread(key, lambda: func(*args), future)
        return future

    def in_thread(self, key: int, work: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        when = self.now + self._delay()
        if key:
            when = max(when, self._threads.get(key, 0.0))
            self._threads[key] = when

        def run() -> None:
            if future.cancelled():
                return  # a call that has not begun is not made
            try:
                result = work()
            except ProcessDied:
                return
            except BaseException as error:
                outcome: Any = error
                self.call_later(self._delay(), _fail, future, outcome)
            else:
                self.call_later(self._delay(), _finish, future, result)

        self.call_at(when, run)

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:  # type: ignore[override]
        fd.reader = (callback, contextvars.copy_context())

    def remove_reader(self, fd: Any) -> Any:
        fd.reader = None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not isinstance(error, (ProcessDied, OSError)):
            self.errors.append(f"{context.get('message')}: {error!r}")

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    # -- running -------------------------------------------------------------------------------------
    def run_until(self, until: float, done: Callable[[], bool] | None = None) -> None:
        """Until that time, or until `done`, which is asked before time moves."""
        ready, timers, pop = self._ready, self._timers, heapq.heappop
        while True:
            while ready:
                handle = ready.popleft()
                if type(handle) is tuple:
                    callback, args, context = handle
                else:
                    callback, args, context = handle.callback, handle.args, handle.context
                    if callback is None:
                        continue
                process = context.get(PROCESS)
                if process is not None:
                    if not process.alive:
                        continue
                    if process.stopped:
                        process.backlog.append(handle)
                        continue
                self.steps += 1
                try:
                    context.run(callback, *args)
                except ProcessDied:
                    pass
                except Exception as error:
                    self.errors.append(f"callback failed: {error!r}")
            if done is not None and done():
                return
            if not timers or timers[0][0] > until:
                self.now = max(self.now, until)
                return
            when, _, handle = pop(timers)
            if handle.callback is not None:
                if when > self.now:
                    self.now = when
                ready.append(handle)
                while timers and timers[0][0] <= self.now:
                    handle = pop(timers)[2]
                    if handle.callback is not None:
                        ready.append(handle)

    def go_on(self, backlog: list[Any]) -> None:
        """What a stopped process has to catch up on."""
        self._ready.extend(backlog)
        backlog.clear()

    def forget(self) -> None:
        """Drop everything; nothing runs any more. What never came to its end is ended here, one by one: left to the
        garbage collector, a coroutine may find its own task gone."""
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                _close(task.get_coro())
        self._ready.clear()
        self._timers.clear()
        self._tasks.clear()


def _close(coroutine: Any) -> None:
    for _ in range(20):  # each `await` in a `finally` is one more
        try:
            coroutine.close()
            return
        except RuntimeError:
            continue
        except BaseException:
            return


def _finish(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)

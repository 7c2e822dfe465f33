"""The operator, but it dies at a write: `--die-before N` or `--die-after N`, the N-th write to the API server.

`python -m tests.support.dying_operator run …` takes what the operator takes. It ends with status 66 when it died so,
without any clean-up, as a power cut would.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from mailarray_operator import main as operator
from mailarray_operator.cluster.writer import Writer

DIED = 66
COUNTED = ("apply", "apply_status", "create", "change", "delete", "evict")


class Dying:
    """Wraps a Writer; every method of COUNTED is one write."""

    def __init__(self, writer: Writer, before: int, after: int) -> None:
        self._writer = writer
        self._before, self._after = before, after
        self._count = 0

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method: Callable[..., Awaitable[Any]] = getattr(self._writer, name)
        if name not in COUNTED:
            return method

        async def counted(*arguments: Any) -> Any:
            self._count += 1
            mine = self._count
            if mine == self._before:
                os._exit(DIED)
            answer = await method(*arguments)
            if mine == self._after:
                os._exit(DIED)
            return answer

        return counted


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
    start = operator.start

    def dying(configuration: Any, kubeconfig: Any, decide: Any) -> int:
        return start(configuration, kubeconfig, decide, lambda w: Dying(w, *numbers.values()))  # type: ignore[arg-type, return-value]

    operator.start = dying  # type: ignore[assignment]
    operator.main(rest)


if __name__ == "__main__":
    main()

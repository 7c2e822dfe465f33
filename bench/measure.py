"""One round of one peer: start, warm up, load, wait until the messages count, stop.

Only the peer that is measured runs. The disk is synced before each round, so no peer pays for another's pages.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from bench.addresses import MAILBOXES, MAX_MESSAGES
from bench.load import Load, send
from bench.peers.peer import Peer
from bench.processes import Sampler, machine_busy_seconds, own_busy_seconds

_SETTLE = 1.0  # seconds after the last message until CPU is read: work put off for later counts too
_SAMPLE = 1.0  # seconds between two looks at memory; a look at a hundred processes costs some milliseconds


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    seconds: float  # that a round shall last
    rounds: int
    warm_up: int = MAILBOXES  # messages: one for each mailbox, so that none is opened for the first time


@dataclass(frozen=True, slots=True)
class Sample:
    """What one round gave."""

    messages: int
    seconds: float
    cpu_seconds: float
    peak_pss: int  # bytes
    other_cpu: float  # cores kept busy by neither the system under test nor the load: the kernel's, or a stranger's

    @property
    def rate(self) -> float:
        """Messages a second, from the first connection until the last message counts."""
        return self.messages / self.seconds


def measure(peer: Peer, load: Load, effort: Effort, directory: Path, rate: float | None) -> Sample:
    """One round; `rate` of an earlier round, when there is one, says how many messages fill it."""
    directory.mkdir(parents=True, exist_ok=True)
    with peer.running(directory) as system:
        begin = time.perf_counter()
        send(load, effort.warm_up, system.ports)
        system.wait(effort.warm_up)
        rate = rate or effort.warm_up / (time.perf_counter() - begin)
        messages = max(effort.warm_up, min(MAX_MESSAGES, int(rate * effort.seconds)))
        os.sync()
        time.sleep(_SETTLE)
        cpu = sum(daemon.cpu_seconds() for daemon in system.daemons)
        samplers = [Sampler(daemon, _SAMPLE) for daemon in system.daemons]
        for sampler in samplers:
            sampler.__enter__()
        others = machine_busy_seconds() - own_busy_seconds()
        begin = time.perf_counter()
        try:
            send(load, messages, system.ports)
            system.wait(effort.warm_up + messages)
            seconds = time.perf_counter() - begin
        finally:
            for sampler in samplers:
                sampler.__exit__(None, None, None)
        time.sleep(max(0.0, _SETTLE - (time.perf_counter() - begin - seconds)))
        cpu = sum(daemon.cpu_seconds() for daemon in system.daemons) - cpu
        others = machine_busy_seconds() - own_busy_seconds() - others - cpu
        elapsed = time.perf_counter() - begin
    return Sample(messages, seconds, cpu, sum(sampler.peak for sampler in samplers), max(0.0, others / elapsed))


def clear(directory: Path) -> None:
    """Remove what a peer left on disk."""
    shutil.rmtree(directory, ignore_errors=True)

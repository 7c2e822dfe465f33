"""One trace with one strategy: mail comes, servers answer, and every few seconds the planner plans.

Invariants
- Deterministic: all chance comes from the trace's seed; the same seed gives every strategy the same arrivals.
- The planner is given what the operator gives it, by time of the trace, and its plans go through JSON as they do there.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from random import Random

from mailarray_operator.mx import Decision, LoadReport, MxPlan, Policy, State, dump, load, plan
from simulate.resolvers import PUBLISHING, NameServer, Resolvers
from simulate.senders import RETRIES, retry_after, targets
from simulate.servers import Answer, Server
from simulate.traces import Trace

INTERVAL = 5.0  # seconds between two plans
NOTICED = 10.0  # seconds until a server that is away is Lost
JOINING = 10.0  # seconds that a server joins when it is back
SAMPLE = 10.0  # seconds between two points of a plot
EPOCH = 1_000_000.0  # the planner's clock at the beginning of the trace


@dataclass(slots=True)
class Sample:
    """One point in time."""

    at: float
    loads: list[float]  # of the servers that are up, sorted
    slow: float | None  # of the first slow server
    deferred: float  # share of the first attempts since the last sample that heard 421 or 451, or nothing
    changes: int  # of bands, from the beginning


@dataclass(slots=True)
class Outcome:
    """What came of a trace with a strategy."""

    trace: Trace
    policy: Policy
    messages: int = 0
    first_deferred: int = 0  # first attempts that heard 421 or 451
    first_nothing: int = 0  # first attempts that found nobody
    put_off: int = 0  # messages whose sender had to try later
    delivered: int = 0
    fewest_targets: int = 0
    changes: list[tuple[float, Decision]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    @property
    def deferred_share(self) -> float:
        return self.first_deferred / self.messages if self.messages else 0.0


class Model:
    """The state of one run."""

    def __init__(self, trace: Trace, policy: Policy) -> None:
        self._trace = trace
        self._policy = policy
        self._chance = Random(f"{trace.seed}/servers")
        self._arrivals = Random(f"{trace.seed}/arrivals")
        self._servers = [Server(trace.speed(number), self._chance) for number in range(trace.servers)]
        self._names = [f"mx-{number:03}" for number in range(trace.servers)]
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._name_server = NameServer()
        self._plan: MxPlan | None = None
        self._retries: list[tuple[float, int, int, int]] = []  # time, number, resolver, retries so far
        self._outcome = Outcome(trace, policy, fewest_targets=trace.servers)
        self._last = (0, 0)  # messages and failed first attempts at the last sample
        self._make_plan(0.0, publishing=0.0)
        self._resolvers = Resolvers(self._name_server, policy.ttl, self._chance)

    def run(self) -> Outcome:
        trace = self._trace
        arrivals, tick, sample, rate = self._arrivals.expovariate, INTERVAL, SAMPLE, trace.rate
        now, arrival = 0.0, arrivals(rate)
        while now < trace.seconds:
            retry = self._retries[0][0] if self._retries else trace.seconds
            now = min(arrival, retry, tick)
            if now == arrival:
                self._deliver(now, self._resolvers.any(), 0)
                arrival = now + arrivals(rate * trace.factor(now))
            elif now == retry and self._retries:
                _, _, resolver, tried = heapq.heappop(self._retries)
                self._deliver(now, resolver, tried)
            else:
                self._happen(now)
                self._make_plan(now)
                if now >= sample:
                    self._take_sample(now)
                    sample += SAMPLE
                tick += INTERVAL
        return self._outcome

    def _deliver(self, now: float, resolver: int, tried: int) -> None:
        outcome = self._outcome
        outcome.messages += tried == 0
        first = tried == 0
        for server in targets(self._resolvers.ask(resolver, now), self._chance.random):
            answer = self._servers[server].offer(now)
            if answer is Answer.ACCEPTED:
                outcome.delivered += 1
                return
            if first:
                outcome.first_deferred += answer is Answer.DEFERRED
                outcome.first_nothing += answer is Answer.NOTHING
            first = False
        outcome.put_off += tried == 0
        if tried < RETRIES:
            later = now + retry_after(tried, self._chance)
            heapq.heappush(self._retries, (later, outcome.messages, resolver, tried + 1))

    def _happen(self, now: float) -> None:
        for outage in self._trace.outages:
            server = self._servers[outage.server]
            up = not outage.start <= now < outage.end
            if up and not server.up:
                server.reset(now)
            server.up = up if outage.start <= now < outage.end + INTERVAL else server.up

    def _make_plan(self, now: float, publishing: float = PUBLISHING) -> None:
        before = self._plan
        kept = None if before is None else load(dump(before))
        made = plan(self._reports(now), kept, self._policy, EPOCH + now)
        self._plan = made
        self._outcome.changes += [(now, decision) for decision in made.changes if before is not None]
        self._outcome.fewest_targets = min(self._outcome.fewest_targets, len(made.targets))
        if before is None or before.targets != made.targets:
            self._name_server.publish(made, self._numbers, now + publishing)

    def _reports(self, now: float) -> list[LoadReport]:
        states = dict.fromkeys(range(len(self._servers)), State.SERVING)
        for outage in self._trace.outages:
            if outage.start + NOTICED <= now < outage.end:
                states[outage.server] = State.LOST
            elif outage.end <= now < outage.end + JOINING:
                states[outage.server] = State.JOINING
        return [
            LoadReport(name, server.measure(now), EPOCH + now, states[number])
            if server.up
            else LoadReport(name, server.load, EPOCH + now - 60.0, states[number])
            for number, (name, server) in enumerate(zip(self._names, self._servers, strict=True))
        ]

    def _take_sample(self, now: float) -> None:
        outcome = self._outcome
        failed = outcome.first_deferred + outcome.first_nothing
        messages = outcome.messages - self._last[0]
        share = (failed - self._last[1]) / messages if messages else 0.0
        self._last = (outcome.messages, failed)
        loads = sorted(server.load for server in self._servers if server.up)
        slow = self._servers[self._trace.slow[0]].load if self._trace.slow else None
        outcome.samples.append(Sample(now, loads, slow, share, len(outcome.changes)))


def simulate(trace: Trace, policy: Policy) -> Outcome:
    return Model(trace, policy).run()

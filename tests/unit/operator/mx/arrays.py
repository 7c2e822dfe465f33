"""Reports of whole arrays in few words, for the tests of the planner."""

from __future__ import annotations

from mailarray_operator.mx import LoadReport, MxPlan, Policy, State, plan

INTERVAL = 5.0  # seconds between two plans


def reports(now: float, loads: dict[str, float], **states: State) -> list[LoadReport]:
    """Fresh ones. A server's state is given by its name with _ for -."""
    return [
        LoadReport(server, load, now, states.get(server.replace("-", "_"), State.SERVING))
        for server, load in loads.items()
    ]


def even(servers: int, load: float = 0.3) -> dict[str, float]:
    return {f"mx-{number:03}": load for number in range(servers)}


def run(
    loads: dict[str, float], previous: MxPlan | None, policy: Policy, start: float, seconds: float, **states: State
) -> tuple[MxPlan, list[tuple[float, str, int | None, int | None, str]]]:
    """Plan every five seconds; the last plan, and every change with its time."""
    now, changes = start, []
    while now <= start + seconds:
        previous = plan(reports(now, loads, **states), previous, policy, now)
        changes += [(now, d.server, d.before, d.after, d.reason) for d in previous.changes]
        now += INTERVAL
    changes.sort(key=lambda change: change[:2])
    assert previous is not None
    return previous, changes


def band(made: MxPlan, server: str) -> int | None:
    return next(m.band for m in made.members if m.server == server)


def bands(made: MxPlan) -> dict[str, int | None]:
    return {m.server: m.band for m in made.members}

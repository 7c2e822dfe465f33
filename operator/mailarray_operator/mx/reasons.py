"""Why a server stands where it stands, in one word each: programs match on these words, so they never change.

Reasons of changes stand in the plan and in events; reasons of waiting stand in the decisions of one plan only.
"""

from __future__ import annotations

from typing import Final

# Changes
FIRST_PLAN: Final = "FirstPlan"
JOINING: Final = "Joining"
JOINED: Final = "Joined"
LOADED: Final = "Loaded"
RECOVERED: Final = "Recovered"
NOT_ACCEPTING: Final = "NotAccepting"
TURN: Final = "Turn"
CHANCE: Final = "Chance"
STRATEGY: Final = "Strategy"
EXTERNAL: Final = "External"
LIFTED: Final = "Lifted"
# Changes that wait for nothing
LOST: Final = "Lost"
DRAINING: Final = "Draining"
REMOVED: Final = "Removed"
KEPT_FOR_MINIMUM: Final = "KeptForMinimum"
# Waiting
DWELL: Final = "Dwell"
BUDGET: Final = "Budget"
NO_ROOM: Final = "NoRoom"
STILL_SLOW: Final = "StillSlow"
STALE: Final = "Stale"
OVER_MAX_TARGETS: Final = "OverMaxTargets"

FAILINGS: Final = frozenset({LOADED, NOT_ACCEPTING, LOST})
"""Soon after a return to the best band, these double the dwell."""

FORCED: Final = frozenset({LOST, DRAINING, REMOVED, KEPT_FOR_MINIMUM, LIFTED, FIRST_PLAN, JOINING, EXTERNAL})
"""Changes that neither dwell nor budget holds up, and that do not use the budget."""

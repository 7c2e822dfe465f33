"""How a time that can only be guessed is told to people: in few and rough steps, so that nobody reads more into it, and
a status that holds it is not written every second. Used by the sidecar's views and by the operator.
"""

from __future__ import annotations

import math
from typing import Any

_STEPS = ((600, 60), (3600, 300), (10 * 3600, 1800))  # up to so many seconds, rounded up to so many
_LARGEST_STEP = 3600


def told(seconds: Any) -> str:
    """`3m`, `25m`, `2h30m`, `72h`; "" when it is not known."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
        return ""
    step = next((step for limit, step in _STEPS if seconds <= limit), _LARGEST_STEP)
    minutes = max(1, math.ceil(seconds / step) * step // 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m" if hours and minutes else f"{hours}h" if hours else f"{minutes}m"

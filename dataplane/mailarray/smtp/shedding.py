"""Whether a new connection is let in: the answer at once, long before DNS tells anybody to go elsewhere.

Called by the listener for each connection; pure but for one counter. Sessions under way are never looked at here.

Invariants
- At `max_connections` sessions nobody is let in.
- Below it, somebody is turned away only when other servers take mail: a sender with nowhere to go would only wait.
- Between the soft and the hard limit a share is turned away, 0 at the one and 1 at the other, and spread evenly: after
  any number of connections, as many were turned away as their shares add up to, rounded down.
- Only figures that fall by themselves while nobody is let in decide. A slow disk is not among them: with no new mail it
  would stay slow in the books for ever. It shows in the sessions, which last longer.
"""

from __future__ import annotations

from mailarray.contract.settings import SmtpLimits
from mailarray.smtp import replies
from mailarray.smtp.replies import Refusal

_ROUNDING = 1e-9  # ten shares of 0.1 are one


class Door:
    """The counter, and the limits that it serves."""

    __slots__ = ("_limits", "_owed", "_soft", "elsewhere")

    def __init__(self, limits: SmtpLimits) -> None:
        self._limits = limits
        self._soft = limits.soft_limit_percent / 100
        self._owed = 0.0  # connections that should have been turned away and were not, always below 1
        self.elsewhere = False  # other servers take mail

    def refusal(self, sessions: int, pending_bytes: int) -> Refusal | None:
        """Why one more connection is turned away, or None. `sessions`: those that were let in and are still open."""
        limits = self._limits
        if sessions >= limits.max_connections:
            return replies.BUSY
        if not self.elsewhere:
            return None  # too much pending is said at MAIL, when it may be over
        if pending_bytes > limits.soft_pending_bytes:
            return replies.BUSY_STORING
        share = self.share(sessions, pending_bytes)
        if share > 0.0:
            self._owed += share
            if self._owed >= 1.0 - _ROUNDING:
                self._owed = max(0.0, self._owed - 1.0)
                return replies.ELSEWHERE
        return None

    def share(self, sessions: int, pending_bytes: int) -> float:
        """The share of new connections that is turned away now."""
        limits = self._limits
        used = max(sessions / limits.max_connections, pending_bytes / limits.soft_pending_bytes)
        if used >= 1.0:
            return 1.0 if self.elsewhere or sessions >= limits.max_connections else 0.0
        if not self.elsewhere or used <= self._soft:
            return 0.0
        return (used - self._soft) / (1.0 - self._soft)

"""Pure decisions: what was observed and the time in, what shall be out. No client, clock or environment."""

from mailarray_operator.plan.deciding import decide

__all__ = ["decide"]

"""Senders that obey RFC 5321, resolvers, and servers with limits, around the operator's own MX planner.

`make simulate` runs every trace with every strategy and writes `build/simulate/`. Nothing here is part of what is
installed, and nothing here decides: the planner is the one that the operator uses, called as the operator calls it.
"""

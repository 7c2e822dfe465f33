"""Bugs planted on purpose: for each rule, production with that sentence left out. The simulation has to catch them.

A bug is a patch of one or two production methods, put in place after the world has put itself in the place of the
outside, and taken back with it. `hot` names events that are likelier in a world with that bug, so that a short run
meets it; nothing else of the world is different.
"""

from tests.simulation.planted import append, compact, give_back, register, seal  # noqa: F401  each adds its rules
from tests.simulation.planted.plants import PLANTS, Plant, planted

__all__ = ["PLANTS", "Plant", "planted"]

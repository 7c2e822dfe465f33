"""The Secrets that the operator makes itself: the token of the internal ports, and the password of its database.

Invariant: one that is not there is made with new contents only while nothing can know the old ones. Servers that run
with a token do not understand those with another one, and a database's volume keeps its password for ever; so a new
value would be worse than none: what runs goes on without the Secret.

Called by `deciding`. A Secret of which the operator still knows what it held, `cluster/secrets.py` has restored before.
"""

from __future__ import annotations

from mailarray.contract.resources.mailcluster import MailClusterSpec
from mailarray_operator.api import names
from mailarray_operator.plan.observation import Observation

SECTION = "docs/operations.md, A Secret of the operator is gone"


def to_be_made(observation: Observation, spec: MailClusterSpec) -> tuple[str, ...]:
    """Those that are not there and that nothing uses yet."""
    in_use = dict(_in_use(observation))
    return tuple(name for name in _absent(observation, spec) if name not in in_use)


def missed(observation: Observation, spec: MailClusterSpec) -> str | None:
    """What is to be said of the first one that is not there and is in use."""
    absent = _absent(observation, spec)
    return next((sentence for name, sentence in _in_use(observation) if name in absent), None)


def _absent(observation: Observation, spec: MailClusterSpec) -> list[str]:
    own = [names.internal_secret(observation.name)]
    if spec.catalog.database_secret_ref is None:
        own.append(names.database(observation.name))
    return [name for name in own if name in observation.secrets and observation.secrets[name] is None]


def _in_use(observation: Observation) -> list[tuple[str, str]]:
    """Own Secrets whose contents somebody holds, with what is to be said when they are gone."""
    found = []
    table = observation.table
    if (table is not None and table.servers) or any(group.pods for group in observation.groups.values()):
        name = names.internal_secret(observation.name)
        what = (
            "the token that servers know each other by, was deleted while they work with it, and no pod starts without"
        )
        do = "make it again with the same token, which every server's pod that runs still has"
        found.append((name, f"the Secret {name}, {what}; {do} ({SECTION})"))
    if observation.database_claimed:
        name = names.database(observation.name)
        what = "the password of the catalog's database, was deleted, and the volume of the database knows no other one"
        do = "make it again with the same password and url, which every server's pod that runs still has"
        found.append((name, f"the Secret {name}, {what}; {do} ({SECTION})"))
    return found

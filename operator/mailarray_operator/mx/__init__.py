"""MX by load: load reports in, a plan of preference bands out, and the DNS records of it. Pure."""

from mailarray_operator.mx.access import access_records, service_records
from mailarray_operator.mx.asked import policy_of
from mailarray_operator.mx.persisting import dump, load
from mailarray_operator.mx.planning import plan
from mailarray_operator.mx.policy import External, Policy, Strategy
from mailarray_operator.mx.published import Decision, Member, MxPlan, Target
from mailarray_operator.mx.rendering import Records, records
from mailarray_operator.mx.reports import LoadReport, State

__all__ = [
    "Decision",
    "External",
    "LoadReport",
    "Member",
    "MxPlan",
    "Policy",
    "Records",
    "State",
    "Strategy",
    "Target",
    "access_records",
    "dump",
    "load",
    "plan",
    "policy_of",
    "records",
    "service_records",
]

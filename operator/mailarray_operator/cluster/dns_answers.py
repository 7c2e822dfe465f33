"""What DNS answered of one MailCluster's records, and what follows from it: differences, who is still named. Pure.

Invariants
- Who cannot be asked has said nothing: what was answered before stands.
- A server is named as long as an MX record leads to it, by its own name or by a shared one that has its address; and
  may be named when nobody could be asked although records were handed over.
Fed by the steering with the resolver's answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mailarray_operator.cluster.mx_inputs import Inputs
from mailarray_operator.cluster.resolver import NoAnswer, Question, Records
from mailarray_operator.mx.endpoints import ascii_name
from mailarray_operator.plan.mx_status import Difference

ADDRESS_TYPES = ("A", "AAAA")
Manifests = Sequence[Mapping[str, object]]


def wanted_records(
    domains: Iterable[str], mx: Records, manifests: Iterable[Mapping[str, object]]
) -> dict[Question, Records]:
    """What DNS should answer: MX of every domain, and the addresses that are handed over."""
    found: dict[Question, Records] = {(ascii_name(domain), "MX"): mx for domain in domains} if mx else {}
    for manifest in manifests:
        spec = manifest["spec"]
        assert isinstance(spec, Mapping)
        for one in spec["endpoints"]:
            if one["recordType"] in ADDRESS_TYPES:
                found[one["dnsName"], one["recordType"]] = tuple(sorted(one["targets"]))
    return found


def zone_of(name: str, domains: Iterable[str]) -> str:
    """The domain of the cluster that a name lies in, itself when it lies in none."""
    inside = [d for d in map(ascii_name, domains) if name == d or name.endswith(f".{d}")]
    return max(inside, key=len) if inside else name


@dataclass(slots=True)
class Answers:
    """What is known by now."""

    asked: bool = False
    published: dict[str, Records] = field(default_factory=dict)  # domain -> MX records as they were answered last
    silent: dict[str, str] = field(default_factory=dict)  # domain -> why there is no answer now
    differing: tuple[Difference, ...] = ()
    differing_since: float | None = None  # seconds since 1970
    right_addresses: int = 0
    behind_shared: dict[str, set[str]] = field(default_factory=dict)  # host in MX records -> its addresses
    named: frozenset[str] = frozenset()
    gone: dict[str, float] = field(default_factory=dict)

    def questions(self, wanted: Mapping[Question, Records]) -> list[Question]:
        """What to ask: also for names that are not asked for any more, and that DNS still has."""
        hosts = {_host(record) for records in self.published.values() for record in records}
        old = {(host, type_) for host in hosts if host.startswith("mx-shared-") for type_ in ADDRESS_TYPES}
        return sorted({*wanted, *old})

    def take(
        self,
        wanted: Mapping[Question, Records],
        heard: Mapping[Question, Sequence[Records | NoAnswer]],
        now: float,
    ) -> None:
        """One round of answers. Of name servers that do not agree, one that is wrong counts."""
        self.asked = True
        self.silent, self.behind_shared = {}, {}
        differing: list[Difference] = []
        self.right_addresses = 0
        asked_for = {name for name, type_ in wanted if type_ == "MX"}
        self.published = {domain: records for domain, records in self.published.items() if domain in asked_for}
        for question, answers in sorted(heard.items(), key=lambda item: (item[0][1] != "MX", item[0])):
            name, type_ = question
            said = [answer for answer in answers if not isinstance(answer, NoAnswer)]
            if not said:
                if type_ == "MX":
                    self.silent[name] = next((a.why for a in answers if isinstance(a, NoAnswer)), "no name server")
                continue
            right = wanted.get(question)
            answer = next((records for records in said if records != right), said[0])
            if type_ == "MX":
                self.published[name] = answer
            else:
                self.behind_shared.setdefault(name, set()).update(answer)
            if right is None:
                continue
            if answer != right:
                differing.append(Difference(name, type_, right, answer))
            elif type_ != "MX":
                self.right_addresses += 1
        self.differing = tuple(differing)
        if not differing:
            self.differing_since = None
        elif self.differing_since is None:
            self.differing_since = now

    def judge(self, inputs: Inputs, handed_over: bool, left: Iterable[str], now: float) -> None:
        """Set `named` and `gone`. `left`: servers of the plan that are not published; they may just have been."""
        hosts = {_host(record) for records in self.published.values() for record in records}
        unknown = any(ascii_name(domain) not in self.published for domain in inputs.domains)
        named = set()
        for server, candidate in inputs.servers.items():
            own = ascii_name(candidate.hostname) in hosts
            shared = any(set(candidate.addresses) & self.behind_shared.get(h, set()) for h in hosts)
            if own or shared or (unknown and handed_over):
                named.add(server)
        for server in (self.named - named) | (set() if self.gone or self.named else set(left) - named):
            self.gone.setdefault(server, now)
        self.gone = {s: at for s, at in self.gone.items() if s in inputs.servers and s not in named}
        self.named = frozenset(named)


def _host(record: str) -> str:
    return record.rpartition(" ")[2]

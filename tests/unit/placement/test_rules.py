"""The first rule that fits, with all its conditions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailarray.contract.settings import PlacementRule, PlacementWhen
from mailarray.model.message import Delivery
from mailarray.placement.rules import RuleBook
from mailarray.placement.urgency import Urgency

ANNA = Delivery("anna@mail.example", "anna@mail.example")
SALES = Delivery("anna@mail.example", "Sales@Shop.Example")  # an alias
JUERGEN = Delivery("jürgen@bücher.example", "jürgen@bücher.example")


def rule(name: str, **when: Any) -> PlacementRule:
    return PlacementRule(name=name, when=PlacementWhen(**when), group=f"group-of-{name}")


def fits(when: dict[str, Any], *deliveries: Delivery, size: int = 1000, urgency: Urgency = Urgency.NORMAL) -> bool:
    return RuleBook([rule("one", **when)]).first_fitting(size, urgency, deliveries or (ANNA,)) is not None


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ({"min_size": 1000}, True),
        ({"min_size": 1001}, False),
        ({"max_size": 1000}, True),
        ({"max_size": 999}, False),
        ({"min_size": 1, "max_size": 999}, False),
        ({"urgency": "Normal"}, True),
        ({"urgency": "High"}, False),
        ({"domains": ("mail.example",)}, True),
        ({"domains": ("MAIL.Example.",)}, True),
        ({"domains": ("example",)}, False),
        ({"domains": ("other.example", "mail.example")}, True),
        ({"recipients": ("anna@mail.example",)}, True),
        ({"recipients": ("ANNA@mail.example",)}, True),
        ({"recipients": ("bert@mail.example",)}, False),
        ({"recipients": ("anna@mail.example",), "domains": ("other.example",)}, False),
        ({"recipients": ("anna@mail.example",), "urgency": "High"}, False),
        ({"recipients": ("anna@mail.example",), "urgency": "Normal", "min_size": 5, "max_size": 5000}, True),
    ],
)
def test_all_conditions_count(when: dict[str, Any], expected: bool) -> None:
    assert fits(when) is expected


def test_one_recipient_is_enough_by_its_mailbox_or_as_it_was_written() -> None:
    for address in ("anna@mail.example", "sales@shop.example"):
        assert fits({"recipients": (address,)}, SALES)
    for domain in ("mail.example", "shop.example"):
        assert fits({"domains": (domain,)}, SALES)
    assert fits({"domains": ("mail.example",)}, JUERGEN, ANNA)
    assert fits({"domains": ("xn--bcher-kva.example",)}, JUERGEN)
    assert not fits({"recipients": ("anna@shop.example",)}, SALES)


def test_the_first_rule_decides() -> None:
    book = RuleBook([rule("large", min_size=5000), rule("urgent", urgency="High"), rule("all", min_size=1)])

    def first(size: int, urgency: Urgency) -> str | None:
        found = book.first_fitting(size, urgency, (ANNA,))
        return None if found is None else found.group

    assert first(9000, Urgency.HIGH) == "group-of-large"
    assert first(1000, Urgency.HIGH) == "group-of-urgent"
    assert first(1000, Urgency.LOW) == "group-of-all"
    assert first(0, Urgency.LOW) is None


def test_the_header_is_looked_at_only_when_a_rule_asks() -> None:
    assert RuleBook([rule("a", min_size=1), rule("b", urgency="Low")]).needs_urgency
    assert not RuleBook([rule("a", min_size=1), rule("b", domains=("x.example",))]).needs_urgency


def test_an_urgency_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="Soon"):
        RuleBook([rule("a", urgency="Soon")])


WHENS = st.fixed_dictionaries(
    {},
    optional={
        "urgency": st.sampled_from([u.value for u in Urgency]),
        "min_size": st.integers(1, 5),
        "max_size": st.integers(1, 5),
        "domains": st.lists(st.sampled_from(["a.x", "b.x"]), max_size=2).map(tuple),
        "recipients": st.lists(st.sampled_from(["u@a.x", "v@b.x"]), max_size=2).map(tuple),
    },
)
DELIVERIES = st.lists(
    st.sampled_from([Delivery("u@a.x", "u@a.x"), Delivery("v@a.x", "v@b.x"), Delivery("w@c.x", "W@B.x")]), min_size=1
)


@given(st.lists(WHENS, max_size=4), st.integers(0, 6), st.sampled_from(Urgency), DELIVERIES)
def test_against_the_sentence(
    whens: list[dict[str, Any]], size: int, urgency: Urgency, deliveries: list[Delivery]
) -> None:
    """Read as a person reads it, rule by rule."""
    texts = [a.lower() for d in deliveries for a in (d.mailbox, d.recipient)]

    def sentence(when: dict[str, Any]) -> bool:
        says = [
            when.get("urgency", urgency.value) == urgency.value,
            when.get("min_size", size) <= size,
            when.get("max_size", size) >= size,
            not when.get("domains") or any(t.endswith("@" + d) for t in texts for d in when["domains"]),
            not when.get("recipients") or any(t in when["recipients"] for t in texts),
        ]
        return all(says)

    expected = next((str(i) for i, when in enumerate(whens) if sentence(when)), None)
    found = RuleBook([rule(str(i), **when) for i, when in enumerate(whens)]).first_fitting(size, urgency, deliveries)
    assert (None if found is None else found.name) == expected

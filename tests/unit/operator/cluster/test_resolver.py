"""What a name server answers, over UDP on loopback."""

from __future__ import annotations

import click
import pytest

from mailarray_operator.cluster import resolver
from mailarray_operator.cluster.resolver import NoAnswer, Resolver, split
from mailarray_operator.main import checked
from tests.support.fake_dns import name_server

MX = ("mail.example", "MX")


async def test_answers_are_as_dnsendpoints_have_them() -> None:
    async with name_server() as server:
        server.records[MX] = ["20 Mail-1.mail.example", "10 mail-0.mail.example"]
        server.records["mail-0.mail.example", "AAAA"] = ["2001:db8::1"]
        asked = Resolver([f"127.0.0.1:{server.port}"])
        questions = [MX, ("mail-0.mail.example", "AAAA"), ("mail-0.mail.example", "A")]
        found = await asked.ask(questions, {"mail-0.mail.example": "mail.example"})
    assert found == {
        MX: [("10 mail-0.mail.example", "20 mail-1.mail.example")],
        ("mail-0.mail.example", "AAAA"): [("2001:db8::1",)],
        ("mail-0.mail.example", "A"): [()],
    }


async def test_each_name_server_is_asked_and_a_silent_one_is_no_empty_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "QUERY_SECONDS", 0.2)
    async with name_server() as one, name_server() as other:
        one.records[MX] = ["10 mail-0.mail.example"]
        other.silent = True
        found = await Resolver([f"127.0.0.1:{one.port}", f"127.0.0.1:{other.port}"]).ask([MX], {})
        assert other.asked == [MX] * resolver.TRIES
    said, silence = found[MX]
    assert said == ("10 mail-0.mail.example",)
    assert isinstance(silence, NoAnswer)
    assert "127.0.0.1" in silence.why


async def test_a_name_server_without_an_address_is_a_sentence() -> None:
    found = await Resolver(["nowhere.invalid"]).ask([MX], {})
    (answer,) = found[MX]
    assert isinstance(answer, NoAnswer)
    assert "cannot be found" in answer.why


@pytest.mark.parametrize(
    ("server", "address"),
    [
        ("10.0.0.53", ("10.0.0.53", 53)),
        ("dns.example:5353", ("dns.example", 5353)),
        ("[2001:db8::53]:54", ("2001:db8::53", 54)),
        ("2001:db8::53", ("2001:db8::53", 53)),
    ],
)
def test_how_a_name_server_is_written(server: str, address: tuple[str, int]) -> None:
    assert split(server) == address


def test_a_name_server_that_cannot_be_read_is_a_sentence() -> None:
    with pytest.raises(click.BadParameter, match="write 10"):
        checked(("dns.example:domain",))
    assert checked(("10.0.0.53",)) == ("10.0.0.53",)

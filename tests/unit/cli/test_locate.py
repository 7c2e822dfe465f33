"""`mailarray locate`: which ids it takes, and what it says of others."""

from __future__ import annotations

import click
import pytest

from mailarray.cli.locate import WHICH_ID, parse_message_id

ID = "018f" + "0" * 27 + "7"


@pytest.mark.parametrize("text", [ID, f" {ID}\n", f"{ID}.0", ID.upper()])
def test_what_the_sender_heard_and_uidls_are_taken(text: str) -> None:
    assert parse_message_id(text) == bytes.fromhex(ID)


@pytest.mark.parametrize("text", ["<abc.1@far.example>", "abc@far.example"])
def test_a_message_id_header_is_told_from_a_typing_error(text: str) -> None:
    with pytest.raises(click.ClickException) as error:
        parse_message_id(text)
    assert error.value.message == f"{text} is a Message-ID header: {WHICH_ID}"


@pytest.mark.parametrize("text", ["", "12", ID + "00", "x" * 32, f"{ID}.x", f"{ID}.99999"])
def test_anything_else_is_refused_with_the_same_advice(text: str) -> None:
    with pytest.raises(click.ClickException) as error:
        parse_message_id(text)
    assert error.value.message == f"{text!r} is not a message id: {WHICH_ID}"

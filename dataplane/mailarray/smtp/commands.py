"""The arguments of SMTP commands: addresses and parameters of MAIL and RCPT, host names, BDAT sizes.

Pure parsing, called by the session; it knows no state and asks no directory. Strict where a mistake could be
read in two ways (angle brackets, no control characters), lenient where real senders are: a space after the colon,
dots anywhere in a local part, underscores in host names, local parts of more than 64 bytes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from mailarray.smtp import replies
from mailarray.smtp.replies import Refusal

_UNICODE = "\u0080-\U0010ffff"  # RFC 6531 3.3 adds UTF8-non-ascii to atext, qtext and labels
_ATEXT = rf"[\w!#$%&'*+/=?^`{{|}}~.{_UNICODE}-]"
_LOCAL = rf'(?:{_ATEXT}++|"(?:[\x20\x21\x23-\x5b\x5d-\x7e{_UNICODE}]|\\[\x20-\x7e])*+")'
_DOMAIN = rf"(?:[A-Za-z0-9_{_UNICODE}][A-Za-z0-9_.{_UNICODE}-]*+|\[[A-Za-z0-9.:-]++\])"
_ROUTE = r"(?:@[A-Za-z0-9_.,@-]+:)?"  # RFC 5321 appendix C: a source route is accepted and ignored
_PATH = rf"(?P<path>{_LOCAL}@{_DOMAIN})"

_MAIL = re.compile(rf"FROM: ?<(?:{_ROUTE}{_PATH})?>(?P<rest>.*)", re.IGNORECASE | re.ASCII)
_RCPT = re.compile(
    rf"TO: ?<(?:{_ROUTE}{_PATH}|(?P<postmaster>postmaster))>(?P<rest>.*)",
    re.IGNORECASE | re.ASCII,
)
_MAIL_VERB = re.compile(r"FROM: ?<.*>", re.IGNORECASE)
_RCPT_VERB = re.compile(r"TO: ?<.*>", re.IGNORECASE)
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([\x21-\x3c\x3e-\x7e]+))?")
_HOST = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[A-Za-z0-9.:-]+\]")
_BDAT = re.compile(rb"([0-9]{1,18})(?: (LAST))? *", re.IGNORECASE)
_PLAIN_QUOTED = re.compile(rf'"({_ATEXT}+)"(@.*)', re.ASCII)

MAX_HOST = 255  # bytes of a HELO name, RFC 5321 4.5.3.1.2


class BadArgument(ValueError):
    """An argument that cannot be taken, with the reply that says so."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


class Mail(NamedTuple):
    """A parsed MAIL command."""

    sender: str  # without brackets, empty for the null reverse-path
    size: int | None  # announced bytes, RFC 1870
    utf8: bool  # SMTPUTF8, RFC 6531


def _text(argument: bytes) -> str:
    try:
        return argument.decode()
    except UnicodeDecodeError:
        raise BadArgument(replies.NOT_TEXT) from None


def parse_mail(argument: bytes) -> Mail:
    """Parse what follows `MAIL `. Raises BadArgument."""
    text = _text(argument)
    match = _MAIL.fullmatch(text)
    if match is None:
        raise BadArgument(replies.BAD_SENDER if _MAIL_VERB.match(text) else replies.MAIL_SYNTAX)
    rest = match["rest"]
    sender = match["path"] or ""
    if not rest:
        return Mail(sender, None, False)
    size: int | None = None
    utf8 = False
    seen: set[str] = set()
    for name, value in _parameters(rest):
        if name in seen:
            raise BadArgument(replies.BAD_PARAMETER)
        seen.add(name)
        if name == "SIZE":  # RFC 1870 section 6: up to 20 digits
            if value is None or not value.isdigit() or len(value) > 20:
                raise BadArgument(replies.BAD_PARAMETER)
            size = int(value)
        elif name == "BODY":  # RFC 6152; BINARYMIME is not offered
            if value is None or value.upper() not in ("7BIT", "8BITMIME"):
                raise BadArgument(replies.BAD_PARAMETER)
        elif name == "SMTPUTF8":
            if value is not None:
                raise BadArgument(replies.BAD_PARAMETER)
            utf8 = True
        else:
            raise BadArgument(replies.UNKNOWN_PARAMETER)
    return Mail(sender, size, utf8)


def parse_rcpt(argument: bytes) -> str:
    """The forward-path after `RCPT `, without brackets and source route. Raises BadArgument."""
    text = _text(argument)
    match = _RCPT.fullmatch(text)
    if match is None:
        raise BadArgument(replies.BAD_RECIPIENT if _RCPT_VERB.match(text) else replies.RCPT_SYNTAX)
    if match["rest"]:
        for _ in _parameters(match["rest"]):
            raise BadArgument(replies.UNKNOWN_PARAMETER)
    return match["path"] or match["postmaster"]


def _parameters(rest: str) -> list[tuple[str, str | None]]:
    if rest[0] != " ":
        raise BadArgument(replies.BAD_PARAMETER)
    found: list[tuple[str, str | None]] = []
    for word in rest.split():
        match = _PARAMETER.fullmatch(word)
        if match is None:
            raise BadArgument(replies.BAD_PARAMETER)
        found.append((match[1].upper(), match[2]))
    return found


def mailbox_name(recipient: str) -> str:
    """The address to look up: `"anna"@x` means anna@x (RFC 5321 4.1.2), other quoted forms stay as they are."""
    if recipient[0] != '"':
        return recipient
    match = _PLAIN_QUOTED.fullmatch(recipient)
    return recipient if match is None else match[1] + match[2]


def parse_host(argument: bytes) -> str | None:
    """The host name of HELO or EHLO, or None when it cannot stand in a header field."""
    if len(argument) > MAX_HOST or _HOST.fullmatch(argument) is None:
        return None
    return argument.decode("ascii")


def parse_bdat(argument: bytes) -> tuple[int, bool] | None:
    """Chunk size in bytes and whether it is the last one (RFC 3030 section 2), or None."""
    match = _BDAT.fullmatch(argument)
    return None if match is None else (int(match[1]), match[2] is not None)

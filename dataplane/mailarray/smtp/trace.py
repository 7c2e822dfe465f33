"""The trace lines put on top of a message: `Return-Path:` and `Received:` (RFC 5321 4.4).

Pure text from the envelope; times are UTC and the names of days and months are English whatever the locale.
"""

from __future__ import annotations

import time

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def rfc5322_date(second: int) -> str:
    """A date-time as in RFC 5322 3.3; `second` counts from 1970."""
    t = time.gmtime(second)
    return (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon - 1]} {t.tm_year:04} "
        f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} +0000"
    )


class DateLine:
    """The current date-time, rendered once a second."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def at(self, now: float) -> str:
        """The date-time for a time in seconds since 1970."""
        second = int(now)
        if second != self._second:
            self._second = second
            self._text = rfc5322_date(second)
        return self._text


def received_from(helo: str, literal: str, hostname: str) -> str:
    """The part of `Received:` that stays the same for a session."""
    return f"Received: from {helo} ({literal})\r\n\tby {hostname} with "


def protocol_name(*, extended: bool, tls: bool, utf8: bool) -> str:
    """The `with` keyword (RFC 3848; RFC 6531 section 4.3 for UTF8SMTP)."""
    name = "UTF8SMTP" if utf8 else "ESMTP" if extended else "SMTP"
    return name + "S" if tls and (extended or utf8) else name


def trace_lines(sender: str, received: str, protocol: str, recipient: str | None, date: str) -> bytes:
    """Both lines. `recipient` is None unless it is the only one: `for` must not tell it to others (RFC 5321 7.6)."""
    clause = "" if recipient is None else f"\r\n\tfor <{recipient}>"
    return f"Return-Path: <{sender}>\r\n{received}{protocol}{clause}; {date}\r\n".encode()

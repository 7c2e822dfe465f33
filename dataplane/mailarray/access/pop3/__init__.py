"""POP3 as a sans-io protocol: bytes in, events and reply bytes out. No socket, clock or mailbox is known here."""

from mailarray.access.pop3.commands import MAX_LINE, Command, LineReader, LineTooLong, parse
from mailarray.access.pop3.events import Close, Event, Flush, Login, Retrieve, StartTls, Update
from mailarray.access.pop3.machine import Listed, Offer, Pop3Machine, ProtocolMisuse, State
from mailarray.access.pop3.stuffing import DotStuffer, TopCutter

__all__ = [
    "MAX_LINE",
    "Close",
    "Command",
    "DotStuffer",
    "Event",
    "Flush",
    "LineReader",
    "LineTooLong",
    "Listed",
    "Login",
    "Offer",
    "Pop3Machine",
    "ProtocolMisuse",
    "Retrieve",
    "StartTls",
    "State",
    "TopCutter",
    "Update",
    "parse",
]
